"""How many trials and samples an hour `know-hf collect` gives, on handwritten digits.

    python benchmarks/collection.py --work-dir WORK [--trials 4]

One process on one processor; the part of the time within training itself is what the rest is compared with.
"""

import argparse
import shutil
import time
from pathlib import Path

import torch
from transformers import Trainer

from know_hf.meta.collection import collect
from know_hf.quickstart import digits
from know_hf.tables import table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    split = digits(tuple(range(10))).train_test_split(test_size=100, seed=0)
    data = args.work_dir / "digits" / "data"
    data.mkdir(parents=True, exist_ok=True)
    for part in ("train", "test"):
        split[part].to_parquet(data / f"{part}-00000-of-00001.parquet")
    seconds = {"training": 0.0}
    train = Trainer.train

    def timed(trainer: Trainer, *arguments, **keywords):
        begun = time.thread_time()
        try:
            return train(trainer, *arguments, **keywords)
        finally:
            seconds["training"] += time.thread_time() - begun

    Trainer.train = timed
    shutil.rmtree(args.work_dir / "meta", ignore_errors=True)
    begun = time.thread_time()
    found = collect(
        args.work_dir / "meta", [str(data.parent)], trials=args.trials, examples=(300, 400), epochs=(1, 1),
        converged=0.0, large=0.0,
    )  # fmt: skip
    used = time.thread_time() - begun
    weights = sum(len(tensor.values[0]) for note in found.trials for tensor in found.read(note["name"]))
    rows = [["what", ""], ["trials", str(args.trials)], ["processor seconds a trial", f"{used / args.trials:.2f}"]]
    if seconds["training"]:
        rows.append(["of these in Trainer.train", f"{seconds['training'] / used:.0%}"])
    rows.append(["histories of weights a processor second", f"{weights / used:,.0f}"])
    print(table(rows))


if __name__ == "__main__":
    main()
