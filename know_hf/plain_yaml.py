"""YAML of plain data: what a recipe is read from, whoever wrote it.

Aliases and merges may stand for more than fits any memory, texts may be read as dates, names as truths: all that is
refused, and the place named.
"""

from functools import cache
from pathlib import Path
from typing import Any

from know_hf.reading import LARGEST, check_text, shown

#: Bytes of a recipe, values that it may come to with all its aliases written out, and how deep they may lie.
MOST_BYTES, MOST_VALUES, DEEPEST = 1 << 18, 20_000, 50


def read_yaml(path: str | Path) -> Any:
    """Reads a file of texts, numbers, truths, lists, and mappings whose names are texts.

    Raises:
        OSError: If it is not there or cannot be read.
        ValueError: If it holds something else, or more than any recipe.
    """
    check_text(str(path), "the name")
    with open(path, "rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"{path} has more than {MOST_BYTES >> 10} kB: it is no recipe.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not plain YAML: {error}") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> Any:
    """Reads a text as [`read_yaml`] reads a file; ``where`` names it in the ``ValueError`` for what it cannot hold."""
    import yaml

    try:
        value = yaml.load(text, Loader=_loader())
        _size(value, "", (), {})
        return value
    except RecursionError as error:
        raise ValueError(f"{where} is not plain YAML: it is nested too deeply.") from error
    except Exception as error:  # the library raises many types for one thing: a text that is none
        raise ValueError(f"{where} is not plain YAML: {str(error) or type(error).__name__}") from error


def _size(value: Any, place: str, within: tuple[int, ...], known: dict[int, int]) -> int:
    """Counts the values with aliases written out; raises ``ValueError`` for what is not plain, or too much of it."""
    if not isinstance(value, (dict, list)):
        _check_scalar(value, place)
        return 1
    if id(value) in within:
        raise ValueError(f"{place} holds itself.")
    if len(within) == DEEPEST:
        raise ValueError("it is nested too deeply.")
    if id(value) not in known:
        total = 1
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(value, dict):
                if not isinstance(name, str):
                    raise ValueError(f"the name {shown(name)} is not text; put it in quotation marks.")
                check_text(name, "the name")
            total += _size(inner, f"{place}.{name}"[-80:], (*within, id(value)), known)
            if total > MOST_VALUES:
                raise ValueError(f"with its aliases it holds more than {MOST_VALUES:,} values.")
        known[id(value)] = total
    return known[id(value)]


def _check_scalar(value: Any, place: str) -> None:
    name = place.removeprefix(".") or "its content"
    if isinstance(value, str):
        check_text(value, name)
    elif isinstance(value, int) and not -LARGEST < value < LARGEST:
        raise ValueError(f"{name} is {shown(value)}, which nothing here counts to.")
    elif value is not None and not isinstance(value, (bool, int, float)):
        raise ValueError(f"{name} is a {type(value).__name__}; put it in quotation marks if text is meant.")


@cache
def _loader() -> type:
    """YAML's loader of plain data, which would let the last of two equal names win, and merges grow without end."""
    import yaml

    class Loader(yaml.SafeLoader):
        values = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            self.values += 1
            if self.values > MOST_VALUES:
                raise yaml.YAMLError(f"it holds more than {MOST_VALUES:,} values")
            return super().compose_node(parent, index)

        # Its time grows with the square of the depth, so that it is told to stop as it reads.
        def fetch_flow_collection_start(self, token_class: Any) -> None:
            if self.flow_level > DEEPEST:
                raise yaml.YAMLError("it is nested too deeply")
            super().fetch_flow_collection_start(token_class)

        def add_indent(self, column: int) -> bool:
            if len(self.indents) > DEEPEST:
                raise yaml.YAMLError("it is nested too deeply")
            return super().add_indent(column)

        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)
            seen = set()
            for key, _ in node.value:
                if isinstance(key.value, str) and "merge" not in key.tag:
                    if key.value in seen:
                        raise yaml.YAMLError(f"{key.value!r} is there twice")
                    seen.add(key.value)
            return node

        def flatten_mapping(self, node: Any) -> None:
            super().flatten_mapping(node)
            if len(node.value) > MOST_VALUES:
                raise yaml.YAMLError(f"with its merges it holds more than {MOST_VALUES:,} values")

    return Loader
