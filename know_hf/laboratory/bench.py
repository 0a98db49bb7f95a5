"""One setting of a recipe on its way: checked, prepared, pre-trained, retrodicted, compared."""

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from know_hf.enrichment.branches import branches_of, whole_model
from know_hf.enrichment.stream import enrich
from know_hf.forgetting.controls import CONTROLS, FORGETTING, Averaged, find_control, trainings
from know_hf.forgetting.folder import RunFolder
from know_hf.forgetting.subsets import subset_sizes
from know_hf.laboratory.arms import Arm, make_arm
from know_hf.laboratory.captioners import CAPTIONING, Writer
from know_hf.laboratory.cells import places, planned, runnable
from know_hf.laboratory.checks import check_reset
from know_hf.laboratory.chosen import SELECTION, ChosenStarts, choose_starts
from know_hf.laboratory.comparison import Comparison, check_sizes
from know_hf.laboratory.fast import goes_fast
from know_hf.laboratory.fine_tuning import FineTuning
from know_hf.laboratory.hypothesis import measure, refits, save_returns
from know_hf.laboratory.inputs import begun_with
from know_hf.laboratory.landscape import score_landscape
from know_hf.laboratory.outcome import (
    OWN_SCORES_FILE,
    RETURNS_FILE,
    SettingResult,
    save_own_scores,
    setting_folder,
    stages_read,
)
from know_hf.laboratory.pretraining import ForgettingRun, build_model
from know_hf.laboratory.recipe import Recipe
from know_hf.laboratory.result import ReferenceLostError
from know_hf.laboratory.setting import Setting
from know_hf.laboratory.sources import Source, sources_of
from know_hf.laboratory.unseen import check_unseen
from know_hf.models.building import load_with_new_head
from know_hf.records import file_name, read_record
from know_hf.store import inside, write_json
from know_hf.tasks import get_task
from know_hf.tasks.images import IMAGES
from know_hf.training.data import check_part, load_split, open_parts
from know_hf.training.held_out import hold_out
from know_hf.training.prepared import prepare
from know_hf.training.scoring import ROWS, make_scoring, network_score
from know_hf.trajectory import TrajectoryRecord

logger = logging.getLogger(__name__)


class Bench:
    """One setting on its way."""

    def __init__(self, recipe: Recipe, setting: Setting, root: Path, predictors: Mapping[str, str | Path]) -> None:
        #: What is fine-tuned in place of arms and grid.
        self.cells = places(runnable(setting, predictors))
        self.asked, self.setting, self.root = setting, planned(setting, predictors), root
        self.fast = recipe.fast
        self.averages = recipe.averages(setting.pretraining)
        self.folder = setting_folder(root, setting)
        self.predictors = predictors
        source, target = setting.pretraining, setting.transfer
        splits = {"train": source.train_split, "eval": source.eval_split}
        if source.selection_split is not None and self.setting.chosen:
            splits[SELECTION] = source.selection_split
        opened, self.columns = open_parts(
            {part: load_split(recipe.data(source.dataset), split) for part, split in splits.items()},
            task=source.task, label=source.label_column,
        )  # fmt: skip
        self.pretraining_data: dict[str, Any] = opened
        self.transfer_data: dict[str, Any] = {}
        if target is not None:
            further = {"train": target.train_split, "test": target.test_split, "validation": target.validation_split}
            self.transfer_data = {
                part: None if split is None else load_split(recipe.data(target.dataset), split)
                for part, split in further.items()
            }
            if target.held_out is not None:
                self.transfer_data = hold_out(self.transfer_data, target.held_out)
            self.transfer_data, self.transfer_columns = open_parts(
                self.transfer_data, task=target.task, label=target.label_column
            )
        self.runs: dict[str, ForgettingRun] = {}
        self.arms: dict[str, Arm] = {}
        self.retrodicted: dict[str, Path] = {}
        self.seconds: dict[str, float] = {}
        self.chosen: ChosenStarts | None = None
        self.comparison: Comparison | None = None
        self.writer: Writer | None = None

    def check(self) -> None:
        """Raises what would be raised after hours of training, once the data are there: their columns and sizes."""
        setting, source = self.setting, self.setting.pretraining
        fields = ForgettingRun(self.folder, FORGETTING, source, self.columns, {}).arguments()
        for columns in (self.columns, *([self.transfer_columns] if setting.transfer else [])):
            if source.image_mean is not None and get_task(columns.task).inputs.name != IMAGES.name:
                raise ValueError(f"{setting.name}: image_mean is of images; the task is {columns.task}.")
            goes_fast(self.fast, columns.task)  # raises if it is asked for in vain
        # How many examples the rows of a text make shows when they are prepared.
        if get_task(self.columns.task).rows_are_examples:
            sampled = fields.num_stages + bool(fields.self_check)
            subset_sizes(len(self.pretraining_data["train"]), fields.sampling_ratio, sampled)
        self._check_reset()
        if setting.transfer is None:
            return
        protocol, columns = setting.transfer.make_protocol(), self.transfer_columns
        make_scoring(protocol.metric, columns.task, len(columns.class_names))
        decoder = setting.transfer.make_decoder()
        if decoder is not None:
            self.writer = Writer(decoder, self.transfer_data["train"], columns, source.image_size)
        elif columns.task == CAPTIONING != self.columns.task:
            raise ValueError(
                f"{setting.name}: models of {self.columns.task} write no captions: give transfer a decoder."
            )
        parts = self.transfer_data
        check_unseen(parts["train"], parts["test"], parts["validation"], columns, setting.name)
        validated = parts["validation"] is not None
        check_sizes(columns, len(self.transfer_data["train"]), validated, protocol, setting.name)

    def _check_reset(self) -> None:
        """Raises if there is no normalisation to reset, where that is asked for."""
        source = self.setting.pretraining
        if self.setting.reset:
            columns = get_task(self.columns.task).columns_for(self.columns, source.model)
            check_reset(self.setting, build_model(source, columns, 0).model)

    def prepare(self) -> None:
        """Prepares the data of pre-training and says what is to be trained."""
        source = self.setting.pretraining
        self.columns = get_task(self.columns.task).columns_for(self.columns, source.model)
        loaded = build_model(source, self.columns, source.training.get("seed", 42))
        noted = inside(self.root, self.folder.relative_to(self.root) / "inputs.json")
        begun_with(noted, source.model, self.pretraining_data)
        self.columns = replace(self.columns, class_names=loaded.class_names)
        if self.writer is not None:
            self.writer.check(loaded.model)
        for part, dataset in self.pretraining_data.items():
            check_part(dataset, self.columns, getattr(loaded.model.config, "num_labels", 0), f"{part} data")
        data = {
            part: prepare(
                dataset, self.root / "cache", loaded.model, source.model, self.columns, image_size=source.image_size,
                max_length=source.max_length, name=f"{part} data of {self.setting.name}",
            )
            for part, dataset in self.pretraining_data.items()
        }  # fmt: skip
        # Settings with the same pre-training share it, whatever is then chosen on.
        told = {name: value for name, value in asdict(source).items() if value is not None}
        told.pop("selection_split", None)
        files = sorted(path.name for part, path in data.items() if part != SELECTION)
        described = json.dumps([told, files], sort_keys=True)
        folder = self.root / "pretraining" / hashlib.sha256(described.encode()).hexdigest()[:12]
        for name in trainings(self.setting.controls):
            start = None if CONTROLS[name].start == "model" else folder / FORGETTING / CONTROLS[name].start
            own = inside(self.root, (folder / name).relative_to(self.root))
            self.runs[name] = ForgettingRun(own, name, source, self.columns, data, start, self.averages, self.fast)

    def make_arms(self) -> None:
        """Retrodicts, and collects every start to compare."""
        self.trajectory = stages_read(self.runs[FORGETTING].folder, self.setting)
        for source in sources_of(self.setting, self.predictors):
            if source.method is not None:
                self._predict(source)
            elif source.name in self.setting.chosen:
                self.arms[source.name] = Arm(
                    source.name, self._choose().folders[source.name], source.role or "method", prediction=source.name
                )
            else:
                folder = self._trained(source.name)
                self.arms[source.name] = make_arm(source.name, folder, role=source.role, prediction=source.prediction)
        self._compare()

    def _choose(self) -> ChosenStarts:
        if self.chosen is None:
            self.chosen = choose_starts(self.runs[FORGETTING], self.trajectory, self.setting.steps)
        return self.chosen

    def _trained(self, name: str) -> Path:
        """The checkpoint that Θ^0 is, or that a control was trained to be."""
        if name == "naive":
            return self.trajectory.checkpoints[0].folder
        result = find_control(name)[0].result
        if isinstance(result, Averaged):
            return RunFolder(self.runs[FORGETTING].folder).average(result.average)
        if not isinstance(result, int):
            raise TypeError(f"{name} is predicted, no training leaves it.")
        folder = self.runs[name].folder
        return folder / TrajectoryRecord.load(folder).stages[result].folder

    def _predict(self, source: Source) -> None:
        folder = inside(self.folder, Path("arms") / file_name(source.name))
        begun, timing = time.perf_counter(), folder / "seconds.json"
        trajectory, options = self.trajectory, dict(source.options)
        if source.branches is not None:
            trajectory = branches_of(self.runs[source.branches].folder)
            options |= whole_model(trajectory)
        made = enrich(trajectory, folder, method=source.method, steps=source.steps, **options).checkpoints
        if not timing.exists():
            write_json(timing, {"seconds": time.perf_counter() - begun}, indent=None)
        seconds = read_record(timing, {"seconds": float}, "delete it and run again")["seconds"]
        of = source.prediction
        self.seconds[of] = self.seconds.get(of, 0.0) + seconds
        expected = source.arms(trajectory.record.sampling_ratio)
        for arm, path in zip(expected, made.values(), strict=True):
            arm_made = make_arm(arm.name, path, role=source.role, prediction=of)
            self.arms[arm.name] = replace(arm_made, candidate_of=arm.candidate_of)
        window = self.trajectory.self_check_window()
        if window is not None and not {"parameters", "norms"} & options.keys():
            folder = inside(self.folder, Path("retrodicted") / folder.name)
            self.retrodicted[source.name] = next(
                iter(enrich(window, folder, method=source.method, steps=1, **source.options).checkpoints.values())
            )

    def _compare(self) -> None:
        setting, target = self.setting, self.setting.transfer
        if target is None:
            return
        full = setting.full_grid
        spared = [arm for arm in self.arms.values() if arm.role != "naive" and not arm.is_among(full)]
        one_rate = [] if "all" in full else [arm.name for arm in spared]
        data = {part: data for part, data in self.transfer_data.items() if data is not None}
        starts = self.arms
        if self.writer is not None:  # a space, which no prediction's folder has in its name
            starts = self.writer.join(self.arms, self.root, self.folder / "arms" / "with decoder")
        self.comparison = Comparison(
            starts,
            self.folder,
            data,
            target.make_protocol(),
            list(setting.learning_rates),
            one_rate,
            setting.seeds,
            self.fast,
        )
        source = setting.pretraining
        self.comparison.prepare(
            self.root / "cache", self.transfer_columns, image_size=source.image_size, max_length=source.max_length,
            image_mean=source.image_mean,
        )  # fmt: skip

    def tunings(self, part: str) -> list[FineTuning]:
        """What is fine-tuned: the ``grid`` of learning rates, the ``rest`` once that is done, or ``cells``."""
        if self.comparison is None or bool(self.cells) != (part == "cells"):
            return []
        if part == "cells":
            return self.comparison.at(self.cells)
        if part == "grid":
            return self.comparison.grid()
        try:
            return self.comparison.rest()
        except ReferenceLostError as error:  # of this setting alone; the report says it, too
            logger.warning("%s", error)
            return []

    def refits(self) -> dict[str, ForgettingRun]:
        """What is trained for the hypothesis, once there are arms; nothing where no one asked."""
        if not self.setting.hypothesis:
            return {}
        predictions = (*self.setting.methods, *self.predictors)
        first = {
            arm.name: arm.checkpoint for arm in self.arms.values() if arm.step == 1 and arm.prediction in predictions
        }
        return refits(self.runs[FORGETTING], inside(self.root, self.folder.relative_to(self.root) / "refits"), first)

    def _own_score(self, folder: Path) -> float:
        """Scores a checkpoint as it is on the pre-training's own held-out data."""
        run = self.runs[FORGETTING]
        model = load_with_new_head(folder, self.columns, 0, new_head=False)
        test, train = (run.examples[part] for part in ("eval", "train"))
        return network_score(model, test, train, get_task(self.columns.task), self._rows)

    @property
    def _rows(self) -> int:
        """Examples that are scored at a time."""
        return min(ROWS, self.runs[FORGETTING].arguments().per_device_eval_batch_size)

    def note(self) -> None:
        """Notes where everything is."""
        parts: dict[str, dict[str, Path]] = {
            "runs": {name: run.folder for name, run in self.runs.items()},
            "arms": {name: arm.checkpoint for name, arm in self.arms.items()},
            "retrodicted": self.retrodicted,
        }
        if refitted := self.refits():
            parts["refits"] = {name: run.folder for name, run in refitted.items()}
        content: dict[str, Any] = {
            part: {name: path.relative_to(self.root).as_posix() for name, path in paths.items()}
            for part, paths in parts.items()
        }
        content["starts"] = {name: arm.record for name, arm in self.arms.items()}
        if self.chosen is not None:
            content["candidate"] = self.chosen.candidate
        write_json(self.folder / "setting.json", {**content, "seconds": self.seconds})

    def finish(self) -> None:
        """Scores what is to be scored, draws the landscape, and notes where everything is."""
        if self.comparison:
            self.comparison.clear()
        self.note()
        refitted = self.refits()
        scores, returned = self.folder / OWN_SCORES_FILE, self.folder / RETURNS_FILE
        if self.setting.own_scores and not scores.exists():
            save_own_scores(scores, {name: self._own_score(arm.checkpoint) for name, arm in self.arms.items()})
        if refitted and not returned.exists():
            save_returns(returned, measure(self.trajectory, refitted, self._own_score))
        drawn = self.folder / "landscape.json"
        if self.setting.landscape and not drawn.exists():
            result = SettingResult.load(self.asked, self.root)
            run = self.runs[FORGETTING]
            model = build_model(self.setting.pretraining, self.columns, 0).model
            test, train = (run.examples[part] for part in ("eval", "train"))
            landscape = score_landscape(
                self.trajectory, result.plane, model, test, train, task=get_task(self.columns.task),
                rows=self._rows, resolution=self.setting.landscape,
                noise=self.setting.noise,
            )  # fmt: skip
            landscape.save(drawn)
