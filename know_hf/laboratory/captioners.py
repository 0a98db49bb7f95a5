"""Starts of a captioning task that have no decoder: each is joined to the same one."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from datasets import Dataset
from transformers import AutoModel, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from know_hf.laboratory.arms import Arm
from know_hf.laboratory.options import Decoder
from know_hf.models.joining import decoder_config, join, join_start
from know_hf.records import file_name
from know_hf.remote import bounded
from know_hf.store import inside
from know_hf.tasks import Columns
from know_hf.tasks.words import word_tokenizer

#: The task of captions.
CAPTIONING = "image-to-text"


class Writer:
    """A decoder, its tokenizer included, that starts are joined to.

    Args:
        decoder: What it is.
        captions: The training data.
        columns: What is read of them.
        image_size: Side of the pictures in pixels, if it is not that of the encoder's configuration.

    Raises:
        FileNotFoundError: If there is no such tokenizer.
        ValueError: If the data are no captions, or it is no decoder.
    """

    def __init__(self, decoder: Decoder, captions: Dataset, columns: Columns, image_size: int | None) -> None:
        if columns.task != CAPTIONING:
            raise ValueError(f"A decoder is for captions ({CAPTIONING}); the task is {columns.task}: leave it out.")
        self.image_size = image_size
        self.tokenizer = _tokenizer(decoder, captions, columns)
        self.config: PreTrainedConfig = decoder_config(decoder.architecture, self.tokenizer)

    def check(self, model: PreTrainedModel) -> None:
        """Raises ``ValueError`` if models like this one cannot be joined to it."""
        join(AutoModel.from_config(model.config), self.config, self.image_size)

    def join(self, arms: Mapping[str, Arm], root: Path, folder: Path) -> dict[str, Arm]:
        """Joins every start to it, unless that was done before.

        Args:
            arms: Name → start.
            root: Folder of what is written.
            folder: Where to write, below it.

        Returns:
            The same arms, each with the folder of its captioner.

        Raises:
            ValueError: If one cannot be joined, or a folder that is written to is a link.
        """
        joined = {}
        for name, arm in arms.items():
            target = inside(root, folder.relative_to(root) / file_name(name))
            if not target.is_dir():
                join_start(arm.checkpoint, target, self.config, self.tokenizer, self.image_size)
            joined[name] = replace(arm, folder=target)
        return joined


@bounded()
def _tokenizer(decoder: Decoder, captions: Dataset, columns: Columns) -> PreTrainedTokenizerBase:
    if decoder.tokenizer is None:
        return word_tokenizer(captions[columns.label], decoder.vocabulary, decoder.longest)
    try:
        tokenizer = AutoTokenizer.from_pretrained(decoder.tokenizer)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"There is no tokenizer in {decoder.tokenizer!r} ({error}).") from error
    if decoder.longest is not None:
        tokenizer.model_max_length = decoder.longest + 1
    return tokenizer
