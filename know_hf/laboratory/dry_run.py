"""What an experiment will take, before it takes it: every network is built, and takes one training step."""

import json
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from know_hf.forgetting.controls import TRAINED, trainings
from know_hf.forgetting.stages import first_trained_stage, stage_plan, training_steps
from know_hf.laboratory.cells import left_out, places, planned, runnable
from know_hf.laboratory.checks import check_names, check_reset
from know_hf.laboratory.comparison import check_sizes
from know_hf.laboratory.declared import read_data
from know_hf.laboratory.fine_tuning import steps_of
from know_hf.laboratory.measuring import Step, step_of
from know_hf.laboratory.options import Cell, Protocol
from know_hf.laboratory.pretraining import ForgettingRun, build_model
from know_hf.laboratory.recipe import Recipe
from know_hf.laboratory.setting import Pretraining, Setting
from know_hf.laboratory.sources import sources_of
from know_hf.tables import duration, table
from know_hf.tasks import Columns


@dataclass(frozen=True)
class Job:
    """Trainings of one kind.

    Args:
        what: Their name.
        trainings: How many there are.
        examples: Those of each; of several stages, those of the first.
        steps: Optimizer steps of one training, of every stage or phase.
        batch: Examples a step.
    """

    what: str
    trainings: int
    examples: int
    steps: tuple[int, ...]
    batch: int

    def seconds(self, step: Step) -> float:
        """Time within steps of all of them."""
        return self.trainings * sum(self.steps) * self.batch * step.seconds


@dataclass(frozen=True)
class SettingPlan:
    """What one setting will take.

    Args:
        name: The setting's.
        jobs: What is trained.
        step: A step of its network, if that could be built.
        shared: The setting that trains its Θ^0 and forgetting for it, too.
        unknown: What could not be learnt, in words.
        remarks: What the figures leave out, in words.
    """

    name: str
    jobs: tuple[Job, ...]
    step: Step | None
    shared: str | None
    unknown: tuple[str, ...]
    remarks: tuple[str, ...] = ()

    @property
    def seconds(self) -> float | None:
        """Time within steps of all that it trains itself; None if something is not known."""
        return None if self.step is None or self.unknown else sum(job.seconds(self.step) for job in self.jobs)


@dataclass(frozen=True)
class ExperimentPlan:
    """What an experiment will take; print it.

    Args:
        recipe: It.
        settings: One plan a setting.
        machine: What the steps were measured on, in words.
    """

    recipe: Recipe
    settings: tuple[SettingPlan, ...]
    machine: str

    @property
    def seconds(self) -> float | None:
        """Time within steps on one process; None if something is not known."""
        known = [plan.seconds for plan in self.settings]
        return None if None in known else sum(seconds for seconds in known if seconds is not None)

    def __str__(self) -> str:
        rows = [
            ["setting", "parameters", "trains", "trainings", "examples", "steps of each", "batch", "memory", "time"]
        ]
        for plan in self.settings:
            step, name = plan.step, plan.name
            parameters = "unknown" if step is None else f"{step.parameters:,}"
            for job in plan.jobs:
                memory = "unknown" if step is None else f"{step.memory(job.batch) / 1e9:.2f} GB"
                seconds = "unknown" if step is None else duration(job.seconds(step))
                steps = " + ".join(f"{count:,}" for count in job.steps)
                rows.append(
                    [name, parameters, job.what, f"{job.trainings:,}", f"{job.examples:,}", steps, f"{job.batch:,}"]
                    + [memory, seconds]
                )
                name = parameters = ""
            if not plan.jobs:
                rows.append([name, parameters, *["unknown"] * 7])
        notes = [
            f"{plan.name}: Θ⁰ and its forgetting are those of {plan.shared}." for plan in self.settings if plan.shared
        ]
        notes += [f"{plan.name}: {words}" for plan in self.settings for words in (*plan.unknown, *plan.remarks)]
        processes = self.recipe.processes
        share = None if self.seconds is None else duration(self.seconds / processes)
        notes.append(f"Within training steps, by processes: {processes}, in all {share or 'unknown'}.")
        lines = "\n".join(f"- {note}" for note in notes)
        return f"{self.recipe.title}, size {self.recipe.size}\n\n{table(rows)}\n\n{lines}\n- {self.machine}"


def dry_run(
    recipe: Recipe,
    predictors: Mapping[str, str | Path] | None = None,
    rows: int | None = None,
    measured: MutableMapping[str, Step] | None = None,
) -> ExperimentPlan:
    """Builds every network of a recipe, lets it take one training step on a batch of the right shape, and counts.

    Args:
        recipe: From [`load_recipe`].
        predictors: Further predictors, as for [`run_experiment`](know_hf.laboratory.experiment).
        rows: Most examples of the measured step; by default a whole batch, on a processor [`CPU_ROWS`] where that
            would take long.
        measured: Steps that were measured before, which those of this call join.

    Returns:
        What the experiment will take. Data that are neither in the recipe's ``data_folder`` nor declared in its
        ``data_sets``, and models that are not to be had, are named as unknown.

    Raises:
        FileNotFoundError: If a predictor cannot be found.
        ValueError: If the recipe does not fit its data, or its names and numbers do not fit each other.

    Example:
        >>> from know_hf.laboratory.dry_run import dry_run
        >>> from know_hf.laboratory.recipe import load_recipe
        >>> print(dry_run(load_recipe("examples/recipes/table1.yaml", "paper")))  # doctest: +SKIP
    """
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    device = torch.device("cpu") if found is None else found
    measured = {} if measured is None else measured
    trained: dict[str, tuple[str, set[str]]] = {}
    plans = []
    for setting in recipe.runs:
        check_names(recipe, setting, predictors or {})
        plan = _plan(recipe, setting, predictors or {}, device, rows, measured)
        described = json.dumps(asdict(setting.pretraining), sort_keys=True)
        if described in trained:
            mine = {job.what for job in plan.jobs} & trained[described][1]
            plan = replace(plan, shared=trained[described][0], jobs=tuple(j for j in plan.jobs if j.what not in mine))
        else:
            trained[described] = setting.name, {job.what for job in plan.jobs if job.what in TRAINED}
        plans.append(plan)
    counts = sorted({plan.step.rows for plan in plans if plan.step is not None})
    examples = ", ".join(f"{count:,}" for count in counts)
    machine = (
        f"Measured now, one step of each network ({device.type}; {examples or 'no'} examples), taken in proportion to "
        "the batch; scoring and prediction are not counted."
    )
    return ExperimentPlan(recipe, tuple(plans), machine)


def _plan(
    recipe: Recipe,
    setting: Setting,
    predictors: Mapping[str, str | Path],
    device: torch.device,
    rows: int | None,
    measured: MutableMapping[str, Step],
) -> SettingPlan:
    source, target, cells = setting.pretraining, setting.transfer, runnable(setting, predictors)
    missing, setting = left_out(setting, predictors), planned(setting, predictors)
    unknown: list[str] = []
    jobs: list[Job] = []
    step = None
    data = read_data(recipe, source, {"train": source.train_split, "eval": source.eval_split}, unknown)
    if data is not None:
        for control in trainings(setting.controls):
            jobs.append(_training(source, control, data.sizes["train"], data.columns))
        try:
            if setting.reset:
                check_reset(setting, build_model(source, data.columns, 0).model)
            step = step_of(source, data, jobs[0].batch, rows, device, measured)
        except FileNotFoundError as error:
            unknown.append(
                f"the model cannot be built: {error} It starts from these weights, and nothing else says how "
                "large it is: what it takes is unknown until they are at hand."
            )
    if target is not None:
        splits = {"train": target.train_split, "test": target.test_split, "validation": target.validation_split}
        downstream = read_data(recipe, target, splits, unknown)
        if downstream is not None:
            pool, protocol, validated = (
                downstream.sizes["train"],
                target.make_protocol(),
                target.validation_split is not None,
            )
            check_sizes(downstream.columns, pool, validated, protocol, setting.name)
            jobs.append(_fine_tunings(setting, cells, protocol, predictors, pool, validated))
    remarks = []
    if missing:
        remarks.append(f"left out, as their predictor is not given: {', '.join(missing)}.")
    if setting.chosen:
        remarks.append("fitting and choosing are not counted.")
    if target is not None and target.decoder is not None:
        remarks.append(
            "a step of fine-tuning is counted as one of the encoder; its decoder takes time and memory, too."
        )
    return SettingPlan(setting.name, tuple(jobs), step, None, tuple(unknown), tuple(remarks))


def _training(source: Pretraining, control: str, examples: int, columns: Columns) -> Job:
    """The forgetting, or a control that is trained."""
    args = ForgettingRun(Path("dry-run"), control, source, columns, {}).arguments()
    args.stratify_by = None  # which changes no sizes to speak of, and needs the labels
    planned = list(zip(*stage_plan(range(examples), args), strict=True))[first_trained_stage(args) :]
    steps = tuple(most if most > 0 else training_steps(len(subset), args) for subset, most in planned)
    return Job(control, 1, len(planned[0][0]), steps, args.train_batch_size * args.gradient_accumulation_steps)


def _fine_tunings(
    setting: Setting,
    cells: Sequence[Cell],
    protocol: Protocol,
    predictors: Mapping[str, str | Path],
    pool: int,
    validated: bool,
) -> Job:
    ratio, full = setting.pretraining.training.get("sampling_ratio", 0.5), setting.full_grid
    sources = sources_of(setting, predictors)
    arms = [arm for source in sources for arm in source.arms(ratio)]
    whole = [arm for arm in arms if arm.role == "naive" or "all" in full or arm.is_among(full)]
    each = len(places(cells)) or len(whole) * len(setting.learning_rates) + len(arms) - len(whole)
    examples = protocol.examples or pool - (0 if validated else protocol.validation_examples)
    return Job("fine-tunings", setting.seeds * each, examples, steps_of(protocol, examples), protocol.batch_size)
