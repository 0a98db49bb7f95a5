"""Chooses a start for a purpose: by few-shot fine-tuning on downstream data, within a budget."""

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.state import AcceleratorState, GradientState, PartialState

from know_hf.choice.candidates import FOLDER, ORIGIN, RENEWED, expected_candidates
from know_hf.choice.judging import Judgement, Purpose
from know_hf.choice.options import NONE, Choosing
from know_hf.choice.rule import LEVEL, Gain
from know_hf.choice.words import described, percent
from know_hf.enrichment.resolved import ResolvedPrediction
from know_hf.forgetting.stages import first_trained_stage, stage_plan, training_steps
from know_hf.laboratory.arms import Arm
from know_hf.laboratory.comparison import Comparison
from know_hf.laboratory.downstream import LEAST_CHOOSING, MOST_CHOOSING, check_start, open_downstream
from know_hf.laboratory.fine_tuning import FineTuning, steps_of
from know_hf.laboratory.halving import LEAST_EXAMPLES, RULE, Schedule, make_schedule, paired_gain
from know_hf.laboratory.options import Protocol, Repetition
from know_hf.laboratory.statistics import require_scipy
from know_hf.models.building import unremarked
from know_hf.store import hash_file, inside, remove
from know_hf.tasks import get_task
from know_hf.training.options import DataOptions
from know_hf.training.workers import Workers
from know_hf.trajectory import Checkpoint
from know_hf.trajectory.identity import describe_dataset

logger = logging.getLogger(__name__)

#: Of the run's own learning rate; the steps are those of a comparison's grid.
_RATES = (0.4, 1.0, 2.5)
_LARGEST_BATCH = 128


class DownstreamChoice:
    """Judges candidates by what they are worth as starts on downstream data; see [`RULE`](know_hf.laboratory.halving).

    Made before the run is trained, since it looks at the data then; called with the candidates.

    Args:
        trainer: The run's; what is written goes to ``choice/downstream`` of its folder.
        choosing: ``choose_on``, and within which budget.
        about: What is read of the run's own data.

    Raises:
        FileNotFoundError: If the data are neither local nor reachable.
        ImportError: If scipy is not installed.
        ValueError: If there are too few data or settings contradict, or the model cannot be fine-tuned on them.

    Example:
        >>> from know_hf import enrich_pretrained
        >>> result = enrich_pretrained(  # doctest: +SKIP
        ...     "microsoft/resnet-18", "user/my-images", "runs/mine", choose_on="user/few-images"
        ... )
        >>> result.choice.purpose.scores  # doctest: +SKIP
        {'stage-0': 0.61, 'fitted': 0.66}
    """

    def __init__(self, trainer: Any, choosing: Choosing, about: DataOptions) -> None:
        if choosing.choose == NONE:
            raise ValueError(f"choose_on chooses, and choose={NONE!r} does not: leave one of them out.")
        require_scipy()
        self.trainer, self.choosing, self.options = trainer, choosing, about
        self.root = inside(trainer.args.output_dir, Path(FOLDER) / "downstream")
        self.data = open_downstream(choosing.choose_on, about, trainer.args.seed)
        self.size, trained = check_start(trainer, self.data, about)
        self.remarks = []
        if trained.worth_saying:
            self.remarks.append(
                f"Of the examples of {self.data.name} that are reported on {trained.told} are training data of the run "
                "itself: scores on these say how well they are remembered."
            )
            logger.warning("%s", self.remarks[0])
        self.held_out = min(max(LEAST_CHOOSING, self.size // 8), MOST_CHOOSING)

    def check(self, prediction: ResolvedPrediction) -> None:
        """Looks whether the budget will do, before anything is trained.

        Raises:
            ValueError: If it will not, or coefficients are to be fitted to examples that nobody set aside.
        """
        args, choosing = self.trainer.args, self.choosing
        if choosing.fit_on != "train" and self.trainer.set_aside.dataset is None:
            raise ValueError(
                f"fit_on={choosing.fit_on!r} fits to examples that are set aside, for which there are too few: "
                "give selection_split, or leave it out."
            )
        if prediction.options.norms == "reset":
            raise ValueError("choose_on chooses among trained networks; with norms='reset' there are others.")
        subsets, _ = stage_plan(self.trainer.train_dataset, args)
        steps = sum(training_steps(len(subset), args) for subset in subsets[first_trained_stage(args) :])
        planned = steps * args.train_batch_size * args.world_size * args.gradient_accumulation_steps
        expected = expected_candidates(self.trainer, prediction, choosing)
        self._schedule(expected, choosing.choose_budget or planned)

    @property
    def budget(self) -> int:
        """Most examples to train on in all: as asked for, else as many as the run trained on."""
        record = self.trainer.trajectory.record
        taken = sum(stage.steps or 0 for stage in record.stages) * record.recipe["batch_size"]
        return self.choosing.choose_budget or taken

    @property
    def rates(self) -> list[float]:
        """Learning rates that every start is tried at."""
        if self.choosing.choose_rates is not None:
            return sorted(set(self.choosing.choose_rates))
        args = self.trainer.args
        if "adam" in str(args.optim).lower() and args.learning_rate > 0:
            return [float(f"{factor * args.learning_rate:.3g}") for factor in _RATES]
        return list(Repetition().learning_rates)  # that of another optimizer says nothing

    @property
    def about(self) -> dict[str, Any]:
        """What determines the judgement beside the candidates."""
        return {
            "data": self.data.name,
            "pool": describe_dataset(self.data.pool),
            "report": describe_dataset(self.data.report),
            "columns": asdict(self.data.columns),
            "rates": self.rates,
            "budget": self.budget,
        }

    def _schedule(self, candidates: int, budget: int) -> Schedule:
        return make_schedule(candidates, len(self.rates), budget, self.size - self.held_out)

    def _protocol(self, plan: Schedule) -> Protocol:
        args = self.trainer.args
        batch = min(args.train_batch_size, _LARGEST_BATCH, max(plan.examples // 4, 1))
        further = tuple((name, True) for name in ("use_cpu", "bf16", "fp16") if getattr(args, name))
        head = plan.head_epochs if get_task(self.data.columns.task).renews_head else 0
        return Protocol(
            head_epochs=head, epochs=plan.epochs - head, batch_size=batch, examples=plan.examples,
            validation_examples=self.held_out, evaluations=1, training_arguments=further,
        )  # fmt: skip

    def __call__(self, folders: Mapping[str, Path]) -> Judgement:
        """Judges candidates.

        Args:
            folders: Name → folder, Θ⁰ among them.

        Raises:
            ValueError: If the budget is too small for so many.
        """
        # Statistics of BatchNorm are those of the downstream data in every start.
        folders = {name: folder for name, folder in folders.items() if name != RENEWED}
        plan = self._schedule(len(folders), self.budget)
        protocol = self._protocol(plan)
        spent = plan.trainings * sum(steps_of(protocol, plan.examples)) * protocol.batch_size
        logger.info(
            "Choosing for %s among %d candidates: %d fine-tunings of %d examples for %d epochs, %s examples to train "
            "on of a budget of %s.", self.data.name, len(folders), plan.trainings, plan.examples, plan.epochs,
            f"{spent:,}", f"{self.budget:,}",
        )  # fmt: skip
        trials = _Trials(self, folders, protocol)
        survivor, own, gains = trials.halve(plan)
        trials.run([trials.one(name, own[name], seed, last=True) for name in (ORIGIN, survivor) for seed in plan.last],
                   "Fine-tuning the last two starts")  # fmt: skip
        scores = {
            name: {
                part: [trials.one(name, own[name], seed).score(part) for seed in plan.last]
                for part in ("validation", "test")
            }
            for name in (ORIGIN, survivor)
        }
        last = {name: trials.gain(found["validation"], scores[ORIGIN]["validation"]) for name, found in scores.items()}
        better = last[survivor].gain > 0 and last[survivor].chance <= LEVEL
        reported = trials.gain(scores[survivor]["test"], scores[ORIGIN]["test"], overlap=0.0)
        purpose = Purpose(
            data=self.data.name, metric=trials.score.name, percent=trials.score.percent,
            higher_is_better=trials.score.higher_is_better, examples=plan.examples, epochs=plan.epochs,
            rates={name: own[name] for name in scores}, reported=len(self.data.report),
            scores={name: float(np.mean(found["test"])) for name, found in scores.items()},
            low=reported.low, high=reported.high, seeds=len(plan.last), trainings=plan.trainings, spent=spent,
            budget=self.budget,
        )  # fmt: skip
        candidate = survivor if better else ORIGIN
        trials.clear()
        ordered = {name: {**gains, **last}[name] for name in folders}
        words = " ".join([purpose_words(candidate, survivor, ordered, purpose), *self.remarks])
        return Judgement(candidate, purpose.deciding, ordered, self.held_out, RULE, words, purpose)


class _Trials:
    """The fine-tunings of one choice, in a folder that what determines them has named."""

    def __init__(self, choice: DownstreamChoice, folders: Mapping[str, Path], protocol: Protocol) -> None:
        self.trainer, self.rates, self.protocol = choice.trainer, choice.rates, protocol
        self.names, self.score = list(folders), get_task(choice.data.columns.task).score
        self.overlap = choice.held_out / (choice.size - choice.held_out)
        data, self.cache = choice.data, choice.root / "cache"
        whole = get_task(data.columns.task).rows_are_examples
        # The rounds of halving have to score something, and nothing that is reported on.
        unseen = data.pool.select(range(LEAST_EXAMPLES)) if whole else data.report
        parts = {"train": data.pool, "test": unseen, "report": data.report}
        hashes = {name: [hash_file(path) for path in Checkpoint(folder).files] for name, folder in folders.items()}
        content = json.dumps([choice.about, asdict(protocol), hashes], sort_keys=True)
        place = choice.root / hashlib.sha256(content.encode()).hexdigest()[:12]
        arms = {name: Arm(name, folder) for name, folder in folders.items()}
        self.comparison = Comparison(arms, place, parts, protocol, self.rates, (), 2)
        options = choice.options
        with self.trainer.args.main_process_first(local=False, desc="preparing downstream data"):
            self.comparison.prepare(
                self.cache, data.columns, image_size=options.image_size, max_length=options.max_length
            )
        self.trainer.accelerator.wait_for_everyone()

    def one(self, name: str, rate: float, seed: int, last: bool = False) -> FineTuning:
        """One fine-tuning; the last ones score the examples that are reported on."""
        parts = self.comparison.prepared[name]
        data = {"train": parts["train"], "test": parts["report" if last else "test"]}
        return FineTuning(
            self.comparison.output_dir, name, str(self.comparison.folders[name]), rate, seed, self.protocol,
            self.comparison.columns, data,
        )  # fmt: skip

    def run(self, jobs: Sequence[FineTuning], what: str) -> None:
        """Runs what is not done yet; of several processes each its share."""
        state = self.trainer.accelerator
        count = state.num_processes
        launched = (state.local_process_index, count) if count > 1 else None
        with _apart(), Workers(1, launched) as workers:
            workers.run(jobs[state.process_index :: count], what)
        state.wait_for_everyone()

    def gain(self, scores: Sequence[float], origin: Sequence[float], overlap: float | None = None) -> Gain:
        """Compares scores with those of Θ⁰, by default on the examples that choose."""
        overlap = self.overlap if overlap is None else overlap
        return paired_gain(scores, origin, self.score.higher_is_better, overlap, 1.0 if self.score.percent else None)

    def halve(self, plan: Schedule) -> tuple[str, dict[str, float], dict[str, Gain]]:
        """The best beside Θ⁰, every start's own learning rate, and its gain when it was last looked at."""
        alive = [name for name in self.names if name != ORIGIN]
        own: dict[str, float] = {}
        gains: dict[str, Gain] = {}
        for rung in plan.rungs:
            starts = [ORIGIN, *alive]
            jobs = [self.one(name, rate, seed) for seed in rung.seeds for name in starts for rate in self.rates]
            self.run(jobs, f"Fine-tuning {len(starts)} starts")
            seeds, worth = range(rung.seeds.stop), {}
            for name in starts:
                found = {rate: self._worth(name, rate, seeds) for rate in self.rates}
                own[name] = max(self.rates, key=found.__getitem__)
                worth[name] = found[own[name]]
            of_origin = [self.one(ORIGIN, own[ORIGIN], seed).score("validation") for seed in seeds]
            for name in starts:
                scores = [self.one(name, own[name], seed).score("validation") for seed in seeds]
                gains[name] = self.gain(scores, of_origin)
            alive = sorted(alive, key=lambda name: -worth[name])[: rung.kept]
        return alive[0], own, gains

    def _worth(self, name: str, rate: float, seeds: range) -> float:
        """Mean score on the examples that choose, the larger the better; what diverged is worth least."""
        mean = float(np.mean([self.one(name, rate, seed).score("validation") for seed in seeds]))
        if not math.isfinite(mean):
            return -math.inf
        return mean if self.score.higher_is_better else -mean

    def clear(self) -> None:
        """Deletes what is large and can be made again."""
        self.trainer.accelerator.wait_for_everyone()
        if self.trainer.is_world_process_zero():
            self.comparison.clear()
            remove(self.cache)


@contextmanager
def _apart() -> Iterator[None]:
    """Trains others beside a trainer: what accelerate shares within a process stays as it was, and all is quiet."""
    kept = [(kind, dict(kind._shared_state)) for kind in (PartialState, AcceleratorState, GradientState)]
    try:
        with unremarked():
            yield
    finally:
        for kind, state in kept:
            kind._shared_state.clear()
            kind._shared_state.update(state)


def purpose_words(candidate: str, survivor: str, gains: Mapping[str, Gain], purpose: Purpose) -> str:
    """What to take as a start, how sure that is, and what it is worth.

    Args:
        candidate: Name of the chosen one.
        survivor: The one that halving left.
        gains: Every candidate's gain where it was chosen.
        purpose: What it was chosen for.
    """
    deciding, scores = purpose.deciding, purpose.scores
    against = f"{deciding.name} {deciding.shown(scores[survivor])} against {deciding.shown(scores[ORIGIN])} of Θ⁰"
    if not np.isfinite(scores[survivor]):
        against = f"no {deciding.name}, as fine-tunings of it diverged, against {deciding.shown(scores[ORIGIN])} of Θ⁰"
    where = f"on {purpose.reported:,} other examples, on which nothing was chosen"
    small = (100 if purpose.percent else 1) * np.array([purpose.low, purpose.high])
    sure = f"a gain of {small[0]:+.3g} to {small[1]:+.3g}{' points' * purpose.percent} over {purpose.seeds} seeds"
    if not np.isfinite(small).all():
        sure = f"of {purpose.seeds} seeds some diverged"
    how = (
        f" Each start was fine-tuned at its own learning rate on {purpose.examples:,} examples for {purpose.epochs} "
        f"epochs; {purpose.trainings} fine-tunings trained on {purpose.spent:,} examples of a budget of "
        f"{purpose.budget:,}."
    )
    chance = percent(gains[survivor].chance)
    if candidate == ORIGIN:
        return (
            f"Keep Θ⁰ as a start for {purpose.data} (enriched/best is it): of {len(gains) - 1} candidates none is "
            f"better there beyond chance after fine-tuning; the best, {described(survivor)}, has {against} {where} "
            f"({sure}), and gained so much where it was chosen as comes about by chance in {chance} of cases.{how}"
        )
    return (
        f"Take enriched/best as a start for {purpose.data}: it is {described(candidate)}, chosen among {len(gains)} by "
        f"fine-tuning; {against} {where} ({sure}), and so large a gain as where it was chosen would come about by "
        f"chance in {chance} of cases.{how}"
    )
