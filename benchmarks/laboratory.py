"""How near the laboratory's training comes to a bare PyTorch loop that does the same: images a second, in pairs.

    python benchmarks/laboratory.py --work-dir WORK [--batch-sizes 64 256] [--steps 150] [--pairs 5]
        [--network small] [--augment] [--threads 1] [--out FILE.json]

Each pair trains Θ⁰ of a recipe's network on the same batches with the laboratory (its ordinary and its fast path) and
with a loop of a dozen lines, by turns. On a processor all end with the same weights, bit by bit, which is checked.
On an accelerator the fast path is compared with a loop that is compiled, in bfloat16 and channels-last, too. Ratios are
those of images a second, medians over the pairs; those of processor time hold on a busy machine as well. The last
column is the share of the laboratory's own time that passes within training steps.
"""

import argparse
import json
import os
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainerCallback, get_scheduler
from transformers.utils import logging

from know_hf.laboratory.logs import read_logs
from know_hf.laboratory.pretraining import ForgettingRun, build_model
from know_hf.laboratory.recipe import Pretraining
from know_hf.report import table
from know_hf.tasks import Columns
from know_hf.training.options import Augmentation
from know_hf.training.prepared import open_examples

#: The network of table1.yaml at size cpu (86 thousand weights), and the common CIFAR ResNet18.
NETWORKS: dict[str, dict[str, Any]] = {
    "small": {
        "model_type": "resnet", "embedding_size": 16, "hidden_sizes": [16, 32, 64], "depths": [1, 1, 1],
        "layer_type": "basic",
    },
    "resnet18": {
        "model_type": "know_resnet", "stem_kernel": 3, "stem_padding": 0, "strides": [1, 2, 2, 2], "bias": False,
        "keras_padding": False, "batch_norm_eps": 1e-5, "batch_norm_momentum": 0.1,
    },
    "tiny": {"model_type": "know_resnet", "width": 4, "depths": [1, 1], "strides": [1, 2]},
}  # fmt: skip
COLUMNS = Columns("image-classification", ["img"], "label", [str(number) for number in range(100)])
EPOCHS = 2


class Clock(TrainerCallback):
    """Wall and processor seconds of stage 0."""

    def __init__(self) -> None:
        self.seconds: list[tuple[float, float]] = []

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.begun = time.perf_counter(), time.process_time()

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds.append((time.perf_counter() - self.begun[0], time.process_time() - self.begun[1]))


def make_data(folder: Path, count: int) -> dict[str, Path]:
    """Images of random bytes of CIFAR's size: what they show takes no time."""
    draw = torch.Generator().manual_seed(0)
    paths = {"train": folder / f"train-{count}.safetensors", "eval": folder / "eval.safetensors"}
    for path, number in ((paths["train"], count), (paths["eval"], 64)):
        codes = torch.randint(256, (number, 3, 32, 32), generator=draw)
        labels = torch.randint(len(COLUMNS.class_names), (number,), generator=draw)
        save_file({"pixel_values": codes / 255, "labels": labels}, path)
    return paths


def make_run(folder: Path, data: dict[str, Path], batch: int, fast: bool, options: argparse.Namespace) -> ForgettingRun:
    """Θ⁰ and one short stage after it, as a recipe's pre-training."""
    shutil.rmtree(folder, ignore_errors=True)
    pretraining = Pretraining(
        dataset="-", architecture=NETWORKS[options.network], augmentation={} if options.augment else None,
        training={
            "num_stages": 2, "sampling_ratio": 0.1, "num_train_epochs": EPOCHS, "per_device_train_batch_size": batch,
            "optim": "adamw_torch", "learning_rate": 1e-3, "lr_scheduler_type": "cosine", "seed": 0,
            "eval_strategy": "no", "dataloader_drop_last": True, "report_to": "none",
        },
    )  # fmt: skip
    return ForgettingRun(folder, "forgetting", pretraining, COLUMNS, data, fast=fast)


def laboratory(run: ForgettingRun) -> tuple[float, float, float]:
    """Wall seconds, processor seconds, and the share of the former within training steps, of stage 0."""
    trainer, clock = run.make_trainer(), Clock()
    trainer.add_callback(clock)
    run.train(trainer)
    log = read_logs(run.folder)[0]
    return (*clock.seconds[0], log["training"] / log["seconds"])


def bare(run: ForgettingRun, compiled: bool) -> tuple[float, float, dict[str, torch.Tensor]]:
    """Wall and processor seconds of a loop that does the same, and the weights that it ends with."""
    args = run.arguments()
    model = build_model(run.pretraining, run.columns, args.seed).model.to(args.device).train()
    examples = open_examples(run.data["train"])
    images, labels = (examples.inputs[name].to(args.device) for name in ("pixel_values", "labels"))
    varied = None if run.pretraining.augmentation is None else examples.augmented(Augmentation())
    kind, settings = Trainer.get_optimizer_cls_and_kwargs(args, model)
    parameters, batch = list(model.parameters()), args.train_batch_size
    optimizer = kind(parameters, weight_decay=args.weight_decay, **settings)
    schedule = get_scheduler(args.lr_scheduler_type, optimizer, 0, EPOCHS * (len(images) // batch))
    called = model
    if compiled:
        called = torch.compile(model.to(memory_format=torch.channels_last), dynamic=False)
        _step(called, images[:batch], labels[:batch], args.bf16).backward()  # compiling is not what is timed
        optimizer.zero_grad()
    wait(args.device)
    begun = time.perf_counter(), time.process_time()
    for epoch in range(EPOCHS):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(args.seed + epoch))
        if varied is not None:
            varied.vary(args.seed, epoch)
            numbers = varied.numbers.to(args.device)
        for rows in order.to(args.device).split(batch)[: len(images) // batch]:
            pixels = images[rows]
            if varied is not None:
                pixels = varied.augmentation(pixels, numbers[:, rows])
            if compiled:
                pixels = pixels.contiguous(memory_format=torch.channels_last)
            _step(called, pixels, labels[rows], args.bf16).backward()
            torch.nn.utils.clip_grad_norm_(parameters, args.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    wait(args.device)
    return time.perf_counter() - begun[0], time.process_time() - begun[1], model.state_dict()


def _step(model: Any, pixels: torch.Tensor, labels: torch.Tensor, bfloat16: bool) -> torch.Tensor:
    with torch.autocast(pixels.device.type, torch.bfloat16, enabled=bfloat16):
        return model(pixel_values=pixels, labels=labels).loss


def wait(device: torch.device) -> None:
    """Waits for an accelerator."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def check_equal(run: ForgettingRun, weights: dict[str, torch.Tensor]) -> None:
    """Raises ``ValueError`` if the laboratory's Θ⁰ has other weights than the loop's."""
    found = load_file(run.folder / "stage-0" / "model.safetensors")
    different = [name for name, value in found.items() if not torch.equal(value, weights[name])]
    if different:
        raise ValueError(f"{run.folder}: {', '.join(different[:3])} differ from those of the bare loop.")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measures all batch sizes; see the module."""
    accelerated = torch.accelerator.is_available()
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "processor",
        "network": options.network, "augmented": options.augment, "threads": torch.get_num_threads(),
        "steps": EPOCHS * options.steps, "rows": [],
    }  # fmt: skip
    for batch in options.batch_sizes:
        data = make_data(options.work_dir, batch * options.steps)
        runs = {"ordinary": (False, False), "fast": (True, accelerated)}  # name → fast, compiled
        pairs: dict[str, list] = {name: [] for name in runs}
        for pair in range(options.pairs + 1):
            for name in sorted(runs, reverse=bool(pair % 2)):
                fast, compiled = runs[name]
                run = make_run(options.work_dir / name, data, batch, fast, options)
                first, second = (bare(run, compiled), laboratory(run)) if pair % 2 else (None, laboratory(run))
                loop = first or bare(run, compiled)
                if not accelerated:
                    check_equal(run, loop[2])
                if pair:  # the first warms up
                    pairs[name].append((loop[0], second[0], loop[1], second[1], second[2]))
        images = EPOCHS * batch * options.steps
        for name, taken in pairs.items():
            ratio = [one[0] / one[1] for one in taken]
            found["rows"].append({
                "batch": batch, "path": name, "bare": images / statistics.median(one[0] for one in taken),
                "laboratory": images / statistics.median(one[1] for one in taken),
                "ratio": statistics.median(ratio), "ratios": ratio,
                "processor": statistics.median(one[2] / one[3] for one in taken),
                "in_steps": statistics.median(one[4] for one in taken),
            })  # fmt: skip
        if options.out:
            options.out.write_text(json.dumps(found, indent=1))
    return found


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measures, prints and returns what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--steps", type=int, default=150, help="Of one epoch; there are two.")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--network", choices=NETWORKS, default="small")
    parser.add_argument("--augment", action="store_true", help="Vary the images, as recipes do.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON file for the figures, written as they come.")
    options = parser.parse_args(arguments)
    options.work_dir.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    loudness = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        found = measure(options)
    finally:
        logging.set_verbosity(loudness)
    rows = [
        [str(row["batch"]), row["path"], f"{row['bare']:,.0f}", f"{row['laboratory']:,.0f}", f"{row['ratio']:.3f}",
         f"{min(row['ratios']):.3f} … {max(row['ratios']):.3f}", f"{row['processor']:.3f}", f"{row['in_steps']:.3f}"]
        for row in found["rows"]
    ]  # fmt: skip
    head = ["batch", "path", "bare loop", "laboratory", "ratio", "of the pairs", "in processor time", "in steps"]
    print(f"Images a second of the {found['network']} network on {found['device']}, {found['threads']} threads:")
    print(table([head, *rows]))
    return found


if __name__ == "__main__":
    main()
