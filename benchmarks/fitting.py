"""Measures what a fit adds to the memory of a model, beside a plain training step and beside gradients and one stage.

    python benchmarks/fitting.py --work-dir WORK [--layers 12] [--width 768] [--stages 5] [--steps 3]

A GPT-2 of random weights (124 million by default) with stages of slightly other weights in WORK, 0.5 GB each; the fit
has a few steps on a few short texts, as its memory does not depend on how many there are. The peak is that of the
process (Linux), above what it had when the model was there. About a minute on two cores.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import GPT2Config, GPT2LMHeadModel

from know_hf import ForgettingArguments, ForgettingTrainer, Trajectory
from know_hf.fitting.fit import fit
from know_hf.fitting.options import Fitting
from know_hf.tables import table
from know_hf.trajectory import resolve_kinds

WORDS, LENGTH = 50257, 16


def now() -> float:
    """Resident megabytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def peak() -> float:
    """Most resident megabytes since `forget_peak`."""
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1.024e-3


def forget_peak() -> None:
    """Lets the peak begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


def stages(model: GPT2LMHeadModel, folder: Path, count: int) -> list[Path]:
    """Folders of the model, each a little further from it than the last."""
    made = []
    for index in range(count):
        made.append(folder / f"stage-{index}")
        if not (made[-1] / "model.safetensors").exists():
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter), alpha=1e-3 * index)
            model.save_pretrained(made[-1])
    return made


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True)
    for name, default in (("layers", 12), ("width", 768), ("stages", 5), ("steps", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=WORDS, n_embd=options.width, n_layer=options.layers, n_head=options.width // 64, n_positions=64
    )
    folders = stages(GPT2LMHeadModel(config), options.work_dir, options.stages)
    rows = torch.randint(0, WORDS, (8, LENGTH)).tolist()
    settings = ForgettingArguments(
        str(options.work_dir / "run"), per_device_train_batch_size=4, use_cpu=True, disable_tqdm=True, report_to=[]
    )
    model = GPT2LMHeadModel.from_pretrained(folders[0])
    data = Dataset.from_dict({"input_ids": rows, "labels": rows})
    trainer = ForgettingTrainer(model=model, args=settings, train_dataset=data)
    trajectory = Trajectory.from_checkpoints(folders, model=model, sampling_ratio=0.5)
    predicted, _ = resolve_kinds(trajectory.parameters)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()) / 1e6
    before, began = now(), time.perf_counter()
    forget_peak()
    output = options.work_dir / "fitted.json"
    output.unlink(missing_ok=True)
    fit(trainer, trajectory, predicted, data, output, fitting=Fitting(fit_steps=options.steps))
    seconds = time.perf_counter() - began
    added = peak() - before
    forget_peak()
    model(**trainer.data_collator([data[i] for i in range(4)])).loss.backward()
    plain = peak() - before
    losses = json.loads(output.read_text())["losses"]
    heading = ["weights", "a stage, MB", "a fit adds, MB", "gradients and a stage", "a plain step adds", "s a step"]
    sizes = [f"{megabytes:.0f}" for megabytes in (weights, added, 2 * weights, plain)]
    row = [f"{model.num_parameters() / 1e6:.0f} M", *sizes, f"{seconds / max(len(losses), 1):.1f}"]
    print(table([heading, row]))
    print(f"loss {np.round(losses, 4).tolist()}")


if __name__ == "__main__":
    main()
