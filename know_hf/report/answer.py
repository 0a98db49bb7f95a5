"""What a table of cells answers, question by question, as follows from its numbers."""

from know_hf.laboratory.cell_table import CellTable
from know_hf.laboratory.cells import Place
from know_hf.laboratory.result import DIVERGED
from know_hf.laboratory.setting import CHOSEN
from know_hf.laboratory.statistics import Nested

_WORDS = {"better": "is better than", "worse": "is worse than", "no difference shown": "shows no difference to"}
_NAIVE, _EQUAL = "naive", "equal_compute"


def rate_name(rate: float) -> str:
    """A learning rate as one says it.

    Example:
        >>> from know_hf.report.answer import rate_name
        >>> rate_name(0.0004), rate_name(0.02)
        ('4e-4', '0.02')
    """
    if rate >= 1e-3:
        return f"{rate:g}"
    digits, power = f"{rate:e}".split("e")
    return f"{float(digits):g}e{int(power)}"


def called(place: Place) -> str:
    """A cell by its name and rate."""
    return f"{place[0]} at {rate_name(place[1])}"


def furthest(table: CellTable) -> list[str]:
    """The furthest step of every learned prediction whose normalisation is kept: first those of given predictors."""
    given = [*table.setting.predictors, "known"]
    found: dict[str, tuple[float, str]] = {}
    for cell in table.setting.cells:
        name, step = cell.parts
        if name in given and not cell.reset and any(arm == cell.arm for arm, _ in table.cells):
            reached = float(step[1:]) if step else 0.0
            found[name] = max(found.get(name, (0.0, "")), (reached, cell.arm))
    return [found[name][1] for name in given if name in found]


def answer(table: CellTable) -> str:
    """What [`answers`] says, in one paragraph."""
    return " ".join(answers(table))


def answers(table: CellTable) -> list[str]:
    """Gain at the usual rate, naive at the higher one, norms, reset, best rates, and the chosen starts.

    Args:
        table: With two cells at least.

    Returns:
        Sentences, one a question, that each follow from intervals: where one includes zero, no difference is shown.
    """
    sentences = [_settled(table)]
    for arm in furthest(table)[:1]:
        sentences += _at_the_usual_rate(table, arm)
    sentences += _resets(table)
    sentences += _at_best_rates(table)
    return sentences


def _settled(table: CellTable) -> str:
    count = sum(DIVERGED not in found for run in table.runs for found in run.fine_tunings.values())
    several = len(table.runs) > 1
    over = "over fine-tunings, then over pre-trainings" if several else "over the fine-tunings of this one alone"
    points = "points" if table.score.percent else table.score.name
    trained = f"{count} fine-tunings of {len(table.runs)} pre-training{'s' * several}"
    return f"From {trained} (differences in {points}, 95 % intervals {over})."


def _at_the_usual_rate(table: CellTable, arm: str) -> list[str]:
    """Is there a gain, has the naive start it at a higher rate, and have Θ^0's norms alone."""
    rate = table.reference[1]
    usual, cells = (arm, rate), table.cells
    if usual not in cells:
        return []
    gain = table.against(usual)
    found = [f"Gain: {_compare(table, usual, table.reference)}."]
    for faster in [place for place in cells if place[0] == _NAIVE and place[1] > rate]:
        beyond, left = table.against(faster), table.against(usual, faster)
        text = f"{_compare(table, faster, table.reference)}, and {_compare(table, usual, faster)}"
        found.append(f"Higher rate: {text}: {_explained(gain, beyond, left, called(faster))}.")
        if (arm, faster[1]) in cells:
            found.append(f"At that rate {_compare(table, (arm, faster[1]), faster)}.")
    name = arm.rpartition(" ")
    shrunk = (f"shrink to {arm}", rate) if (f"shrink to {arm}", rate) in cells else (f"shrink {name[2]}", rate)
    if shrunk in cells:
        found.append(
            f"Norms: Θ⁰ with the norms of {arm} ({shrunk[0]}) {_verb(table, shrunk, table.reference)}, and "
            f"{_compare(table, usual, shrunk)}."
        )
    return found


def _explained(gain: Nested, beyond: Nested, left: Nested, faster: str) -> str:
    if gain.verdict != "better":
        return f"no gain is shown at the usual rate that {faster} could have, too"
    if beyond.verdict == "better":
        more = {"better": ", but not all of it", "worse": ", and more"}.get(left.verdict, "")
        return f"{faster} has that gain, too{more}"
    return f"{faster} is not shown to have that gain"


def _resets(table: CellTable) -> list[str]:
    """What new normalisation does to a start at the same rate."""
    cells, found = table.cells, []
    for cell in table.setting.cells:
        name, step = cell.parts
        kept = f"{name} {step}".strip()
        for rate in cell.learning_rates if cell.reset else ():
            if (cell.arm, rate) in cells and (kept, rate) in cells:
                words = _compare(table, (cell.arm, rate), (kept, rate))
                if kept != _NAIVE:
                    words += f", and {_verb(table, (cell.arm, rate), table.reference)}"
                found.append(f"{words}.")
    return [f"Reset of normalisation: {' '.join(found)}"] if found else []


def _at_best_rates(table: CellTable) -> list[str]:
    """Every kept start at its best rate against naive at its own, and what the best is."""
    first, *others = table.best_cells
    if not others:
        return []
    by_name = dict(others)
    listed = [arm for arm in by_name if arm not in (*CHOSEN, _EQUAL)]
    found = [f"At best rates, against {called(first)}: {_listed(table, first, [(a, by_name[a]) for a in listed])}"]
    last = [name for name in (*CHOSEN, _EQUAL) if name in by_name]
    if last:
        found.append(f"Fitted, chosen, trained on: {_listed(table, first, [(name, by_name[name]) for name in last])}")
    names = [name for name in table.candidates if name is not None]
    if names and CHOSEN[1] in by_name:
        counts = {name: names.count(name) for name in dict.fromkeys(names)}
        what = ", ".join(
            f"{'Θ⁰' if name == 'stage-0' else name} in {count} of {len(names)}" for name, count in counts.items()
        )
        found.append(f"{CHOSEN[1].capitalize()} was {what} pre-training{'s' * (len(names) > 1)}.")
    return found


def _listed(table: CellTable, first: Place, cells: list[Place]) -> str:
    """Cells by what is shown of them."""
    by_verdict: dict[str, list[str]] = {}
    for place in cells:
        found = table.against(place, first)
        by_verdict.setdefault(found.verdict, []).append(f"{called(place)} ({found})")
    words = {"better": "better are", "worse": "worse are", "no difference shown": "no difference is shown of"}
    parts = [f"{words[verdict]} {', '.join(by_verdict[verdict])}" for verdict in words if verdict in by_verdict]
    return "; ".join(parts) + "."


def _compare(table: CellTable, place: Place, other: Place) -> str:
    return f"{called(place)} {_verb(table, place, other)}"


def _verb(table: CellTable, place: Place, other: Place) -> str:
    found = table.against(place, other)
    return f"{_WORDS[found.verdict]} {called(other)} ({found})"
