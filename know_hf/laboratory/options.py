"""Options of a comparison."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from know_hf.settings import COUNT, HUGE, TINY, Options, documented, option
from know_hf.training.options import Augmentation


@documented
@dataclass(frozen=True)
class Protocol(Options):
    """How every arm is fine-tuned; the defaults are the paper's.

    Source: paper section 5.2 and the authors' fine-tuning scripts (head and norms at Adam's own 1e-3, then cosine from
    4e-4); validation and BatchNorm treatment are ours.

    Example:
        >>> from know_hf.laboratory.options import Protocol
        >>> Protocol(head_epochs=1, epochs=10, examples=1000).batch_size
        128
    """

    head_epochs: float = option(
        10, help="Epochs with only the new head and the normalisation parameters trained.", limits=(0, 1e9)
    )
    epochs: float = option(
        100, help="Epochs with everything trained, at the learning rate asked for, cosine decay.", limits=(TINY, 1e9)
    )
    batch_size: int = option(128, help="Examples a step.", limits=(1, COUNT))
    examples: int | None = option(
        None, help="Training examples drawn for a seed; by default all that validation leaves.", limits=(1, COUNT)
    )
    validation_examples: int = option(
        1000, help="Examples held out from the training pool, to choose learning rates on.", limits=(0, COUNT)
    )
    evaluations: int = option(
        5, help="Points of the learning curve (on the validation examples), the end included.", limits=(1, 1_000_000)
    )
    new_head: bool = option(
        True,
        help="Draw a new head (of a captioner: a new decoder); without, the arm's own is kept, for more training on "
        "its own task. A language model always keeps its own.",
        flag=False,
    )
    renew_batch_norm: bool = option(
        True, help="Re-estimate BatchNorm statistics on the training examples first, in every arm.", flag=False
    )
    augmentation: Augmentation | None = option(
        None, help="Random variations of training images; none by default.", flag=False
    )
    metric: str | None = option(
        None, help="Path of a metric module as the evaluate library loads it; the task's own score by default."
    )
    channels_last: bool = option(
        False, help="Keep images and kernels in that memory order, which some processors prefer.", flag=False
    )
    training_arguments: tuple[tuple[str, Any], ...] = option(
        (), help="Further fields of TrainingArguments, such as bf16.", flag=False
    )
    head_learning_rate: float | None = option(
        1e-3,
        help="Constant learning rate of the head epochs, the same for every arm; None (null in an experiment's "
        "recipe) for the arm's own with cosine decay.",
        limits=(TINY, HUGE),
    )


@documented
@dataclass(frozen=True)
class Cell(Options):
    """One start at one or a few learning rates: each of them is a cell of the table.

    Example:
        >>> from know_hf.laboratory.options import Cell
        >>> Cell("official x8", (4e-4,), reset=True).arm
        'official reset x8'
    """

    start: str = option(
        help="naive; NAME xN, a step of a method or predictor; shrink to NAME xN, Θ^0 with the norms of that step; a "
        "control; fitted or best."
    )
    learning_rates: tuple[float, ...] = option(help="Its peak learning rates.", limits=(TINY, HUGE))
    reset: bool = option(False, help="Whether its normalisation begins as that of a new network.")

    @property
    def parts(self) -> tuple[str, str]:
        """What makes the start, and which of its steps, as its folder is called; none of what has no steps."""
        found = re.fullmatch(r"(.+) (x\d+(?:\.\d+)?)", self.start)
        return (found[1], found[2]) if found else (self.start, "")

    @property
    def arm(self) -> str:
        """Name of its arm."""
        name, step = self.parts
        return " ".join(part for part in (name, "reset" * self.reset, step) if part)


@documented
@dataclass(frozen=True)
class Decoder(Options):
    """A text decoder with initial values, which every start of a captioning task gets in the place of its head.

    Source: paper Table 4; sizes and tokenizer are stated nowhere.

    Example:
        >>> from know_hf.laboratory.options import Decoder
        >>> Decoder({"model_type": "gpt2", "n_layer": 2}).vocabulary
        8000
    """

    architecture: dict[str, Any] = option(help="model_type: … with fields of its transformers configuration.")
    tokenizer: str | None = option(
        None, help="Folder or Hub id of its tokenizer; by default one of the words in the training captions."
    )
    vocabulary: int = option(8000, help="Most words of such a tokenizer, the most frequent.", limits=(1, COUNT))
    longest: int | None = option(
        None, help="Longest caption in words; by default that of the training captions.", limits=(1, COUNT)
    )


@documented
@dataclass(frozen=True, kw_only=True)
class Repetition(Options):
    """How often every arm is fine-tuned, and at which learning rates."""

    learning_rates: Sequence[float] = option(
        (4e-4, 1e-3, 2.5e-3), help="Grid of peak learning rates.", limits=(TINY, HUGE)
    )
    seeds: int = option(5, help="Number of seeds, at least 2.", limits=(1, 100_000))


@documented
@dataclass(frozen=True, kw_only=True)
class Speed(Options):
    """How the laboratory trains on images."""

    fast: bool | None = option(
        None,
        help="Keep all images on the device as bytes and vary whole batches there, on an accelerator also in bfloat16 "
        "(unless bf16 or fp16 is stated), channels-last and compiled; the same examples in the same order. By default "
        "(null) on an accelerator.",
    )


@documented
@dataclass(frozen=True, kw_only=True)
class ComparisonOptions(Speed, Repetition):
    """How the arms of a comparison are run."""

    train_split: str = option("train", help="Split to draw training and validation examples from, slices included.")
    test_split: str = option("test", help="Split to score on.")
    controls: Sequence[str] = option(
        (), help="Names of arms that are controls, beside those that say it themselves: a gain counts only beyond them."
    )
    report_to: Sequence[str] | None = option(
        None,
        help="Trackers that are told of every arm's test scores, one seed a step, such as trackio or tensorboard.",
        off="none",
    )
    run_name: str | None = option(None, help="What trackers call the comparison; by default its folder.")
    processes: int = option(
        1, help="Number of processes; each runs whole fine-tunings on its share of the processors.", limits=(1, 4096)
    )
