"""One run in a tracker (trackio, TensorBoard, Weights & Biases …), of however many trainings it is made."""

import copy
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_reporting_integration_callbacks

from know_hf.store import write_text

#: What a run is called in trackers, unless run_name says it; hidden, so that a folder with nothing else is empty.
NAME_FILE = ".run-name"
#: Where TensorBoard finds a run.
LOGS = "tensorboard"
_EVENTS = [name for name in dir(TrainerCallback) if name.startswith("on_")]


class Tracking:
    """What the trackers of a trainer are told.

    Args:
        root: Folder of the run.
        name: What it is called.

    Attributes:
        before: Steps of the trainings before this one, which are added to its own.
        at: The step, where that is not the trainer's: beyond all trainings.
        silent: Whether they are told nothing for now.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.root, self.name = root, name
        self.before, self.silent = 0, False
        self.at: int | None = None
        self.told: list[_Told] = []

    def log(self, trainer: Any, logs: Mapping[str, Any]) -> None:
        """Tells them scores, as Trainer does: names that begin with ``eval_`` are shown together."""
        for told in self.told if logs else ():
            told.on_log(trainer.args, trainer.state, trainer.control, logs=dict(logs), model=trainer.model)

    @contextmanager
    def silence(self) -> Iterator[None]:
        """Keeps from them what happens within the block, such as scores of weights that are not the run's own."""
        before, self.silent = self.silent, True
        try:
            yield
        finally:
            self.silent = before


class _Told(TrainerCallback):
    """A tracker's callback that sees one training where there are many."""

    def __init__(self, inner: TrainerCallback, tracking: Tracking) -> None:
        self.inner, self.tracking = inner, tracking
        self.last: tuple | None = None
        if getattr(inner, "logging_dir", "") is None:  # TensorBoard's, which would be a new one for each training
            vars(inner)["logging_dir"] = str(tracking.root / LOGS / tracking.name)

    def pass_on(self, event: str, args: Any, state: Any, control: Any, kwargs: dict[str, Any]) -> Any:
        """Passes an event on, with the run's folder and steps; beginning and end once."""
        run = self.tracking
        if run.silent or event == "on_train_end" or (event == "on_train_begin" and self.last is not None):
            return None
        args, state = copy.copy(args), copy.copy(state)
        args.output_dir, args.run_name = str(run.root), run.name
        state.global_step = state.global_step + run.before if run.at is None else run.at
        self.last = args, state, control, {"model": kwargs.get("model")}
        return getattr(self.inner, event)(args, state, control, **kwargs)

    def end(self) -> None:
        """Tells the tracker that there will be no more."""
        if self.last is not None:
            args, state, control, kwargs = self.last
            self.inner.on_train_end(args, state, control, **kwargs)


def _passing(event: str) -> Callable[..., Any]:
    def handle(self: _Told, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        return self.pass_on(event, args, state, control, kwargs)

    return handle


for _event in _EVENTS:
    setattr(_Told, _event, _passing(_event))


@contextmanager
def one_run(trainer: Any, root: str | Path) -> Iterator[Tracking]:
    """Makes the trackers of a trainer see what happens within the block as one run, called the same every time.

    Args:
        trainer: A Trainer; its callbacks are as they were afterwards.
        root: Folder of the run.

    Returns:
        What they are told; without trackers nothing comes of it.

    Example:
        >>> with one_run(trainer, "runs/mine") as tracking:  # doctest: +SKIP
        ...     tracking.log(trainer, {"eval_x2/accuracy": 0.9})
    """
    handler, root = trainer.callback_handler, Path(root)
    theirs = tuple(INTEGRATION_TO_CALLBACK.values())
    found = [one for one in handler.callbacks if isinstance(one, theirs)]
    tracking = Tracking(root, _name(root, trainer.args, trainer.is_world_process_zero()) if found else "")
    tracking.told = [_Told(one, tracking) for one in found]
    instead = dict(zip(map(id, found), tracking.told, strict=True))
    handler.callbacks[:] = [instead.get(id(one), one) for one in handler.callbacks]
    try:
        yield tracking
    finally:
        handler.callbacks[:] = [one.inner if isinstance(one, _Told) else one for one in handler.callbacks]
        for told in tracking.told:
            told.end()


def _name(root: Path, args: TrainingArguments, main: bool) -> str:
    if args.run_name:
        return args.run_name
    path = root / NAME_FILE
    if path.is_file():
        return path.read_text(encoding="utf-8").strip()
    name = f"{root.resolve().name}-{secrets.token_hex(3)}"
    if main:
        root.mkdir(parents=True, exist_ok=True)
        write_text(path, name)
    return name


def report_scores(
    points: Sequence[Mapping[str, float]], output_dir: str | Path, report_to: str | list[str], **settings: Any
) -> None:
    """Tells trackers scores that no trainer has at hand, such as those of a comparison.

    Args:
        points: Scores by name, one point a step.
        output_dir: Folder that they are about, after which the run is called.
        report_to: As in ``TrainingArguments``.
        **settings: Further fields of ``TrainingArguments``, such as ``project`` and ``run_name``.

    Raises:
        ImportError: If a tracker is not installed.
        ValueError: If there is none of that name.
    """
    root = Path(output_dir)
    args = TrainingArguments(str(root), report_to=report_to, use_cpu=True, **settings)
    tracking = Tracking(root, _name(root, args, True))
    for one in get_reporting_integration_callbacks(args.report_to):
        tracking.told.append(_Told(one() if isinstance(one, type) else one, tracking))
    state, control = TrainerState(is_world_process_zero=True, is_local_process_zero=True), TrainerControl()
    for told in tracking.told:
        told.on_train_begin(args, state, control, model=None)
        for step, scores in enumerate(points):
            state.global_step = step
            told.on_log(args, state, control, logs=dict(scores), model=None)
        told.end()
