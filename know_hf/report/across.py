"""Between columns of a table: whether a prediction from less data beats the naive start from more."""

import math
from dataclasses import replace

import numpy as np

from know_hf.laboratory.outcome import SettingResult
from know_hf.laboratory.result import ComparisonResult
from know_hf.laboratory.setting import Setting
from know_hf.laboratory.statistics import paired_difference

#: How to read the table.
ACROSS_SHOWN = (
    "Best step of KNOWN (as validation chose) of a row's setting minus the naive start of a column's: positive, "
    "and its 95 % interval without zero, the prediction with the row's data is the better start. Paired over seeds, "
    "which give all of them the same examples, head and order; each at the learning rate of its own section."
)


def across_rows(settings: list[SettingResult]) -> list[list[str]]:
    """Settings by settings with more data; nothing where no two differ in the amount of data alone."""
    rows = []
    for less in settings:
        known = less.comparison and best_known(less.comparison)
        if not known or less.comparison is None:
            continue
        cells = {}
        for more in settings:
            if more.comparison is not None and _differ_in_data(less, more):
                ours, theirs = less.comparison.best(known), more.comparison.best(more.comparison.reference)
                better = less.comparison.score.higher_is_better
                cells[more.setting.name] = str(paired_difference(ours, theirs, higher_is_better=better))
        if cells:
            rows.append((f"{known}, {less.setting.name}", cells))
    columns = list(dict.fromkeys(name for _, cells in rows for name in cells))
    if not columns:
        return []
    head = ["", *(f"− naive, {name}" for name in columns)]
    return [head, *([name, *(cells.get(column, "") for column in columns)] for name, cells in rows)]


def best_known(result: ComparisonResult) -> str | None:
    """Name of the prediction of KNOWN that validation chose, if there are any."""
    known = [name for name, arm in result.arms.items() if arm.is_known]

    def validation(arm: str) -> float:
        return float(np.mean(result.scores(arm, result.chosen_rates[arm], "validation")))

    return result.score.best(known, key=validation) if known else None


def _differ_in_data(less: SettingResult, more: SettingResult) -> bool:
    """Whether two settings that were compared alike differ in their data alone, the first with less of them."""
    ours, theirs = (one.trajectory.record.stages[0].examples or 0 for one in (less, more))
    return less.comparison is not None and less_data(less.setting, ours, more.setting, theirs)


def less_data(less: Setting, examples: int, more: Setting, others: int) -> bool:
    """Whether two settings are of one network, task and seed, compared alike, and the first has less data.

    Args:
        less: The first.
        examples: Number of the examples of its stage 0.
        more: The second.
        others: Number of the examples of its stage 0.

    Returns:
        Whether there are fewer examples of the pre-training (which may then have other epochs), or downstream, and all
        else is the same.
    """
    ours, theirs = less.pretraining, more.pretraining
    alike = ("dataset", "eval_split", "label_column", "model", "architecture", "image_size")
    if any(getattr(ours, name) != getattr(theirs, name) for name in alike) or less.seeds != more.seeds:
        return False
    if less.transfer == more.transfer:
        return examples < others and ours.training.get("seed") == theirs.training.get("seed")
    if less.transfer is None or more.transfer is None or ours != theirs:
        return False
    first, second = less.transfer.make_protocol(), more.transfer.make_protocol()
    alike_downstream = replace(less.transfer, protocol=more.transfer.protocol) == more.transfer
    counts = [math.inf if one.examples is None else one.examples for one in (first, second)]
    return alike_downstream and replace(first, examples=second.examples) == second and counts[0] < counts[1]
