"""Data in files and folders: which can be read, how, and what to say of those that cannot."""

import csv
import re
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Dataset, get_dataset_split_names, load_dataset
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

from know_hf.remote import NONSENSE, bounded, public
from know_hf.tasks.labels import is_text
from know_hf.text import without_secrets

#: Endings of files that are a data set by themselves → the reader of `datasets` for them.
FILES = {
    ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet", ".txt": "text",
    ".arrow": "arrow",
}  # fmt: skip
#: What is raised for data that are not to be had, by name or at the moment.
NOT_THERE = (DatasetNotFoundError, OSError, *NONSENSE)
# What separates the columns of a table in text: whichever its first line has most of.
_SEPARATORS = ",;\t|"
# What the library says of a split without rows.
_NO_ROWS = re.compile(r'Instruction "(.*)" corresponds to no data')


@bounded()
def split_names(dataset: str, config: str | None = None) -> list[str] | None:
    """Names of the splits of a data set or of its configuration; None where only loading tells, as of a file.

    Raises:
        FileNotFoundError: If it is neither local nor reachable on the Hub.
    """
    if Path(dataset).is_file():
        return None
    try:
        return get_dataset_split_names(str(dataset), config)
    except NOT_THERE as error:
        raise unreachable(str(dataset), error) from error
    except Exception as error:
        raise unreadable(f"Data set {str(dataset)!r} cannot be read", error) from error


def unreachable(name: str, error: Exception) -> Exception:
    """What to raise for data that are not to be had; of a folder with something to read the error itself."""
    if Path(name).is_dir():
        return _nothing_in(Path(name)) if isinstance(error, FileNotFoundError) else error
    if Path(name).suffix in FILES:
        return FileNotFoundError(f"Data file {name} does not exist.")
    shown = without_secrets(name)
    return FileNotFoundError(
        f"Data set {shown!r} is neither a local folder nor reachable on the Hub. Offline, pass the path "
        f"of a folder of parquet, csv or image files. ({public(error)})"
    )


def _nothing_in(folder: Path) -> FileNotFoundError:
    there = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    few = f"holds nothing that can be read ({', '.join(there[:3])}{' …' if len(there) > 3 else ''})"
    return FileNotFoundError(
        f"Data folder {folder} {few if there else 'is empty'}: put {', '.join(FILES)} files there, or images in a "
        "folder for each class."
    )


def unreadable(what: str, error: Exception) -> Exception:
    """What to raise for data that are there and cannot be read: the libraries have many types for that."""
    cause = error.__cause__ if isinstance(error, DatasetGenerationError) and error.__cause__ else error
    if isinstance(cause, (OSError, ImportError, MemoryError)):  # a full disk, a package that is not there
        return cause
    if several := re.search(r"available configs: \[(.*)\]", str(cause)):
        return ValueError(f"{what}: it has several configurations, choose one by dataset_config: {several[1]}.")
    first = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
    if found := _NO_ROWS.match(first):
        return ValueError(
            f"{what}: it has no rows{'' if found[1] == 'train' else f' in {found[1]}'}, only columns perhaps."
        )
    hint = " Save it as UTF-8." if isinstance(cause, UnicodeError) else ""
    return ValueError(f"{what}: {first.rstrip('.')}.{hint}" if hint else f"{what}: {first}")


def load_file(path: Path, split: str) -> Dataset:
    """Reads a file that is a data set by itself.

    Args:
        path: The file.
        split: ``"train"``, or a slice of it.

    Raises:
        ValueError: If it is of another type than its name says, empty, or damaged.
    """
    suffix = path.suffix.lower()
    if suffix not in FILES:
        raise ValueError(f"{path} is no data file that can be read; there are {', '.join(FILES)}.")
    if not path.stat().st_size:
        raise ValueError(f"{path} cannot be read as {FILES[suffix]}: it is empty.")
    try:
        options = _table_options(path) if FILES[suffix] == "csv" else {}
        found = load_dataset(FILES[suffix], data_files=str(path.resolve()), split=split, **options)
        if options.get("sep") == "\t" and _swallowed(found):  # a quotation mark that no other one closes
            options["quoting"] = csv.QUOTE_NONE
            found = load_dataset(FILES[suffix], data_files=str(path.resolve()), split=split, **options)
        return found
    except Exception as error:
        raise unreadable(f"{path} cannot be read as {FILES[suffix]}", error) from error


def _table_options(path: Path) -> dict[str, Any]:
    """How a table in text is written; programs of some countries separate by ``;``, and one says so in a first line."""
    with open(path, encoding="utf-8-sig") as file:
        first, second = file.readline(), file.readline()
    if first.strip().lower().startswith("sep=") and len(first.strip()) == 5:
        _check_header(second, separator := first.strip()[4])
        return {"sep": separator, "skiprows": 1, "skipinitialspace": True}
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    names = {mark: len(next(csv.reader([first], delimiter=mark), [])) for mark in _SEPARATORS}
    separator = max(names, key=lambda mark: (names[mark], mark == usual))
    _check_header(first, separator)
    return {"sep": separator, "skipinitialspace": separator != "\t"}


def _check_header(line: str, separator: str) -> None:
    """Refuses two columns of one name, of which one would get another and be read or not by chance."""
    names = [name.strip() for name in next(csv.reader([line], delimiter=separator), [])]
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        places = [str(place) for place, name in enumerate(names, 1) if name == twice]
        raise ValueError(f"the columns {' and '.join(places)} are both called {twice!r}; rename or remove one.")


def check_tables(folder: Path, rows: bool = False) -> None:
    """Looks at the first lines of the tables in text that lie in a folder; nothing else is looked at.

    Args:
        folder: The folder, or anything that is none.
        rows: Whether each has to have some, as one of several splits need not.

    Raises:
        ValueError: If one has two columns of one name, or no rows.
    """
    for path in sorted([*folder.glob("[!.]*.[ct]sv"), *(folder / "data").glob("[!.]*.[ct]sv")]):
        try:
            with open(path, encoding="utf-8-sig") as file:
                lines = [line for line in islice(file, 2) if line.strip()]
            if rows and len(lines) < 2:
                raise ValueError("it has no rows, only columns." if lines else "it is empty.")
            _check_header("".join(lines[:1]), "\t" if path.suffix == ".tsv" else ",")
        except ValueError as error:
            raise unreadable(f"{path} cannot be read as csv", error) from error


def _swallowed(dataset: Dataset) -> bool:
    """Whether a text of a tab-separated table holds whole lines of it."""
    texts = [name for name, feature in dataset.features.items() if is_text(feature)]
    rows = dataset.select_columns(texts) if texts else []
    return any("\t" in text for row in rows for text in row.values() if text)
