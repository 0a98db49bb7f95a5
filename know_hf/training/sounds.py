"""Folders of sounds, read without a decoder of sounds."""

import os
from pathlib import Path

from datasets import Audio, ClassLabel, Dataset, Features, Value, load_dataset, load_dataset_builder
from datasets.packaged_modules.audiofolder.audiofolder import AudioFolder

from know_hf.installing import missing
from know_hf.tasks.audio import has_decoder


def needs_no_decoder(dataset: str, config: str | None = None) -> bool:
    """Whether data are a local folder with a folder of sounds for each class, and nothing installed decodes sounds.

    The reader of `datasets` for such folders asks for a decoder though it stores no more than the files' paths.

    Raises:
        ImportError: If a table tells of the sounds, which only that reader joins with them.
    """
    if not Path(dataset).is_dir() or has_decoder() or not _holds_sounds(dataset):
        return False
    builder = load_dataset_builder(dataset, config)
    if not isinstance(builder, AudioFolder):
        return False
    if tables := [file for file in _files(builder) if Path(file).name in AudioFolder.METADATA_FILENAMES]:
        needed = missing(f"{tables[0]} lies beside sounds, and reading both needs", "torchcodec", "audio")
        raise ImportError(f"{needed} Or put the sounds in a folder for each class.", name="torchcodec")
    return True


def load_sounds(dataset: str, config: str | None, split: str) -> Dataset:
    """Reads a folder for which [`needs_no_decoder`] is true.

    Args:
        dataset: The folder: ``high/1.wav``, ``low/2.wav`` …, below one folder for each split if it has several.
        config: Its configuration, if it has several.
        split: As for ``load_dataset``.

    Returns:
        The same as ``load_dataset``: ``audio``, the files in place, and ``label``, by the names of their folders.
    """
    files = [Path(file) for file in _files(load_dataset_builder(dataset, config))]
    classes = sorted({file.parent.name for file in files if file.suffix.lower() in AudioFolder.EXTENSIONS})
    features = Features({"audio": Value("string"), "label": ClassLabel(names=classes)})
    paths = load_dataset(dataset, config, split=split, features=features)
    stored = Features({**features, "audio": {"bytes": Value("binary"), "path": Value("string")}})
    placed = paths.map(
        lambda rows: {"audio": [{"bytes": None, "path": path} for path in rows["audio"]]}, batched=True, features=stored
    )
    return placed.cast_column("audio", Audio())


def _holds_sounds(folder: str) -> bool:
    """Whether any file may be a sound by its name: without asking the reader, who looks at all of them."""
    names = (name for _, _, files in os.walk(folder) for name in files)
    return any(os.path.splitext(name)[1].lower() in AudioFolder.EXTENSIONS for name in names)


def _files(builder: AudioFolder) -> list[str]:
    return [str(file) for files in (builder.config.data_files or {}).values() for file in files]
