"""The tasks: for each its columns, preprocessing, scores and head; everything else is the same for all."""

from know_hf.tasks.columns import find_columns, find_roles, name_classes
from know_hf.tasks.table import TASKS, get_task
from know_hf.tasks.task import Columns, Preprocessing, Score, Task

__all__ = [
    "TASKS",
    "Columns",
    "Preprocessing",
    "Score",
    "Task",
    "find_columns",
    "find_roles",
    "get_task",
    "name_classes",
]
