"""Causal language models and image captioning: answers that are text."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from know_hf.metrics import scores
from know_hf.tasks.classification import load_tokenizer
from know_hf.tasks.images import IMAGES, image_reader
from know_hf.tasks.labels import TEXTS
from know_hf.tasks.shared import first, mapped, on_reading
from know_hf.tasks.task import Candidates, Columns, Labels, Preprocessing, Score, Source, task

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import EvalPrediction, PreTrainedModel

#: Names that tell a caption from other texts.
NAMES = ("caption", "captions", "text", "sentence")
#: Longest block of a language model, unless max_length says otherwise.
LONGEST_BLOCK = 1024


def likeliest_tokens(outputs: Any, labels: Tensor) -> Tensor:
    """The token with the highest score at every place, given those before: ``(n, length)`` int64."""
    return first(outputs).argmax(-1)


def masked_accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Share of the captions' tokens that are predicted right, given those before; -100 does not count.

    Source: paper Table 4.
    """
    return {"masked_accuracy": scores.accuracy(np.asarray(prediction.predictions), prediction.label_ids)}


def decoder_of(model: nn.Module, classes: int) -> nn.Module:
    """The part that writes, which is drawn anew for a new task, with what brings pictures to its width.

    Raises:
        ValueError: If there is none.

    Source: paper Table 4.
    """
    if not isinstance(found := getattr(model, "decoder", None), nn.Module):
        raise ValueError(f"{type(model).__name__} has no decoder of its own to draw anew.")
    projection = getattr(model, "enc_to_dec_proj", None)
    return found if projection is None else nn.ModuleList([found, projection])


def _find(candidates: Candidates) -> str:
    texts = candidates.texts
    return candidates.only([name for name in texts if name in NAMES] or texts, "caption", "label_column")


def _captioned(candidates: Candidates) -> bool:
    if not candidates.from_images:
        return False
    told = candidates.label in candidates.texts and candidates.label in NAMES
    return told or bool(candidates.unlabelled and len(candidates.images) == 1 and candidates.texts)


@task(
    "image-to-text",
    matches=_captioned,
    inputs=IMAGES,
    labels=Labels(_find),
    auto_class="AutoModelForImageTextToText",
    score=Score("masked_accuracy"),
    metrics=lambda classes: masked_accuracy,
    keep=likeliest_tokens,
    head=decoder_of,
)
def caption_preprocessing(
    model: PreTrainedModel,
    source: Source,
    columns: Columns,
    processing_class: Any,
    *,
    image_size: int | None = None,
    max_length: int | None = None,
) -> Preprocessing:
    """Pixels, ``(n, c, h, w)``, and captions with their end marked, ``(n, longest caption)``, filled up with -100.

    Raises:
        FileNotFoundError: If there is no tokenizer.
    """
    # A processor of both kinds has its tokenizer inside.
    tokenizer = getattr(processing_class, "tokenizer", processing_class) or load_tokenizer(model, source)
    config = model.config
    vision = next(
        (own for name in ("encoder", "vision_config") if (own := getattr(config, name, None)) is not None), config
    )
    reader = image_reader(vision, source, image_size, given=processing_class)
    if reader.processor is None and image_size is None and isinstance(own := getattr(vision, "image_size", None), int):
        reader = image_reader(vision, source, own)
    decoder = next((own for name in ("decoder", "text_config") if (own := getattr(config, name, None))), config)
    limit = max_length or min(tokenizer.model_max_length, getattr(decoder, "max_position_embeddings", 512) - 1)
    end = tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id

    def transform(batch: dict[str, list]) -> dict[str, Any]:
        words = tokenizer(
            batch[columns.label], add_special_tokens=False, truncation=True, max_length=limit - 1, verbose=False
        )
        return {
            "pixel_values": reader(batch[columns.inputs[0]]),
            "labels": [torch.tensor([*caption, end]) for caption in words["input_ids"]],
        }

    def collate(rows: list[dict]) -> dict[str, Tensor]:
        captions = pad_sequence([row["labels"] for row in rows], batch_first=True, padding_value=-100)
        return {"pixel_values": torch.stack([row["pixel_values"] for row in rows]), "labels": captions}

    both = tokenizer
    if reader.companion is not None:  # saved together, so that a checkpoint reads pictures as its encoder did
        from transformers import VisionTextDualEncoderProcessor

        both = VisionTextDualEncoderProcessor(reader.companion, tokenizer)
    return Preprocessing(on_reading(columns, transform), collate, both)


def log_probabilities(outputs: Any, labels: Tensor) -> Tensor:
    """Log probability (natural) of every token but the first, given those before.

    Args:
        outputs: Scores ``(n, length, vocabulary)``, alone or first of several.
        labels: ``(n, length)``; what stands at negative ones does not count.

    Returns:
        ``(n, length - 1)`` float32.
    """
    found = first(outputs)[:, :-1].float().log_softmax(-1)
    return found.gather(-1, labels[:, 1:].clamp(min=0).unsqueeze(-1)).squeeze(-1)


def perplexity(prediction: EvalPrediction) -> dict[str, float]:
    """Perplexity a token, of what [`log_probabilities`] kept."""
    return {"perplexity": scores.perplexity(prediction.predictions, prediction.label_ids[:, 1:])}


def _plain_text(candidates: Candidates) -> bool:
    return candidates.unlabelled and len(candidates.texts) == 1 and candidates.texts == list(candidates.features)


@task(
    "text-generation",
    matches=_plain_text,
    inputs=TEXTS,
    labels=Labels(find=None, written=True, rows=False),
    auto_class="AutoModelForCausalLM",
    score=Score("perplexity", percent=False, higher_is_better=False),
    metrics=lambda classes: perplexity,
    keep=log_probabilities,
    head=lambda model, classes: model.get_output_embeddings(),
)
def text_preprocessing(
    model: PreTrainedModel, source: Source, columns: Columns, processing_class: Any, *, max_length: int | None = None
) -> Preprocessing:
    """Blocks of all rows' tokens one after the other, ``(n, block)`` int64, with line breaks between the rows.

    Raises:
        FileNotFoundError: If there is no tokenizer.
        ValueError: As it is applied, if a text is shorter than one block.
    """
    from transformers import default_data_collator

    tokenizer = processing_class or load_tokenizer(model, source)
    longest = getattr(model.config, "max_position_embeddings", LONGEST_BLOCK)
    size = max_length or min(tokenizer.model_max_length, longest, LONGEST_BLOCK)

    def cut(batch: dict[str, list]) -> dict[str, list]:
        rows = [text if text.endswith("\n") else f"{text}\n" for text in batch[columns.inputs[0]]]
        tokens = list(chain.from_iterable(tokenizer(rows, add_special_tokens=False, verbose=False)["input_ids"]))
        blocks = [tokens[at : at + size] for at in range(0, len(tokens) - size + 1, size)]
        return {"input_ids": blocks, "labels": blocks}

    def apply(dataset: Dataset) -> Dataset:
        found = mapped(dataset, cut, batch_size=10_000, desc="Tokenizing")
        if not len(found):
            raise ValueError(f"The text has less than one block of {size} tokens; lower max_length.")
        return found

    return Preprocessing(apply, default_data_collator, tokenizer)
