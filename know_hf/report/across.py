"""Between columns of a table: whether a prediction from less data beats the naive start from more."""

import numpy as np

from know_hf.laboratory.outcome import SettingResult
from know_hf.laboratory.result import ComparisonResult
from know_hf.laboratory.statistics import paired_difference

#: How to read the table.
ACROSS_SHOWN = (
    "Best step of KNOWN (as validation chose) of a row's pre-training minus the naive start of a column's: positive, "
    "and its 95 % interval without zero, the prediction from the row's data is the better start. Paired over seeds, "
    "which give all of them the same examples, head and order; each at the learning rate of its own section."
)


def across_rows(settings: list[SettingResult]) -> list[list[str]]:
    """Pre-trainings by pre-trainings with more data; nothing where no two differ in the amount of data alone."""
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
    """Whether two pre-trainings are of one network and task, the first with less data, and compared alike."""
    ours, theirs = less.setting.pretraining, more.setting.pretraining
    alike = ("dataset", "eval_split", "label_column", "model", "architecture", "image_size")
    if any(getattr(ours, name) != getattr(theirs, name) for name in alike) or less.comparison is None:
        return False
    examples = [one.trajectory.record.stages[0].examples or 0 for one in (less, more)]
    seeds = [one.setting.seeds for one in (less, more)]
    return less.setting.transfer == more.setting.transfer and seeds[0] == seeds[1] and examples[0] < examples[1]
