"""One fine-tuning of a comparison as a job: where its result lies, and whether it is there."""

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from know_hf.laboratory.protocol import DivergedError, Protocol, fine_tune
from know_hf.laboratory.result import DIVERGED, read_fine_tuning
from know_hf.records import file_name
from know_hf.store import write_json
from know_hf.tasks import Columns
from know_hf.training.prepared import open_examples
from know_hf.trajectory import TrajectoryError


def steps_of(protocol: Protocol, examples: int) -> tuple[int, ...]:
    """Optimizer steps of one fine-tuning on so many examples: those of head and norms, if any, and those of all."""
    full = examples // protocol.batch_size  # the rest of an epoch is dropped, unless it is all there is
    further = dict(protocol.training_arguments)
    an_epoch = math.ceil(max(full, 1) / further.get("gradient_accumulation_steps", 1))
    return tuple(math.ceil(epochs * an_epoch) for epochs in (protocol.head_epochs, protocol.epochs) if epochs)


@dataclass(frozen=True)
class FineTuning:
    """One arm at one learning rate with one seed, for [`Workers`](know_hf.training.workers)."""

    output_dir: Path
    arm: str
    folder: str
    rate: float
    seed: int
    protocol: Protocol
    columns: Columns
    data: dict[str, Path]
    image_mean: str | None = None
    fast: bool | None = None

    @property
    def path(self) -> Path:
        """The file of the result."""
        short = f"{self.rate:g}"
        rate = short if float(short) == self.rate else repr(float(self.rate))
        return self.output_dir / "runs" / f"{file_name(self.arm)}--{rate}--{self.seed}.json"

    @property
    def done(self) -> bool:
        """Whether the result is there, undamaged, and this one's."""
        try:
            return self.path.exists() and bool(self.read())
        except TrajectoryError:
            return False

    def read(self) -> dict[str, Any]:
        """The result; see [`read_fine_tuning`].

        Raises:
            TrajectoryError: If it is missing, damaged or another run's.
        """
        found = read_fine_tuning(self.path)
        if (found["arm"], found["rate"], found["seed"]) != (self.arm, self.rate, self.seed):
            raise TrajectoryError(f"{self.path} is the result of another run.")
        return found

    def score(self, part: str) -> float:
        """Its ``validation`` or ``test`` score; NaN if it diverged."""
        found = self.read()
        return math.nan if DIVERGED in found else float(found[part])

    #: Its arm is there before any fine-tuning begins.
    ready = True

    @property
    def cost(self) -> float:
        """Examples to train on."""
        examples = self.protocol.examples or len(open_examples(self.data["train"]))
        return examples * (self.protocol.head_epochs + self.protocol.epochs)

    def run(self) -> None:
        """Fine-tunes and writes the result, whole or not at all; that it diverged is one, too."""
        begun = time.perf_counter()
        centre = None if self.image_mean is None else self.data["train"]
        data = {part: open_examples(path, centre) for part, path in self.data.items()}
        scratch = self.output_dir / "scratch" / str(os.getpid())
        try:
            result = fine_tune(
                Path(self.folder), data["train"], data["test"], self.columns, self.rate, self.seed, self.protocol,
                scratch, data.get("validation"), self.fast,
            )  # fmt: skip
        except DivergedError as error:
            result = {DIVERGED: str(error), "seconds": time.perf_counter() - begun, "training": 0.0}
        self.write(result)

    def write(self, result: Mapping[str, Any]) -> None:
        """Writes the result; whole or not at all."""
        write_json(self.path, {**result, "arm": self.arm, "rate": self.rate, "seed": self.seed}, indent=None)
