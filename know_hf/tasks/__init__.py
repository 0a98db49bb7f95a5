"""The tasks: for each its columns, preprocessing, scores and head; everything else is the same for all."""

from know_hf.tasks.classification import IMAGE_CLASSIFICATION, TEXT_CLASSIFICATION
from know_hf.tasks.columns import find_columns
from know_hf.tasks.language import CAPTIONING, TEXT_GENERATION
from know_hf.tasks.segmentation import SEGMENTATION
from know_hf.tasks.task import Columns, Preprocessing, Score, Task

#: Name → task.
TASKS: dict[str, Task] = {
    task.name: task for task in (IMAGE_CLASSIFICATION, TEXT_CLASSIFICATION, SEGMENTATION, CAPTIONING, TEXT_GENERATION)
}


def get_task(name: str) -> Task:
    """Finds a task.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in TASKS:
        raise ValueError(f"Unknown task {name!r}; there are {', '.join(TASKS)}.")
    return TASKS[name]


__all__ = ["TASKS", "Columns", "Preprocessing", "Score", "Task", "find_columns", "get_task"]
