"""What ForgettingTrainer costs beside Trainer: the same steps on the same data with both, in pairs.

    python examples/benchmark_trainer.py --work-dir WORK [--steps 2000] [--pairs 5]

A tiny network on handwritten digits, on one thread, so that whatever a trainer adds to a step shows. Trainer is given
the nested subsets one after the other and told to train on each, which is the least that forgetting by hand takes; it
neither saves nor records stages. Pairs take turns in who begins. Processor time varies least beside other work.
"""

import argparse
import os
import shutil
import statistics
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # so small a network is slower on two, and its time varies more

from transformers import Trainer, TrainingArguments

from know_hf import ForgettingArguments
from know_hf.forgetting.pretrained import make_trainer
from know_hf.forgetting.stages import stage_plan
from know_hf.models import timm_from_scratch
from know_hf.quickstart import digits
from know_hf.report import table

STAGES = 5


def forgetting_trainer(folder: Path, steps: int):
    """A trainer of five stages with a fifth of the steps each."""
    shutil.rmtree(folder, ignore_errors=True)
    model = timm_from_scratch(
        "resnet10t", image_size=16, model_args={"channels": [8, 8, 16, 16], "stem_width": 8, "in_chans": 1},
        mean=(0.3,), std=(0.4,), num_labels=10,
    )  # fmt: skip
    args = ForgettingArguments(str(folder), num_stages=STAGES, train_stage_zero=True, **settings(steps))
    return make_trainer(model, digits(tuple(range(10))), args=args)


def settings(steps: int) -> dict:
    """What both trainers are told."""
    return {
        "max_steps": steps // STAGES, "per_device_train_batch_size": 16, "save_strategy": "no", "report_to": "none",
        "logging_steps": 20, "dataloader_drop_last": True, "disable_tqdm": True, "dataloader_pin_memory": False,
    }  # fmt: skip


def forget(folder: Path, steps: int) -> tuple[float, float]:
    """Seconds, and seconds of the processor, that ForgettingTrainer takes."""
    trainer = forgetting_trainer(folder, steps)
    start = time.perf_counter(), time.process_time()
    trainer.train()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def train(folder: Path, steps: int) -> tuple[float, float]:
    """What Trainer takes for the same."""
    source = forgetting_trainer(folder, steps)
    subsets, _ = stage_plan(source.train_dataset, source.args)
    args = TrainingArguments(str(folder), remove_unused_columns=False, **settings(steps))
    trainer = Trainer(model=source.model, args=args, data_collator=source.data_collator, train_dataset=subsets[0])
    start = time.perf_counter(), time.process_time()
    for subset in subsets:
        trainer.train_dataset = subset
        trainer.train()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--pairs", type=int, default=5)
    args = parser.parse_args()
    for run in (train, forget):  # whatever the first of all pays for
        run(args.work_dir / "warm-up", STAGES)
    rows, ratios = [["pair", "Trainer, s", "ForgettingTrainer, s", "ratio", "ratio of processor time"]], []
    for pair in range(args.pairs):
        order = (train, forget) if pair % 2 == 0 else (forget, train)
        seconds = {run: run(args.work_dir / run.__name__, args.steps) for run in order}
        ratios.append([mine / theirs for mine, theirs in zip(seconds[forget], seconds[train], strict=True)])
        times = f"{seconds[train][0]:.1f}", f"{seconds[forget][0]:.1f}"
        rows.append([str(pair + 1), *times, *(f"{ratio:.3f}" for ratio in ratios[-1])])
        print(rows[-1], flush=True)
    print(f"\n{args.steps} steps in {STAGES} stages, {args.pairs} pairs\n\n{table(rows)}\n")
    for name, found in zip(("time", "processor time"), zip(*ratios, strict=True), strict=True):
        spread = f" ± {statistics.stdev(found):.3f}" if len(found) > 1 else ""
        print(f"{name}: median ratio {statistics.median(found):.3f}, mean {statistics.mean(found):.3f}{spread}")


if __name__ == "__main__":
    main()
