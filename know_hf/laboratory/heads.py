"""Heads that are kept: the downstream data's classes in the order of the arms' outputs."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from transformers import AutoConfig

from know_hf.models.adapters import base_of
from know_hf.models.loading import all_known, few, known_classes, match_classes, trained_for
from know_hf.tasks import Columns, get_task
from know_hf.tasks.labels import numbered


def classes_of_kept_heads(arms: Mapping[str, Path], columns: Columns) -> Columns:
    """Orders the downstream data's classes as the arms' own heads have them.

    Args:
        arms: Name → checkpoint folder.
        columns: What is read of the downstream data.

    Returns:
        The columns with the classes of the heads, of which the data may lack some. Adapters bring their head with
        them, but not its names: they have to have as many outputs as the data have classes, in the same order.

    Raises:
        ValueError: If an arm has no head for the task, heads differ, or classes are unknown to them.
    """
    task = get_task(columns.task)
    if not columns.class_names or not task.renews_head:
        return columns
    heads = {}
    for arm, folder in arms.items():
        if base_of(folder) != folder:
            continue
        config = AutoConfig.from_pretrained(folder)
        if config.architectures and not trained_for(config, task.name):
            raise ValueError(
                f"Arm {arm!r} is a {config.architectures[0]}, which has no head for {task.name} to keep: leave "
                "keep_head off."
            )
        heads[arm] = known_classes(config)
    if not heads:
        return columns
    first, known = next(iter(heads.items()))
    if other := next((arm for arm in heads if heads[arm] != known), None):
        raise ValueError(
            f"Arms {first!r} and {other!r} have heads of other classes ({len(known)} and {len(heads[other])}) or "
            "another order: keep_head compares heads of the same classes only."
        )
    names = columns.class_names
    if task.labels.matched:
        by_order = len(names) == len(known) and (numbered(names) or numbered(known))
        fits = all_known(names, known) or by_order
        ordered = match_classes(known, names)[0] if numbered(known) else known
    else:  # masks have numbers for names
        fits = len(names) == len(known) or (len(names) < len(known) and task.labels.fewer_will_do(names))
        ordered = names if len(names) == len(known) else [str(i + int(names[0])) for i in range(len(known))]
    if not fits:
        raise ValueError(
            f"The heads to keep have {len(known)} outputs ({few(known)}), the data have {len(names)} classes "
            f"({few(names)}): leave keep_head off, or name the classes alike."
        )
    return replace(columns, class_names=ordered)
