"""Encoder-decoder language models: a text to read and one to write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from know_hf.tasks.classification import load_tokenizer, longest_text
from know_hf.tasks.labels import TEXTS
from know_hf.tasks.language import decoder_of, likeliest_tokens, masked_accuracy
from know_hf.tasks.shared import mapped
from know_hf.tasks.task import Candidates, Columns, Labels, Preprocessing, Score, Source, task

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

#: Names that tell the text to write from the one to read; the first that is there counts.
TARGETS = ("target", "target_text", "summary", "highlights", "answer", "response", "output")


def _find(candidates: Candidates) -> str:
    named = [name for name in TARGETS if name in candidates.texts][:1]
    others = [name for name in candidates.texts if name not in (candidates.inputs or [])]
    return candidates.only(named or others, "text to write", "label_column")


def _matches(candidates: Candidates) -> bool:
    texts = candidates.texts
    return candidates.unlabelled and not candidates.from_images and len(texts) == 2 and bool({*TARGETS} & {*texts})


@task(
    "text2text-generation",
    matches=_matches,
    inputs=TEXTS,
    labels=Labels(_find, written=True),
    auto_class="AutoModelForSeq2SeqLM",
    score=Score("masked_accuracy"),
    metrics=lambda classes: masked_accuracy,
    keep=likeliest_tokens,
    head=decoder_of,
)
def preprocessing(
    model: PreTrainedModel, source: Source, columns: Columns, processing_class: Any, *, max_length: int | None = None
) -> Preprocessing:
    """Tokens to read, ``(n, longest text)`` int64, with their mask, and those to write, filled up with -100.

    Raises:
        FileNotFoundError: If there is no tokenizer.
    """
    from transformers import DataCollatorForSeq2Seq

    tokenizer = processing_class or load_tokenizer(model, source)
    limit = longest_text(model, tokenizer, max_length)

    def apply(dataset: Dataset) -> Dataset:
        def tokenize(batch: dict[str, list]) -> dict[str, Any]:
            return dict(tokenizer(
                batch[columns.inputs[0]], text_target=batch[columns.label], truncation=True, max_length=limit
            ))  # fmt: skip

        return mapped(dataset, tokenize, desc="Tokenizing")

    # Labels are made the decoder's inputs by the model, which knows the mark that it begins with.
    return Preprocessing(apply, DataCollatorForSeq2Seq(tokenizer, model), tokenizer)
