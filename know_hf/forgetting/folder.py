"""The folder of a run: where everything lies, what may be written there, and what is left over."""

import errno
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from torch import nn

from know_hf.forgetting.resume import OptimizerState
from know_hf.forgetting.stages import branching, first_trained_stage
from know_hf.models.adapters import adapter_names, is_adapted
from know_hf.store import as_os_error, check_space, inside, partial_name, remove
from know_hf.trajectory.record import FILE_NAME, StageRecord, TrajectoryRecord

if TYPE_CHECKING:
    from know_hf.forgetting.arguments import ForgettingArguments

WORK_FOLDER = "training"  # what Trainer writes while a stage runs; its checkpoints go when the stage is finished
# What Trainer, torch and safetensors say when they could not write; they wrap the system's error or drop it.
_NOT_WRITTEN = re.compile(r"PytorchStreamWriter|unexpected pos|write failed|iostream error|os error \d+", re.IGNORECASE)
# Errors of the system that say so; the first ones whatever file they came with.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_REFUSED = (*_FULL, errno.EACCES, errno.EPERM, errno.EIO)


class RunFolder:
    """The places of a run, all within its folder.

    Args:
        root: The run's ``output_dir``.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def stage(self, index: int) -> Path:
        """Where a finished stage lies."""
        return self.root / stage_name(index)

    @property
    def start(self) -> Path:
        """Where the weights lie that all branches begin with, if the stages are branches."""
        return self.root / "start"

    @property
    def kept(self) -> Path:
        """Where the weights lie that the run began with, as long as they may be needed again."""
        return self.root / WORK_FOLDER / "start"

    def average(self, name: str) -> Path:
        """Where an average of the weights of stage 0 lies."""
        return self.root / f"{stage_name(0)}-{name}"

    def work(self, index: int) -> Path:
        """Where Trainer keeps its checkpoints of a stage."""
        return self.root / WORK_FOLDER / stage_name(index)

    def optimizer(self, index: int) -> OptimizerState:
        """The optimizer as the end of a stage left it."""
        return OptimizerState(self.root / WORK_FOLDER / f"optimizer-{index}.safetensors")

    def check(self, stages: Sequence[StageRecord], averages: Sequence[str] = ()) -> None:
        """Looks whether all that stages and averages would write or delete lies in the folder itself.

        Raises:
            FileExistsError: If a file is where a folder has to be.
            ValueError: If a part of it leads elsewhere.
        """
        places = [self.root / FILE_NAME, *(self.stage(s.index) for s in stages if not s.finished)]
        places += [self.start, self.kept, *(self.average(name) for name in averages)]
        for stage in stages:
            places += [self.work(stage.index), self.optimizer(stage.index).path]
        for place in places:
            for path in (place, partial_name(place)):
                inside(self.root, path.relative_to(self.root).as_posix())
        for folder in (self.root / WORK_FOLDER, *(self.work(stage.index) for stage in stages)):
            if folder.exists() and not folder.is_dir():
                raise FileExistsError(f"{folder} is a file, in the way of what training keeps there; move it away.")

    def tidy(self, stages: Sequence[StageRecord], keep_start: bool = False) -> None:
        """Deletes what finished stages and killed processes left over; what the next stage starts from stays.

        Args:
            stages: All of the run's.
            keep_start: Whether what the run began with stays when stage 0 is made.
        """
        work, following = self.root / WORK_FOLDER, next((s.index for s in stages if not s.finished), len(stages))
        needed = self.optimizer(following - 1).path if following < len(stages) else None
        left = [partial_name(self.root / FILE_NAME), *self.root.glob(".stage-*.partial")]
        left += [partial_name(self.start), partial_name(self.kept)]
        left += [self.kept] if stages[0].finished and not keep_start else []
        left += [*work.glob(".tmp*"), *work.glob(".optimizer-*.partial")]
        left += [path for path in work.glob("optimizer-*.safetensors") if path != needed]
        for stage in stages:
            if stage.finished:
                left += [*self.work(stage.index).glob("checkpoint-*"), *self.work(stage.index).glob("tmp-checkpoint-*")]
        for path in left:
            remove(path)
        for folder in (*(self.work(stage.index) for stage in stages if stage.finished), work):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def check_room(self, model: nn.Module, count: int) -> None:
        """Looks whether so many stages of a model fit.

        Raises:
            OSError: If they do not.
        """
        live = model.state_dict()
        names = adapter_names(model, live).values() if is_adapted(model) else live
        # Counted by place in memory: tied tensors are stored once.
        sizes = {(live[name].device, live[name].data_ptr() or name): live[name].nbytes for name in names}
        existing = next(folder for folder in (self.root.absolute(), *self.root.absolute().parents) if folder.exists())
        check_space(existing, count, sum(sizes.values()))

    @contextmanager
    def saying(self, what: StageRecord | str) -> Iterator[None]:
        """Says in words, as an ``OSError``, that a part of a run, mostly a stage, could not be written in the block.

        Raises:
            OSError: If something could not be written; the message says what to do.
        """
        what = what if isinstance(what, str) else f"Stage {what.index}"
        try:
            yield
        except (OSError, RuntimeError, SafetensorError) as error:
            if not self._is_about_writing(error):
                raise
            known = error if isinstance(error, OSError) else as_os_error(error, self.root)
            why = (
                os.strerror(known.errno)
                if known.errno in _REFUSED[:-1]
                else "writing failed, perhaps as the disk is full"
            )
            raise OSError(
                known.errno,
                f"{what} could not be saved in {self.root}: {why}. Nothing that was saved before is lost: "
                "make room there, and run the same command again to continue",
            ) from error

    def _is_about_writing(self, error: Exception) -> bool:
        if not isinstance(error, OSError):
            return bool(_NOT_WRITTEN.search(str(error)))
        if error.filename:  # a reader of the caller's data may fail as well, on files of its own
            within = Path(os.fsdecode(error.filename)).absolute().is_relative_to(self.root.absolute())
            return within and error.errno in _REFUSED
        return error.errno in _FULL or "cannot be written" in str(error)


def stage_name(index: int) -> str:
    """What a stage's folder is called."""
    return f"stage-{index}"


def reopen_lost(folder: RunFolder, record: TrajectoryRecord, args: "ForgettingArguments") -> None:
    """Marks as unfinished what has to be made again because a stage folder, or what leads to it, is gone."""
    lost = [s.index for s in record.stages if not (s.finished and folder.stage(s.index).is_dir())]
    if not lost:
        return
    first = lost[0]
    first_trained = first_trained_stage(args)
    if args.carry_optimizer and first > first_trained and not folder.optimizer(first - 1).path.exists():
        # The moments that this stage started from are gone: only the first trained stage starts without any.
        first = first_trained
    # Branches do not lead to one another.
    for stage in [record.stages[i] for i in lost] if branching(args) else record.stages[first:]:
        stage.finished = False
