"""The files that say how a model wants its inputs, by the names that transformers and models' own code give them."""

from collections.abc import Iterable
from pathlib import Path

#: What tokenizers are stored in.
TOKENIZERS = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "tokenizer.model.v3", "special_tokens_map.json",
    "added_tokens.json", "tekken.json", "vocab.json", "vocab.txt", "vocab.bpe", "vocab-*.json", "*_vocab.json",
    "merges.txt", "prophetnet.tokenizer", "*.model", "*.spm", "*.codes", "*.tiktoken", "dict.txt", "dict.*.txt",
    "emoji.json", "normalizer.json", "word_shape.json", "word_pronunciation.json", "byte_maps.json",
)  # fmt: skip
#: Those of image processors, feature extractors and processors.
PROCESSORS = ("*processor_config.json", "audio_tokenizer_config.json")
#: How chats are written as texts.
TEMPLATES = ("chat_template.jinja", "chat_template.json")
#: Of these none tells that there is a tokenizer: they are settings of one.
_SETTINGS = ("special_tokens_map.json", "added_tokens.json", "merges.txt", "normalizer.json", *TEMPLATES)


def files_like(folder: Path, patterns: Iterable[str]) -> list[Path]:
    """The files of a folder itself with such names, each once, by name."""
    found = {path.name: path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return [found[name] for name in sorted(found)]


def reader_files(folder: Path) -> list[Path]:
    """The files of a folder's tokenizer or processor; none where it brings none.

    Example:
        >>> from pathlib import Path
        >>> from know_hf.models.reader_files import reader_files
        >>> reader_files(Path("a/folder/without/one"))
        []
    """
    found = files_like(folder, (*TOKENIZERS, *PROCESSORS, *TEMPLATES))
    return found if any(path.name not in _SETTINGS for path in found) else []
