"""What the files are that would be pushed: of the type that their names say, and without what must not leave."""

import ast
import io
import json
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from know_hf.checkpoints.checkpoint import check_file
from know_hf.hub.files import Upload
from know_hf.hub.pickles import holds_pickle, is_pickle
from know_hf.hub.secrets import Known, find_secret, known_here
from know_hf.model_config import ADAPTER_FILE
from know_hf.trajectory import Checkpoint

#: No text that a model needs is longer, in bytes.
LONGEST_TEXT = 256 << 20
# How files begin that hold other files, or anything at all.
_ARCHIVES = {
    "a zip archive": rb"PK(?:\x03\x04|\x05\x06)",
    "gzip": rb"\x1f\x8b\x08",
    "bzip2": rb"BZh[1-9](?:1AY&SY|\x17rE8P)",
    "xz": rb"\xfd7zXZ\x00",
    "a 7z archive": rb"7z\xbc\xaf\x27\x1c",
    "zstandard": rb"\x28\xb5\x2f\xfd",
    "a RAR archive": rb"Rar!\x1a\x07",
    "a numpy array": rb"\x93NUMPY",
    "HDF5": rb"\x89HDF\r\n\x1a\n",
    "a program": rb"\x7fELF|MZ.{2,60}?\x00\x00|\xcf\xfa\xed\xfe|\xca\xfe\xba\xbe",
    "a tar archive": rb".{257}ustar[\x00 ]",
}
_KINDS = {what: re.compile(begin, re.DOTALL) for what, begin in _ARCHIVES.items()}
# Control characters that no text has; form feeds and the like are in some. A vocabulary has them as words, and JSON has
# rules of its own.
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_VOCABULARIES = ("vocab.txt", "dict.txt", "dict.*.txt")
_TIKTOKEN = re.compile(rb"(?:[A-Za-z0-9+/]+={0,2} \d+\r?\n?)+")
# Fields of a sentencepiece model: pieces, settings of training and normalisation, samples.
_SENTENCEPIECE = (1, 2, 3, 4, 5)
_BLOCK = 1 << 24


def check_files(upload: Upload, token: str | None = None) -> None:
    """Looks into every file that would be sent.

    Args:
        upload: What would be.
        token: The one that it would be sent with, if not this machine's.

    Raises:
        TrajectoryError: If a safetensors file is damaged.
        ValueError: As [`check_content`].
    """
    known = known_here(upload.folder)
    if token:
        known.words[token] = "the token that was given"
    if found := find_secret(upload.folder.resolve().name, known):  # which the commit names
        raise ValueError(f"The name of {upload.folder.resolve().parent}'s folder holds {found}; rename it.")
    if any(name.endswith(".safetensors") and "/" not in name for name in upload.files):
        Checkpoint(upload.folder).tensors  # noqa: B018 (reads and checks the headers)
    for name in upload.files:
        check_content(upload.folder / name, known)


def check_content(path: Path, known: Known) -> None:
    """Looks into one file.

    Args:
        path: The file; its name decides what it has to be.
        known: What this machine knows of itself.

    Raises:
        TrajectoryError: If it is a damaged safetensors file.
        ValueError: If it is something else than its name says, or holds what must not leave. Never repeats a secret.
    """
    if found := find_secret(path.name, known):
        raise ValueError(f"The name of a file in {path.parent} holds {found}; rename it. Nothing was sent.")
    for text in _texts(path, known):
        if found := find_secret(text, known):
            hint = "put the base model's Hub id in its place" if path.name == ADAPTER_FILE else "remove it there"
            raise ValueError(f"{path} holds {found}; {hint} and push again. Nothing was sent.")


def _texts(path: Path, known: Known) -> Iterator[str]:
    """The texts in a file, of whatever type it is."""
    if path.suffix == ".safetensors":
        yield from _safetensors(path, known)
        return
    if path.suffix == ".parquet":
        _refuse_words(path, known)
        yield from _parquet(path)
        return
    if path.stat().st_size > LONGEST_TEXT:
        raise _other(path, f"has {path.stat().st_size:,} bytes, more than any file of its name needs")
    content = path.read_bytes()
    if re.match(rb"\x80[\x02-\x05]", content):
        raise _other(path, "looks like a pickle")
    _refuse_code(path, content)
    if path.suffix in (".model", ".spm", ".tiktoken", ".v3"):
        words = [content] if _TIKTOKEN.fullmatch(content) else None
        if words is None and path.suffix != ".tiktoken":
            words = _sentencepiece(content)
        if not words:
            raise _other(path, "is no vocabulary of sentencepiece or tiktoken")
        yield b"\n".join(words).decode("utf-8", errors="replace")
        return
    yield _text(path, content)


def _text(path: Path, content: bytes) -> str:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _other(path, f"is not text in UTF-8 ({error.reason} at byte {error.start})") from error
    listed = any(fnmatchcase(path.name, name) for name in _VOCABULARIES) and "\0" not in text
    if path.suffix != ".json" and not listed and (control := _CONTROL.search(text)):
        raise _other(path, f"is not a text: it has the character {control[0]!r}")
    try:
        if path.suffix == ".json":
            found = json.loads(text)
            if "config" in path.name and not isinstance(found, dict):
                raise _other(path, f"holds {type(found).__name__} where settings by name belong")
        elif path.suffix == ".py":
            ast.parse(text)
    except RecursionError as error:
        raise _other(path, "is nested too deeply") from error
    except (json.JSONDecodeError, SyntaxError) as error:
        raise _other(path, f"is not {'JSON' if path.suffix == '.json' else 'Python'} ({error})") from error
    return text


def _refuse_code(path: Path, content: bytes) -> None:
    for what, begin in _KINDS.items():
        if begin.match(content):
            raise _other(path, f"looks like a pickle or an archive ({what})")
    if is_pickle(content) or holds_pickle(content):
        raise _other(path, "looks like a pickle or holds one")


def _safetensors(path: Path, known: Known) -> Iterator[str]:
    start = check_file(path)
    with open(path, "rb") as file:
        yield file.read(start)[8:].decode("utf-8", errors="replace")
    _refuse_words(path, known)


def _refuse_words(path: Path, known: Known) -> None:
    """Looks through all of a file's bytes for what this machine knows for certain to be secret."""
    words, before = {word.encode(): what for word, what in known.words.items()}, b""
    longest = max(map(len, words), default=0)
    with open(path, "rb") as file:
        while words and (block := file.read(_BLOCK)):
            block = before + block
            for word, what in words.items():
                if word in block:
                    raise ValueError(f"{path} holds {what}; remove it there and push again. Nothing was sent.")
            before = block[-longest:]


def _parquet(path: Path) -> Iterator[str]:
    """Names and notes of a table, and its columns of text and bytes."""
    with open(path, "rb") as file:
        if file.read(4) != b"PAR1" or file.seek(-4, io.SEEK_END) < 4 or file.read(4) != b"PAR1":
            raise _other(path, "is not a Parquet file")
    try:
        with pq.ParquetFile(path) as file:
            notes = file.metadata.metadata or {}
            # Arrow's own note of the schema is its bytes in base64; what it says comes with the schema.
            yield "\n".join(f"{key.decode(errors='replace')}\n{value.decode(errors='replace')}"
                            for key, value in notes.items() if key != b"ARROW:schema")  # fmt: skip
            yield file.schema_arrow.to_string(truncate_metadata=False, show_field_metadata=True)
            columns = [c for c in range(file.metadata.num_columns)
                       if file.schema.column(c).physical_type in ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY")]  # fmt: skip
            names = [file.schema.column(c).path for c in columns]
            for batch in file.iter_batches(columns=names) if names else ():
                for column in batch.columns:
                    for kind in _leaves(column):
                        yield from _values(path, kind)
    except (pa.ArrowException, OSError) as error:
        raise _other(path, f"cannot be read ({error})") from error


def _leaves(column: pa.Array) -> Iterator[pa.Array]:
    """The arrays of text and bytes in a column, however it is nested."""
    kind = column.type
    if isinstance(column, pa.ExtensionArray):
        yield from _leaves(column.storage)
    elif pa.types.is_dictionary(kind):
        yield from _leaves(column.dictionary)
    elif pa.types.is_struct(kind):
        for part in column.flatten():
            yield from _leaves(part)
    elif pa.types.is_map(kind):
        yield from _leaves(column.keys)
        yield from _leaves(column.items)
    elif pa.types.is_nested(kind):
        yield from _leaves(column.flatten())
    elif not pa.types.is_null(kind) and not pa.types.is_primitive(kind):
        yield column


def _values(path: Path, column: pa.Array) -> Iterator[str]:
    values = column.unique().drop_null().to_pylist()
    for value in values:
        raw = value if isinstance(value, bytes) else str(value).encode()
        _refuse_code(path, raw)
    yield "\n".join(v.decode("utf-8", errors="replace") if isinstance(v, bytes) else str(v) for v in values)


def _sentencepiece(content: bytes) -> list[bytes] | None:
    """The words and texts of a sentencepiece model; None if the bytes are, from end to end, anything but one."""
    parts = _fields(content)
    texts = [part for _, part in parts or () if part is not None]
    if not parts or len(texts) < len(parts) or any(number not in _SENTENCEPIECE for number, _ in parts):
        return None
    if all(number != 1 for number, _ in parts):
        return None
    words: list[bytes] = []
    for part in texts:
        inner = _fields(part)
        # The bytes before a word are its length, which may look like a letter of it.
        words += [word for _, word in inner if word is not None] if inner else [part]
    return words


def _fields(content: bytes) -> list[tuple[int, bytes | None]] | None:
    """Fields of a message of protocol buffers by number, numbers themselves as None; None if it is no such message."""
    at = 0
    fields: list[tuple[int, bytes | None]] = []
    while at < len(content):
        key, at = _varint(content, at)
        if key is None:
            return None
        kind, part = key & 7, None
        if kind in (0, 2):
            size, at = _varint(content, at)
            if size is None:
                return None
            if kind == 2:
                part, at = content[at : at + size], at + size
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            return None
        if at > len(content):
            return None
        fields.append((key >> 3, part))
    return fields


def _varint(content: bytes, at: int) -> tuple[int | None, int]:
    value = shift = 0
    while at < len(content) and shift < 64:
        value |= (content[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not content[at - 1] & 0x80:
            return value, at
    return None, at


def _other(path: Path, why: str) -> ValueError:
    return ValueError(f"{path} {why}; nothing of that kind is pushed: remove or mend it. Nothing was sent.")
