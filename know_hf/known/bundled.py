"""The predictors that come with the package."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

#: Numbers of stages that they read.
BUNDLED = (2, 3, 4, 5)


@contextmanager
def bundled(history_length: int) -> Iterator[Path]:
    """The folder of the one that reads so many stages.

    Raises:
        ValueError: If none of them does.
    """
    if history_length not in BUNDLED:
        raise ValueError(
            f"No predictor for {history_length} stages comes with know-hf, only for "
            f"{', '.join(map(str, BUNDLED))}: forget in so many stages, or pass a predictor of your own."
        )
    with resources.as_file(resources.files("know_hf.known") / "weights" / f"stages-{history_length}") as folder:
        yield Path(folder)
