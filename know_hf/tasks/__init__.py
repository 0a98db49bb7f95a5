"""The tasks: for each its columns, preprocessing, scores and head; everything else is the same for all."""

from importlib import import_module

from know_hf.tasks.columns import find_columns, find_roles, name_classes
from know_hf.tasks.task import (
    TASKS,
    Candidates,
    Columns,
    Inputs,
    Labels,
    Preprocessing,
    Score,
    Task,
    get_task,
    task,
)

# In the order in which tasks are listed; a module registers its own in the order of its lines.
for _family in (
    "classification",
    "segmentation",
    "language",
    "several",
    "tokens",
    "sequences",
    "conversations",
    "audio",
):
    import_module(f"{__name__}.{_family}")

__all__ = [
    "TASKS",
    "Candidates",
    "Columns",
    "Inputs",
    "Labels",
    "Preprocessing",
    "Score",
    "Task",
    "find_columns",
    "find_roles",
    "get_task",
    "name_classes",
    "task",
]
