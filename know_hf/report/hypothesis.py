"""The table of the hypothesis: from where fine-tuning leads back to Θ^0, and how near."""

from know_hf.laboratory.hypothesis import ALL_KINDS, Return
from know_hf.laboratory.outcome import SettingResult
from know_hf.tables import rounded

#: How to read the table.
RETURNS_SHOWN = (
    "If Θ̂⁻¹ is what more data would have given, fine-tuning it on the data of Θ⁰, as the stage that made Θ⁰ was "
    "trained, gives Θ⁰ back. Every start was trained so, optimizer moments beginning anew; the numbers are Euclidean "
    "distances to Θ⁰ before → after, over what is predicted, and scores on the pre-training's own held-out data "
    "before → after, all with re-estimated BatchNorm statistics. It speaks for the hypothesis where a prediction's end "
    "is nearer to Θ⁰ than its beginning, and no farther than the ends of stage-0 itself (the same training, with the "
    "stages' seed and with another); initial values of another seed show how far apart equal networks may lie."
)


def return_rows(setting: SettingResult) -> list[list[str]]:
    """Starts by kinds: distances to Θ^0 and scores, before and after fine-tuning on the data of Θ^0."""
    first = setting.returns[-1]
    kinds = [kind for kind in first.before or {} if kind != ALL_KINDS]
    unit = " in percent" if setting.score.percent else ""
    rows = [["start", *(f"‖· − Θ⁰‖, {kind}" for kind in (*kinds, ALL_KINDS)), f"{setting.score.name}{unit}"]]
    for one in setting.returns:
        scores = [None if s is None else setting.score.shown(s) for s in (one.score_before, one.score_after)]
        cells = [_arrow(_distances(one, kind), 3) for kind in (*kinds, ALL_KINDS)]
        rows.append([one.start, *cells, _arrow(scores, 1)])
    return rows


def _distances(one: Return, kind: str) -> list[float | None]:
    return [None if distances is None else distances[kind] for distances in (one.before, one.after)]


def _arrow(ends: list[float | None], digits: int) -> str:
    before, after = ends
    if after is None:
        return rounded(before, digits)
    return f"{'' if before is None else rounded(before, digits)} → {rounded(after, digits)}".strip()
