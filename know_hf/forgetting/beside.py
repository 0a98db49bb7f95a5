"""Another run by the same trainer, in a folder of its own: a control beside a forgetting, a round before it.

A second trainer would have to be made as the first was: with its loss, its callbacks, its optimizer, and whatever its
class takes besides. The first has all of it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def another_run(
    trainer: Any, root: str | Path, recipe: str, *, known_start: bool = True, **changed: Any
) -> Iterator[None]:
    """Lets a trainer train another run than its own within the block; it is as it was afterwards, but for its model.

    Args:
        trainer: A Trainer with ``ForgettingMixin``.
        root: Folder of the other run.
        recipe: What it trains: a value of ``recipe`` in the training arguments.
        known_start: Whether the caller puts what the run begins with into the model, now and whenever it continues.
        **changed: Further training arguments of it.

    Example:
        >>> from know_hf.forgetting.beside import another_run
        >>> with another_run(trainer, "runs/mine/also/once_more", "once_more"):  # doctest: +SKIP
        ...     trainer.train()
    """
    own = {"output_dir": str(root), "recipe": recipe, "self_check": False, "average_stage_zero": None, **changed}
    before = {name: getattr(trainer.args, name) for name in own}
    kept = trainer.keep_start
    vars(trainer.args).update(own)
    trainer.keep_start = "never" if known_start else kept
    try:
        yield
    finally:
        vars(trainer.args).update(before)
        trainer.keep_start = kept
