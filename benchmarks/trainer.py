"""What ForgettingTrainer costs beside Trainer: the same steps on the same data with both, in pairs.

    python benchmarks/trainer.py [--work-dir WORK] [--steps 2000 --pairs 5]

Without arguments two short pairs, in under a minute: too few for the ratio, enough for the share. A tiny network on
handwritten digits, on one thread, so that whatever a trainer adds to a step shows. Trainer is given
the nested subsets one after the other and told to train on each, which is the least that forgetting by hand takes; it
neither saves nor records stages. Pairs take turns in who begins. The last column is exact where the ratio is not: the
share of the time that ForgettingTrainer spends outside of Trainer's own train, saving and recording stages.
"""

import argparse
import os
import shutil
import statistics
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # so small a network is slower on two, and its time varies more

from retrodiction import peak_mb
from transformers import Trainer, TrainingArguments

from know_hf import ForgettingArguments, ForgettingMixin
from know_hf.forgetting.making import make_trainer
from know_hf.forgetting.stages import stage_plan
from know_hf.models.building import timm_from_scratch
from know_hf.quickstart import digits
from know_hf.report import table

STAGES = 5


class Timed(Trainer):
    """A Trainer that adds up the seconds of its own training."""

    seconds = 0.0

    def train(self, *args, **kwargs):
        start = time.perf_counter()
        try:
            return super().train(*args, **kwargs)
        finally:
            self.seconds += time.perf_counter() - start


class TimedForgetting(ForgettingMixin, Timed):
    """The same, forgetting."""


def forgetting_trainer(folder: Path, steps: int):
    """A trainer of five stages with a fifth of the steps each."""
    shutil.rmtree(folder, ignore_errors=True)
    model = timm_from_scratch(
        "resnet10t", image_size=16, model_args={"channels": [8, 8, 16, 16], "stem_width": 8, "in_chans": 1},
        mean=(0.3,), std=(0.4,), num_labels=10,
    )  # fmt: skip
    args = ForgettingArguments(str(folder), num_stages=STAGES, train_stage_zero=True, **settings(steps))
    return make_trainer(model, digits(tuple(range(10))), args=args, trainer_class=TimedForgetting)


def settings(steps: int) -> dict:
    """What both trainers are told."""
    return {
        "max_steps": steps // STAGES, "per_device_train_batch_size": 16, "save_strategy": "no", "report_to": "none",
        "logging_steps": 20, "dataloader_drop_last": True, "disable_tqdm": True, "dataloader_pin_memory": False,
    }  # fmt: skip


def forget(folder: Path, steps: int) -> tuple[float, float]:
    """Seconds that ForgettingTrainer takes, and those of them in Trainer's own train."""
    trainer = forgetting_trainer(folder, steps)
    start = time.perf_counter()
    trainer.train()
    return time.perf_counter() - start, trainer.seconds


def train(folder: Path, steps: int) -> tuple[float, float]:
    """What Trainer takes for the same."""
    source = forgetting_trainer(folder, steps)
    subsets, _ = stage_plan(source.train_dataset, source.args)
    args = TrainingArguments(str(folder), remove_unused_columns=False, **settings(steps))
    trainer = Timed(model=source.model, args=args, data_collator=source.data_collator, train_dataset=subsets[0])
    for subset in subsets:
        trainer.train_dataset = subset
        trainer.train()
    return trainer.seconds, trainer.seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, default=Path("runs/benchmark-trainer"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--pairs", type=int, default=2)
    args = parser.parse_args()
    for run in (train, forget):  # whatever the first of all pays for
        run(args.work_dir / "warm-up", STAGES)
    head = ["pair", "Trainer, s", "ForgettingTrainer, s", "ratio", "outside of Trainer.train", "peak memory, MB"]
    rows, ratios, shares = [head], [], []
    for pair in range(args.pairs):
        order = (train, forget) if pair % 2 == 0 else (forget, train)
        seconds, peaks = {}, {}
        for run in order:
            peak_mb(reset=True)
            seconds[run] = run(args.work_dir / run.__name__, args.steps)
            peaks[run] = peak_mb()
        (plain, _), (whole, inner) = seconds[train], seconds[forget]
        ratios.append(whole / plain)
        shares.append((whole - inner) / inner)
        beside = f"{peaks[train]:.0f}, {peaks[forget]:.0f}"
        rows.append([str(pair + 1), f"{plain:.1f}", f"{whole:.1f}", f"{ratios[-1]:.3f}", f"{shares[-1]:.2%}", beside])
        print(rows[-1], flush=True)
    print(f"\n{args.steps} steps in {STAGES} stages, {args.pairs} pairs\n\n{table(rows)}\n")
    spread = f" ± {statistics.stdev(ratios):.3f}" if len(ratios) > 1 else ""
    print(f"median ratio {statistics.median(ratios):.3f}, mean {statistics.mean(ratios):.3f}{spread}")
    print(f"outside of Trainer.train: {statistics.mean(shares):.2%} of the time within it")


if __name__ == "__main__":
    main()
