"""Measures how well the meta-training loop keeps its network fed.

    python benchmarks/meta_training.py [META] [--processes 2] [--rows 1000000]

META is a meta-data set of `know-hf collect`; without it a small one is made of scikit-learn's digits, and all takes
about a minute. Every process trains one network on one processor, as `know-hf meta-train --processes` does. The limit
it is compared with is the forward and backward pass of the same network, in the same folded form, on one batch that
stays where it is; the plain form of the paper's equations stands beside it.
"""

import argparse
import multiprocessing
import time
from pathlib import Path

import torch

from know_hf import KnownConfig, KnownPredictor
from know_hf.meta.collection import collect
from know_hf.meta.data_set import MetaDataSet
from know_hf.meta.networks import NETWORKS
from know_hf.meta.samples import Batch, Samples
from know_hf.meta.training import KindTraining, MetaTrainingSettings, residuals
from know_hf.quickstart import digits
from know_hf.report import table


def measure(meta: str, rows: int, kind: str, barrier, results) -> None:
    """Times each way in turn, together with the other processes, and puts samples a second into ``results``."""
    torch.set_num_threads(1)
    found = MetaDataSet(meta)
    config, settings = KnownConfig(), MetaTrainingSettings(rows=rows)
    train = Samples(found, [note["name"] for note in found.trials[:60]], kind, config)
    job = KindTraining(kind, Path(meta), None, config, settings, Path("unused"))
    network = KnownPredictor(config).network(kind)
    progress = job._progress(network)
    batch: Batch = train.draw(settings.batch_size, torch.Generator().manual_seed(0))
    plain = batch.history.T.contiguous()

    def resident():
        (batch.history[-1] + residuals(network, batch) - batch.target).abs().mean().backward()
        network.zero_grad(set_to_none=True)

    def resident_plain():
        (plain[:, -1] + network(plain) - batch.target).abs().mean().backward()
        network.zero_grad(set_to_none=True)

    repeats = max(rows // settings.batch_size, 1)
    for name, run, count in (
        ("plain form, resident batch", resident_plain, repeats),
        ("folded form, resident batch", resident, repeats),
        ("training loop", lambda: job._epoch(network, progress, train), 1),
        ("folded form, resident batch, again", resident, repeats),
    ):
        barrier.wait()
        begun = time.perf_counter()
        for _ in range(count):
            run()
        samples = rows if count == 1 else count * settings.batch_size
        results.put((name, samples / (time.perf_counter() - begun)))


def small_set(folder: Path) -> Path:
    """One brief trial of every family of networks on the digits."""
    data = folder / "digits"
    if not data.exists():
        split = digits(tuple(range(10))).train_test_split(test_size=100, seed=0)
        (data / "data").mkdir(parents=True)
        for part in ("train", "test"):
            split[part].to_parquet(data / "data" / f"{part}-00000-of-00001.parquet")
    brief = {"examples": (300, 400), "epochs": (1, 1), "converged": 0.0, "large": 0.0}
    collect(folder / "meta", [str(data)], trials=len(NETWORKS), **brief)
    return folder / "meta"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("meta", nargs="?", help="folder of a meta-data set; default: a small one is made")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args()
    options.meta = options.meta or str(small_set(Path("runs/benchmark-meta")))
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(options.processes), spawn.SimpleQueue()
    kinds = ["conv", "fc", "bias"]
    jobs = [(options.meta, options.rows, kinds[i % 3], barrier, results) for i in range(options.processes)]
    if len(jobs) == 1:
        measure(*jobs.pop())
    workers = [spawn.Process(target=measure, args=job) for job in jobs]
    for worker in workers:
        worker.start()
    speeds: dict[str, float] = {}
    for _ in range(4 * options.processes):
        name, speed = results.get()
        speeds[name] = speeds.get(name, 0.0) + speed
    for worker in workers:
        worker.join()
    limit = max(speed for name, speed in speeds.items() if name.startswith("folded"))
    rows = [["what", "million samples a second", "share of the limit"]]
    rows += [[name, f"{speed / 1e6:.2f}", f"{speed / limit:.0%}"] for name, speed in speeds.items()]
    print(table(rows))


if __name__ == "__main__":
    main()
