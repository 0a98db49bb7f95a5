"""Soups as candidates: branches that were trained beside the forgetting, averaged in several ways."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from know_hf.choice.places import make_room
from know_hf.choice.scoring import judged_by, predict, score_of
from know_hf.enrichment.branches import branches_of, whole_model
from know_hf.enrichment.finishing import Finisher
from know_hf.enrichment.options import Placement, Prediction
from know_hf.enrichment.resolved import ResolvedMethod, ResolvedPrediction
from know_hf.enrichment.stream import Enrichment
from know_hf.fitting.fit import fit
from know_hf.fitting.options import Fitting
from know_hf.forgetting.weights import load_weights
from know_hf.retrodiction import get_method
from know_hf.store import remove

if TYPE_CHECKING:
    from know_hf.choice.candidates import FitData

UNIFORM, GREEDY, STOCK, FITTED, BRANCH = "soup", "soup-greedy", "soup-stock", "soup-fitted", "soup-branch-"
_TRIAL = "soup-trial-"


@dataclass(frozen=True)
class Soups:
    """Puts the branches of a control together, every soup completed like the other candidates.

    Args:
        trainer: A trainer of the same model.
        folder: The run whose stages are the branches.
        root: Where the candidates go.
        finisher: Completes them.
        placement: Where they are computed.
        fit_data: What ``soup-fitted`` is fitted to.
        selection: The examples that the greedy soup goes by; None where there are none.
        fitting: How coefficients are fitted.
    """

    trainer: Any
    folder: Path
    root: Path
    finisher: Finisher
    placement: Placement
    fit_data: "Sequence[FitData]"
    selection: Any
    fitting: Fitting

    def make(self) -> dict[str, Path]:
        """Name → folder."""
        run = self._run(ResolvedMethod(get_method("soup_mean"), {}), ResolvedMethod(get_method("model_stock"), {}))
        found = self._write(run, {"soup_mean": UNIFORM, "model_stock": STOCK})
        # Also what the greedy soup is chosen from, so that its choice counts when its gain is judged.
        for branch in range(1, len(run.trajectory)):
            found |= self._mean([branch], f"{BRANCH}{branch}")
        if (members := self._greedy(found)) is not None:
            found |= self._mean(members, GREEDY)
        for data in self.fit_data:
            name = f"{FITTED}{data.suffix}"
            made = fit(
                self.trainer, run.trajectory, run.predicted, data.dataset, self.root / f"{name}.json",
                fitting=self.fitting, anew=True,
            )  # fmt: skip
            one = ResolvedMethod(get_method("fitted"), {"coefficients": made.table}, coefficients=made)
            found |= self._write(self._run(one), {"fitted": name})
        return found

    def _run(self, *methods: ResolvedMethod) -> Enrichment:
        trajectory = branches_of(self.folder)
        names = tuple(one.name for one in methods)
        options = Prediction(method=names, steps=1, **whole_model(trajectory))
        return Enrichment(trajectory, ResolvedPrediction(options, methods, len(trajectory)), self.placement)

    def _write(self, run: Enrichment, names: Mapping[str, str]) -> dict[str, Path]:
        """Writes one soup a method; name of the candidate → folder."""
        targets = {method: [self.root / name] for method, name in names.items()}
        places = {targets[one.name][0]: run.provenance(one, 1) for one in run.prediction.methods}
        make_room(self.trainer, run, places, self.finisher.notes)
        run.write(targets, replace(self.finisher, score=False), self.finisher.notes)
        return {name: self.root / name for name in names.values()}

    def _mean(self, members: Sequence[int], name: str) -> dict[str, Path]:
        one = ResolvedMethod(get_method("soup_mean"), {"members": sorted(members)})
        return self._write(self._run(one), {"soup_mean": name})

    def _greedy(self, made: Mapping[str, Path]) -> list[int] | None:
        """The branches of the greedy soup; None if there is nothing to go by."""
        trainer = self.trainer
        if self.selection is None:
            return None
        load_weights(trainer.model, made[UNIFORM])
        judged = judged_by(trainer, predict(trainer, self.selection)[0], len(self.selection))
        if judged is None:
            return None
        _, measure = judged

        def score(members: Sequence[int]) -> float:
            trial = _TRIAL + "-".join(map(str, sorted(members)))
            folder = made[f"{BRANCH}{members[0]}"] if len(members) == 1 else self._mean(members, trial)[trial]
            load_weights(trainer.model, folder)
            reached = measure.sign * score_of(trainer, self.selection, measure)
            if len(members) > 1 and trainer.is_world_process_zero():
                remove(folder)
            trainer.accelerator.wait_for_everyone()
            return reached

        return greedy(sum(name.startswith(BRANCH) for name in made), score)


def greedy(count: int, score: Callable[[Sequence[int]], float]) -> list[int]:
    """Chooses the members of a greedy soup: in the order of their own scores, each as long as the score does not fall.

    Args:
        count: Number of branches.
        score: From numbers of branches, from 1, to the score of their average; more is better.

    Returns:
        The members, the best branch first.

    Source: Wortsman et al., "Model soups" (ICML 2022), recipe 1.

    Example:
        >>> from know_hf.choice.soups import greedy
        >>> greedy(3, lambda members: {1: 0.5, 2: 0.7, 3: 0.4}.get(sum(members), 0.8))
        [2, 3]
    """

    def reached(members: Sequence[int]) -> float:
        value = score(members)
        return value if math.isfinite(value) else -math.inf

    alone = {branch: reached([branch]) for branch in range(1, count + 1)}
    first, *others = sorted(alone, key=lambda branch: alone[branch], reverse=True)
    members, best = [first], alone[first]
    for branch in others:
        value = reached([*members, branch])
        if value >= best:
            members, best = [*members, branch], value
    return members
