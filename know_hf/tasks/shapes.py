"""Data in shapes of their own that no task reads, though it is plain which one they are for: two lines turn them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from know_hf.tasks.labels import is_list, is_text

if TYPE_CHECKING:
    from datasets import Features

# What a row of instructions calls what is asked, what it is asked about, and what is answered.
_ASKED, _ABOUT, _ANSWERED = "instruction", ("input", "context"), ("output", "response")


def hint(features: Features) -> str | None:
    """What to do with data of a widespread shape that no task reads as it is.

    Args:
        features: The columns.

    Returns:
        The name of the shape, and two lines of Python that make of ``dataset`` what a task reads, and a file of that;
        None for any other shape.

    Example:
        >>> from datasets import Dataset
        >>> from know_hf.tasks.shapes import hint
        >>> rows = {"translation": [{"de": "Haus", "en": "house"}]}
        >>> hint(Dataset.from_dict(rows).features)[:58]
        "The column 'translation' holds translations (de, en), as W"
    """
    for name, feature in features.items():
        if is_list(feature) and isinstance(feature.feature, dict) and {"from", "value"} <= feature.feature.keys():
            roles = '{"human": "user", "gpt": "assistant"}.get(m["from"], m["from"])'
            return _told(
                f"The column {name!r} holds conversations in the shape of ShareGPT (from, value)",
                f'{{"messages": [{{"role": {roles}, "content": m["value"]}} for m in row[{name!r}]]}}',
                "messages",
            )
    texts = [name for name, feature in features.items() if is_text(feature)]
    answers = [name for name in _ANSWERED if name in texts]
    if _ASKED in texts and answers:
        asked = [_ASKED, *(name for name in _ABOUT if name in texts)]
        return _told(
            f"The columns {', '.join([*asked, answers[0]])} are instructions in the shape of Alpaca",
            f'{{"prompt": "\\n\\n".join(row[n] for n in {asked!r} if row[n]) + "\\n\\n", '
            f'"completion": row[{answers[0]!r}]}}',
            "prompt and completion",
        )
    for name, feature in features.items():
        languages = _languages(name, feature)
        if len(languages) > 1:
            first, second = languages[:2]
            return _told(
                f"The column {name!r} holds translations ({', '.join(languages)}), as WMT's data do",
                f'{{"text": row[{name!r}][{first!r}], "target": row[{name!r}][{second!r}]}}',
                "text and target",
            )
    return None


def _languages(name: str, feature: Any) -> list[str]:
    from datasets import Translation

    if isinstance(feature, Translation):
        return list(feature.languages)
    plain = isinstance(feature, dict) and name == "translation" and all(map(is_text, feature.values()))
    return list(feature) if plain else []


def _told(what: str, row: str, made: str) -> str:
    # Statements of one line each, so that they are still such where a message is printed as one.
    return (
        f"{what}, which is not read as it is. Two lines make {made} of it, and a file for --dataset: "
        f"dataset = dataset.map(lambda row: {row}, remove_columns=dataset.column_names); "
        'dataset.to_json("data.jsonl")'
    )
