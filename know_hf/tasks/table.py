"""The tasks by name."""

from know_hf.tasks.classification import IMAGE_CLASSIFICATION, TEXT_CLASSIFICATION
from know_hf.tasks.language import CAPTIONING, TEXT_GENERATION
from know_hf.tasks.segmentation import SEGMENTATION
from know_hf.tasks.task import Task

#: Name → task.
TASKS: dict[str, Task] = {
    task.name: task for task in (IMAGE_CLASSIFICATION, TEXT_CLASSIFICATION, SEGMENTATION, CAPTIONING, TEXT_GENERATION)
}


def get_task(name: str) -> Task:
    """Finds a task.

    Raises:
        ValueError: If there is none of that name.

    Source: ours.
    """
    if name not in TASKS:
        raise ValueError(f"Unknown task {name!r}; there are {', '.join(TASKS)}.")
    return TASKS[name]
