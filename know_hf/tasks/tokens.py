"""Token classification: a class for every word."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from know_hf.metrics import scores
from know_hf.tasks.classification import load_tokenizer, longest_text
from know_hf.tasks.labels import is_list, is_text, label_lookup
from know_hf.tasks.lists import check_lists, list_names
from know_hf.tasks.shared import first, last_layer_of, mapped
from know_hf.tasks.task import Candidates, Columns, Inputs, Labels, Preprocessing, Score, Source, task

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import EvalPrediction, PreTrainedModel

#: Names that tell lists of words from other lists, and the classes of words; the first that is there counts.
WORDS = ("tokens", "words")
CLASSES = ("ner_tags", "tags", "labels", "label", "pos_tags", "upos", "chunk_tags")


def likeliest_classes(outputs: Any, labels: Tensor) -> Tensor:
    """The class with the highest score at every token, ``(n, length)`` int64."""
    return first(outputs).argmax(-1)


def word_metrics(classes: int) -> Callable[[EvalPrediction], dict[str, float]]:
    """Makes a ``compute_metrics``: F1 averaged over the classes that occur, and the share of words that are right."""

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        confusion = scores.confusion_matrix(prediction.predictions, prediction.label_ids, classes)
        found = scores.accuracy(prediction.predictions, prediction.label_ids)
        return {"macro_f1": scores.macro_f1(confusion), "token_accuracy": found}

    return compute


def _find(candidates: Candidates) -> str:
    named = candidates.inputs or WORDS
    lists = [name for name, feature in candidates.features.items() if is_list(feature) and name not in named]
    return candidates.only([name for name in CLASSES if name in lists][:1] or lists, "label", "label_column")


def _matches(candidates: Candidates) -> bool:
    features, words = candidates.features, candidates.inputs or WORDS
    answers = CLASSES if candidates.label is None else (candidates.label,)
    return any(n in features and _is_words(features[n]) for n in words) and any(
        n in features and is_list(features[n]) for n in answers
    )


def check_words(dataset: Dataset, columns: Columns, classes: int, what: str) -> None:
    """Raises ``ValueError`` for classes that are none, as [`check_lists`], and rows with more of them than words."""
    check_lists(dataset, columns, classes, what)
    _check_lengths(dataset, columns, what)


def _check_lengths(dataset: Dataset, columns: Columns, what: str) -> None:
    import pyarrow.compute as pc

    names = [columns.inputs[0], columns.label]
    lists = dataset.select_columns(names).with_format("arrow")[:]
    words, classes = [pc.list_value_length(lists[name]).to_pylist() for name in names]
    odd = [row for row, (many, own) in enumerate(zip(words, classes, strict=True)) if many != own]
    if odd:
        raise ValueError(
            f"The {what} have another number of words than of classes in {len(odd)} of {len(words)} rows: row {odd[0]} "
            f"has {words[odd[0]]} words in column {names[0]!r} and {classes[odd[0]]} classes in {names[1]!r}. Every "
            "word needs one; mend or leave out such rows."
        )


def _is_words(feature: Any) -> bool:
    return is_list(feature) and is_text(feature.feature)


@task(
    "token-classification",
    matches=_matches,
    inputs=Inputs("lists of words", _is_words, 'List(Value("string"))', sets=[(name,) for name in WORDS]),
    labels=Labels(
        _find, names=list_names, check=check_words, matched=True, fewer_will_do=lambda names: not names,
    ),
    auto_class="AutoModelForTokenClassification",
    score=Score("macro_f1"),
    metrics=word_metrics,
    keep=likeliest_classes,
    head=last_layer_of,
)  # fmt: skip
def preprocessing(
    model: PreTrainedModel, source: Source, columns: Columns, processing_class: Any, *, max_length: int | None = None
) -> Preprocessing:
    """Tokens, ``(n, longest text)`` int64, with their mask, and labels alike, filled up with -100.

    The class of a word is that of its first token; its other tokens count as little as marks do.

    Raises:
        FileNotFoundError: If there is no tokenizer.
        ValueError: If the tokenizer does not tell which word a token is of, or, as it is applied, if a row has more
            words than classes or fewer.
    """
    from transformers import DataCollatorForTokenClassification

    tokenizer = processing_class or load_tokenizer(model, source)
    if not tokenizer.is_fast:
        raise ValueError(f"The {type(tokenizer).__name__} does not tell which word a token is of; take a fast one.")
    limit = longest_text(model, tokenizer, max_length)

    def apply(dataset: Dataset) -> Dataset:
        _check_lengths(dataset, columns, "data")
        lookup = label_lookup(dataset, columns)

        def tokenize(batch: dict[str, list]) -> dict[str, Any]:
            words, classes = batch[columns.inputs[0]], batch[columns.label]
            encoded = tokenizer(words, is_split_into_words=True, truncation=True, max_length=limit)
            labels = []
            for row, own in enumerate(classes):
                places = encoded.word_ids(row)
                firsts = [p is not None and (i == 0 or p != places[i - 1]) for i, p in enumerate(places)]
                labels.append([
                    (own[p] if lookup is None else lookup[own[p]]) if begins else -100
                    for p, begins in zip(places, firsts, strict=True)
                ])  # fmt: skip
            return {**encoded, "labels": labels}

        return mapped(dataset, tokenize, desc="Tokenizing")

    return Preprocessing(apply, DataCollatorForTokenClassification(tokenizer), tokenizer)
