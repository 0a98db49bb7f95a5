"""Branches beside a trial: what else its stages could have become.

A branch starts from Θ^(i−1), as stage i did, and takes as many steps as it, on D^j: with j = i it repeats the stage
independently; with j = i−1 it is what the same steps make of more data. Both begin with a fresh optimizer, so that
their difference is the data's alone.
"""

import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, set_seed
from transformers.trainer_callback import PrinterCallback

from know_hf.forgetting.arguments import ForgettingArguments
from know_hf.forgetting.stages import stage_subsets, training_steps
from know_hf.known.threads import one_thread
from know_hf.laboratory.protocol import Advance
from know_hf.meta.shards import DAMAGES, VERSION, check_format, check_tensors, is_noted, read_shard, write_table
from know_hf.meta.trials import TrialRun, make_in_turn, read_note
from know_hf.records import check_fields, read_record
from know_hf.store import inside, write_json
from know_hf.training.examples import as_it_is
from know_hf.trajectory import TrajectoryError
from know_hf.trajectory.kinds import PREDICTED_KINDS

#: The branches of a trial: stage whose start and steps they share, and stage whose data they see.
BRANCHES = ((1, 1), (1, 0), (2, 2), (2, 1))

SCHEMA = pa.schema(
    [
        ("trial", pa.int64()),
        ("tensor", pa.string()),
        ("stage", pa.int64()),
        ("data", pa.int64()),
        ("repetition", pa.int64()),
        ("values", pa.list_(pa.float32())),
    ],
    metadata={"know_hf": json.dumps({"version": VERSION})},
)


@dataclass(frozen=True)
class BranchRun:
    """All branches of one trial, for [`Workers`](know_hf.training.workers); the trial has to be done."""

    trial_run: TrialRun
    repetitions: int

    @property
    def folder(self) -> Path:
        """Where branches lie in a meta-data set."""
        return self.trial_run.folder / "branches"

    @property
    def note(self) -> Path:
        """Says what became of them; it is written last."""
        return self.folder / f"{self.trial_run.trial.name}.json"

    @property
    def done(self) -> bool:
        """Whether they are there, undamaged, or have nothing to start from."""
        if self.trial_run.done and "diverged" in read_note(self.trial_run.note):
            return True
        return self.note.exists() and is_noted(self.shard, read_branch_note(self.note))

    @property
    def shard(self) -> Path:
        """The file of the branches' tensors."""
        return self.folder / f"{self.trial_run.trial.name}.parquet"

    @property
    def ready(self) -> bool:
        """Whether the trial is there."""
        return self.trial_run.done

    @property
    def cost(self) -> float:
        """Examples to train on, in all."""
        trial = self.trial_run.trial
        share = sum(trial.sampling_ratio**stage for stage, _ in BRANCHES)
        return trial.examples * trial.epochs * share * self.repetitions

    def check(self) -> None:
        """Raises if the branches that are there have another number of repetitions.

        Raises:
            TrajectoryError: If they have, or their note is damaged.
            ValueError: If their work folder is a link.
        """
        inside(self.trial_run.folder, self.work.relative_to(self.trial_run.folder))
        if self.note.exists() and (repetitions := read_branch_note(self.note)["repetitions"]) != self.repetitions:
            raise TrajectoryError(
                f"{self.note} was made with {repetitions} repetitions, not {self.repetitions}: repeat that number, or "
                "take another folder."
            )

    def run(self) -> None:
        """Trains them; branches that diverge are noted and left out together; see [`TrialRun.run`]."""
        make_in_turn(self)

    @property
    def work(self) -> Path:
        """The folder that they run in."""
        return self.trial_run.folder / "work" / f"{self.trial_run.trial.name}-branches"

    def make(self, work: Path) -> None:
        """Trains them in a folder that no one else uses now."""
        trial = self.trial_run.trial
        model, train, _ = self.trial_run.parts()
        args = self.trial_run.arguments(work)
        subsets: Sequence[Any] = stage_subsets(train, args)
        stages = list(read_shard(self.trial_run.shard))
        initial, live = copy.deepcopy(model.state_dict()), check_tensors(self.trial_run.shard, stages, model)
        predicted = [tensor.tensor for tensor in stages if tensor.kind in PREDICTED_KINDS]
        rows: list[dict[str, Any]] = []
        content: dict[str, Any] = {"repetitions": self.repetitions}
        for stage, data in BRANCHES:
            for repetition in range(self.repetitions):
                start = {live[t.tensor]: torch.from_numpy(t.values[stage - 1]).view(t.shape) for t in stages}
                model.load_state_dict({**initial, **start})
                seed = (trial.seed + 1) * 1000 + stage * 100 + data * 10 + repetition
                steps = training_steps(len(subsets[stage]), args)
                _train(model, self.trial_run.arguments(work, max_steps=steps, seed=seed), subsets[data])
                trained = model.state_dict()
                state = {name: trained[live[name]].cpu().clone() for name in predicted}
                if not all(values.isfinite().all() for values in state.values()):
                    content["diverged"] = f"stage {stage} on the data of stage {data}"
                rows += [
                    {
                        "trial": trial.seed, "tensor": name, "stage": stage, "data": data, "repetition": repetition,
                        "values": values.flatten().numpy(),
                    }
                    for name, values in state.items()
                ]  # fmt: skip
        if "diverged" not in content:
            content["sha256"] = write_table(self.shard, pa.Table.from_pylist(rows, schema=SCHEMA))
        write_json(self.note, content, shared=True)


_REMEDY = "delete it and run `know-hf collect --branches` again, which makes it anew"


def read_branch_note(path: Path) -> dict[str, Any]:
    """Reads what became of a trial's branches: ``repetitions``, and either ``diverged`` or ``sha256`` of the file.

    Raises:
        TrajectoryError: If it is damaged.
    """
    note = read_record(path, {"repetitions": int}, _REMEDY)
    return check_fields(path, note, {"diverged" if "diverged" in note else "sha256": str}, _REMEDY)


def _train(model: nn.Module, args: ForgettingArguments, subset: Dataset) -> None:
    set_seed(args.seed)
    trainer = Trainer(model=model, args=args, train_dataset=subset, data_collator=as_it_is, callbacks=[Advance()])
    trainer.remove_callback(PrinterCallback)
    with one_thread():
        trainer.train()


def read_branches(path: Path) -> Iterator[tuple[str, int, int, np.ndarray]]:
    """Reads branches: tensor's name, stage, stage of the data, and the flattened values.

    Raises:
        TrajectoryError: If the file is damaged, holds no branches or was written by a newer version.
    """
    try:
        table = pq.read_table(path)
    except DAMAGES as error:
        raise TrajectoryError(f"{path} is damaged: {error}") from error
    check_format(path, table.schema, SCHEMA)
    for name, stage, data, values in zip(
        *(table[column].to_pylist() for column in ("tensor", "stage", "data")), table["values"], strict=True
    ):
        yield name, stage, data, values.values.to_numpy()
