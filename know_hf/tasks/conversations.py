"""Fine-tuning of language models on conversations, and on prompts with their completions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from know_hf.tasks.classification import load_tokenizer, longest_text
from know_hf.tasks.labels import is_list, is_text
from know_hf.tasks.language import log_probabilities, perplexity
from know_hf.tasks.shared import mapped
from know_hf.tasks.task import Candidates, Columns, Inputs, Labels, Preprocessing, Score, Source, task

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_WRITTEN: dict[str, Any] = {
    "auto_class": "AutoModelForCausalLM",
    "score": Score("perplexity", percent=False, higher_is_better=False),
    "metrics": lambda classes: perplexity,
    "keep": log_probabilities,
    "head": lambda model, classes: model.get_output_embeddings(),
    "hub_name": "text-generation",
}


def is_conversation(feature: Any) -> bool:
    """Whether a column holds lists of messages, each with ``role`` and ``content``."""
    inner = feature.feature if is_list(feature) else None
    return isinstance(inner, dict) and {"role", "content"} <= inner.keys()


def is_spoken(messages: list[dict[str, Any]] | None) -> bool:
    """Whether there are messages, each of which says something or calls a tool."""
    return bool(messages) and all(
        message is not None and (message["content"] is not None or message.get("tool_calls"))
        for message in messages or ()
    )


def _conversations(candidates: Candidates) -> list[str]:
    found = [name for name, feature in candidates.features.items() if is_conversation(feature)]
    return [name for name in found if name in ("messages", "conversations")] or found


def _completed(candidates: Candidates) -> bool:
    features = candidates.features
    return all(
        name in features and (is_text(features[name]) or is_conversation(features[name]))
        for name in ("prompt", "completion")
    )


@task(
    "conversation",
    matches=lambda candidates: candidates.unlabelled and bool(_conversations(candidates)),
    inputs=Inputs(
        "conversations", is_conversation, 'List({"role": Value("string"), "content": Value("string")})',
        sets=[("messages",), ("conversations",)],
    ),
    labels=Labels(find=None, written=True),
    **_WRITTEN,
)  # fmt: skip
def conversation_preprocessing(
    model: PreTrainedModel, source: Source, columns: Columns, processing_class: Any, *, max_length: int | None = None
) -> Preprocessing:
    """Tokens of whole conversations, ``(n, longest)`` int64, with their mask, as the chat template writes them.

    Every token counts in the loss, as in TRL's ``SFTTrainer`` (``assistant_only_loss=False``).

    Raises:
        FileNotFoundError: If there is no tokenizer.
        ValueError: If it has no chat template.
    """
    from transformers import DataCollatorForSeq2Seq

    tokenizer = processing_class or load_tokenizer(model, source)
    limit = longest_text(model, tokenizer, max_length)
    _check_template(tokenizer)

    def apply(dataset: Dataset) -> Dataset:
        def tokenize(batch: dict[str, list]) -> dict[str, Any]:
            ids = [_templated(tokenizer, messages)[:limit] for messages in batch[columns.inputs[0]]]
            return _rows(ids, ids)

        return mapped(dataset, tokenize, desc="Tokenizing")

    return Preprocessing(apply, DataCollatorForSeq2Seq(tokenizer), tokenizer)


@task(
    "prompt-completion",
    matches=lambda candidates: candidates.unlabelled and _completed(candidates),
    inputs=Inputs("prompts", lambda feature: is_text(feature) or is_conversation(feature), 'Value("string")',
                  sets=[("prompt",)]),
    labels=Labels(lambda candidates: "completion", written=True),
    **_WRITTEN,
)  # fmt: skip
def completion_preprocessing(
    model: PreTrainedModel, source: Source, columns: Columns, processing_class: Any, *, max_length: int | None = None
) -> Preprocessing:
    """Tokens of prompts and completions, ``(n, longest)`` int64, with their mask; the completions are the labels.

    Only tokens of completions count in the loss, as in TRL's ``SFTTrainer`` with such data. Conversations go through
    the chat template; a text is followed by the mark of an end.

    Raises:
        FileNotFoundError: If there is no tokenizer.
        ValueError: If conversations come without a chat template, or, as it is applied, if nothing of a completion is
            left within the longest text.
    """
    from transformers import DataCollatorForSeq2Seq

    tokenizer = processing_class or load_tokenizer(model, source)
    limit = longest_text(model, tokenizer, max_length)

    def apply(dataset: Dataset) -> Dataset:
        talks = is_conversation(dataset.features[columns.inputs[0]])
        if talks:
            _check_template(tokenizer)

        def pair(prompt: Any, completion: Any) -> tuple[list[int], list[int]]:
            if talks:
                spoken = completion if isinstance(completion, list) else [{"role": "assistant", "content": completion}]
                return (
                    _templated(tokenizer, prompt, add_generation_prompt=True),
                    _templated(tokenizer, [*prompt, *spoken]),
                )
            whole = tokenizer(f"{prompt}{completion}", verbose=False)["input_ids"]
            end = tokenizer.eos_token_id
            return tokenizer(prompt, verbose=False)["input_ids"], whole if whole[-1:] == [end] else [*whole, end]

        def tokenize(batch: dict[str, list], rows: list[int]) -> dict[str, Any]:
            ids, labels = [], []
            for row, prompt, completion in zip(rows, batch[columns.inputs[0]], batch[columns.label], strict=True):
                before, whole = pair(prompt, completion)
                start = _shared(before, whole)
                if start >= limit:
                    raise ValueError(
                        f"The prompt of row {row} has {start} tokens, so that nothing of its completion is left within "
                        f"{limit}: raise max_length, or leave such rows out."
                    )
                ids.append(whole[:limit])
                labels.append([-100] * start + whole[start:limit])
            return _rows(ids, labels)

        return mapped(dataset, tokenize, with_indices=True, desc="Tokenizing")

    return Preprocessing(apply, DataCollatorForSeq2Seq(tokenizer), tokenizer)


def _shared(before: list[int], whole: list[int]) -> int:
    """How many tokens the prompt has in the whole; where they touch, tokens may have merged."""
    pairs = enumerate(zip(before, whole, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(before), len(whole)))


def _rows(ids: list[list[int]], labels: list[list[int]]) -> dict[str, Any]:
    return {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids], "labels": labels}


def _templated(tokenizer: PreTrainedTokenizerBase, messages: list[dict], **options: Any) -> list[int]:
    # Columns of a table have every field in every row: what is not there is None.
    told = [{name: value for name, value in message.items() if value is not None} for message in messages]
    ids: Any = tokenizer.apply_chat_template(told, tokenize=True, return_dict=True, **options)["input_ids"]
    return list(ids)


def _check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            f"The data are conversations, and the {type(tokenizer).__name__} has no chat template to write them with: "
            "take the model's instruction-tuned version's tokenizer, or set tokenizer.chat_template and save it beside "
            "the model."
        )
