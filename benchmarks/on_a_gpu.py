"""All that a machine with a GPU is wanted for, in one go: each part writes its figures as soon as it has them.

    python benchmarks/on_a_gpu.py --out OUT [--parts kernel step plan experiment] [--limit-s 900]
        [--size gpu | toy] [--device auto | cpu] [--predictors official=FOLDER]

kernel      the predictor of the paper: error against its plain network in float64 on the processor, seconds per weight
            and step, and the share of what the card's matrix products and memory allow; float32 and bfloat16
step        the laboratory's training, ordinary and fast, beside a bare loop, which is compiled for the fast path
            (laboratory.py)
plan        what `know-hf plan` expects of a prediction, and what it takes
experiment  the cells of examples/recipes/regime.yaml at size gpu-10min, in what is left of the time; a cut leaves the
            scores of the seeds that were finished

The parts that take long come last. Called again with the same OUT, the experiment continues; what has its figures is
left out. Data for it may come as OUT's machine can hold them, CIFAR as JPEG in one file a split: where .cifar100 and
.cifar10 lie in this folder (train.npz and test.npz with bytes, ends and labels), they are unpacked to where the recipe
looks for them. Toy size shows on any processor that all of it runs.
"""

import argparse
import copy
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import laboratory
import numpy as np
import torch
from prediction import FLOP
from prediction import best_of as fastest

from know_hf import KnownPredictor
from know_hf.known.inference import FoldedNetwork
from know_hf.laboratory.recipe import load_recipe
from know_hf.models.resnet import SmallResNetConfig, SmallResNetForImageClassification
from know_hf.plan import make_plan
from know_hf.trajectory.identity import versions

RECIPE = Path(__file__).parents[1] / "examples" / "recipes" / "regime.yaml"
STEPS = 3
#: Of each part: numbers at either size.
SIZES: dict[str, dict[str, Any]] = {
    "gpu": {
        "weights": [25_000_000, 1_000_000_000], "matrix": 8192, "width": 64, "recipe": "gpu-10min",
        "laboratory": ["--network", "resnet18", "--batch-sizes", "128", "--steps", "60", "--pairs", "3", "--augment"],
        "seconds": {"kernel": 30, "step": 150, "plan": 20, "experiment": 60},
    },
    "toy": {
        "weights": [20_000], "matrix": 128, "width": 4, "recipe": "toy",
        "laboratory": ["--network", "tiny", "--batch-sizes", "8", "--steps", "12", "--pairs", "1", "--augment"],
        "seconds": dict.fromkeys(("kernel", "step", "plan", "experiment"), 1),
    },
}  # fmt: skip
#: Images of the recipe's data that may lie here → name of their folder and of the column of classes.
PACKED = {".cifar100": ("cifar100", "fine_label", 100), ".cifar10": ("cifar10", "label", 10)}
#: Seconds that an experiment has to end in once it is told to.
GRACE = 15


class Work:
    """What the parts share.

    Args:
        options: As from the command line.
        deadline: When all has to be over, by ``time.monotonic``.
    """

    def __init__(self, options: argparse.Namespace, deadline: float) -> None:
        self.options, self.deadline, self.size = options, deadline, SIZES[options.size]
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        self.device = torch.device("cpu") if options.device == "cpu" or found is None else found

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.deadline - time.monotonic()

    def wait(self) -> None:
        """Waits for the accelerator."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def best_of(self, work: Callable[[], Any]) -> float:
        """Seconds of the fastest of several rounds."""

        def waited() -> None:
            work()
            self.wait()

        return fastest(waited, 3)


def kernel(work: Work) -> dict[str, Any]:
    """Error, speed and share of the card's limit of the bundled predictor."""
    device, predictor = work.device, KnownPredictor.default()
    kind, stages = predictor.config.kinds[0], predictor.config.history_length
    draw = torch.Generator().manual_seed(0)
    some = torch.randn(1, 20_000, generator=draw) * 0.05 + torch.randn(stages, 20_000, generator=draw) * 0.005
    exact = _plainly(predictor.network(kind), some)
    predictor = predictor.to(device)
    rows: list[dict[str, Any]] = []
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        try:
            means = FoldedNetwork.of(predictor.network(kind)).kernel(device, max(work.size["weights"]), precision)
            predicted = predictor.predict(some.to(device), kind, STEPS, precision=precision)
        except ValueError as error:  # nothing here computes with it
            rows.append({"precision": precision, "left_out": str(error)})
            continue
        error = (predicted.cpu().double() - exact).abs().max().item()
        size = work.size["matrix"]
        first, second = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        rate = 2 * size**3 / work.best_of(lambda a=first, b=second: torch.mm(a, b))
        flat = torch.empty(size * size * 4, device=device)
        bandwidth = 2 * flat.nbytes / work.best_of(lambda a=flat: a.clone())
        del first, second, flat
        for weights in work.size["weights"]:
            history = torch.randn(stages, weights, device=device) * 0.05
            with predictor.frozen(weights * STEPS):
                seconds = work.best_of(lambda h=history, p=precision: predictor.predict(h, kind, STEPS, precision=p))
            del history
            each = seconds / weights / STEPS
            # A step reads a window of the weights' values and writes one, which the caches may spare.
            limit = max(FLOP / rate, 4 * (stages + STEPS) / STEPS / bandwidth)
            rows.append({
                "precision": precision, "weights": weights, "steps": STEPS, "error": error,
                "within_1e-5": error <= 1e-5, "seconds_per_weight_and_step": each, "share_of_limit": limit / each,
                "by": "folded network" if means is None else type(means).__name__,
                "matrix_product_flops": rate, "bytes_per_second": bandwidth,
            })  # fmt: skip
            _write(work.options.out / "kernel.part.json", {"rows": rows})
    (work.options.out / "kernel.part.json").unlink(missing_ok=True)
    return {"rows": rows}


def _plainly(network: Any, history: torch.Tensor) -> torch.Tensor:
    """What a network as it is written predicts, in float64 on the processor."""
    network, window, found = copy.deepcopy(network).cpu().double(), history.double(), []
    with torch.no_grad():
        for _ in range(STEPS):
            found.append(window[-1] + network(window.T))
            window = torch.cat((window[1:], found[-1][None]))
    return torch.stack(found)


def step(work: Work) -> dict[str, Any]:
    """The laboratory's images a second, beside a bare loop's."""
    folder = work.options.out / "work" / "step"
    part = work.options.out / "step.part.json"
    found = laboratory.main(["--work-dir", str(folder), "--out", str(part), *work.size["laboratory"]])
    part.unlink(missing_ok=True)
    return found


def plan(work: Work) -> dict[str, Any]:
    """What a plan expects of the prediction of a ResNet18's weights, and what it takes."""
    folder = work.options.out / "work" / "planned"
    model = SmallResNetForImageClassification(SmallResNetConfig(width=work.size["width"], num_labels=100))
    model.save_pretrained(folder)
    planned = make_plan(folder, steps=STEPS)
    predictor = KnownPredictor.default().to(work.device)
    weights, kind = planned.predicted_weights, predictor.config.kinds[0]
    history = torch.randn(predictor.config.history_length, weights, device=work.device) * 0.05
    with predictor.frozen(weights * STEPS):
        taken = work.best_of(lambda: predictor.predict(history, kind, STEPS))
    expected = planned.seconds - planned.preparation
    return {
        "weights": weights, "steps": STEPS, "by": planned.how, "expected_seconds": expected, "seconds": taken,
        "expected_over_taken": expected / taken,
    }  # fmt: skip


def experiment(work: Work) -> dict[str, Any]:
    """The recipe's experiment, in the time that is left."""
    if not RECIPE.exists():
        return {"left_out": f"there is no {RECIPE.name}"}
    recipe = load_recipe(RECIPE, work.size["recipe"])
    unpack(Path.cwd(), Path(recipe.data_folder or "."))
    folder = work.options.out / "experiment"
    command = [sys.executable, "-m", "know_hf", "experiment", str(RECIPE), "--size", recipe.size]
    command += ["--output-dir", str(folder)]
    command += ["--predictors", *work.options.predictors] if work.options.predictors else []
    with open(work.options.out / "experiment.log", "a", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            code: int | None = process.wait(max(work.left - GRACE, 1))
        except subprocess.TimeoutExpired:
            code = None
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
    content = [json.loads(path.read_text()) for path in sorted(folder.glob("settings/*/runs/*.json"))]
    scores = [{name: one[name] for name in ("arm", "rate", "seed", "test", "seconds") if name in one}
              for one in content]  # fmt: skip
    curves = [json.loads(path.read_text()) for path in sorted(folder.glob("pretraining/*/*/curves/*.json"))]
    found = {"size": recipe.size, "exit_code": code, "cut": code is None, "scores": scores, "stages": curves}
    if code:
        raise RuntimeError(f"{' '.join(command)} ended with {code}; see experiment.log. So far: {json.dumps(found)}")
    return found


def unpack(source: Path, target: Path) -> None:
    """Writes images that came as JPEG in one file a split to where a recipe looks for its data."""
    for packed, (name, label, classes) in PACKED.items():
        for split in ("train", "test"):
            file, made = source / packed / f"{split}.npz", target / name / "data" / f"{split}-00000-of-00001.parquet"
            if made.exists() or not file.exists():
                continue
            from datasets import ClassLabel, Dataset, Features, Image

            content = np.load(file)
            whole, ends = content["bytes"].tobytes(), content["ends"].tolist()
            images = [{"bytes": whole[first:last], "path": None}
                      for first, last in zip([0, *ends], ends, strict=False)]  # fmt: skip
            features = Features({"img": Image(), label: ClassLabel(num_classes=classes)})
            made.parent.mkdir(parents=True, exist_ok=True)
            rows = {"img": images, label: content["labels"].astype(int).tolist()}
            Dataset.from_dict(rows, features=features).to_parquet(made)


PARTS: dict[str, Callable[[Work], dict[str, Any]]] = {
    "kernel": kernel, "step": step, "plan": plan, "experiment": experiment,
}  # fmt: skip


def _write(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all."""
    partial = path.with_suffix(".writing")
    partial.write_text(json.dumps(content, indent=1))
    partial.replace(path)


def _is_there(path: Path) -> bool:
    if not path.exists():
        return False
    found = json.loads(path.read_text())
    return "failed" not in found and not found.get("cut")


def main(arguments: list[str] | None = None) -> int:
    """Runs the parts; returns how many of them failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--limit-s", type=float, default=900, help="Seconds for everything.")
    parser.add_argument("--size", choices=SIZES, default="gpu")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto")
    parser.add_argument("--predictors", nargs="+", default=[], help="NAME=FOLDER, for the experiment.")
    options = parser.parse_args(arguments)
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the experiment's process too
    work, failures = Work(options, time.monotonic() + options.limit_s), 0
    options.out.mkdir(parents=True, exist_ok=True)
    name = torch.cuda.get_device_name() if work.device.type == "cuda" else str(work.device)
    for part in options.parts:
        path, least = options.out / f"{part}.json", work.size["seconds"][part]
        if _is_there(path):
            print(f"{part}: done before")
            continue
        if work.left < least:
            print(f"{part}: left out, it takes {least} s at least and {work.left:.0f} s are left")
            continue
        begun = time.monotonic()
        try:
            found = PARTS[part](work)
        except Exception as error:  # the other parts may well work
            failures += 1
            traceback.print_exc()
            found = {"failed": f"{type(error).__name__}: {error}"}
        about = {"device": name, "versions": versions(), "part_seconds": time.monotonic() - begun}
        _write(path, {**about, **found})
        print(f"{part}: {'failed' if 'failed' in found else 'done'} in {time.monotonic() - begun:.0f} s", flush=True)
    return failures


if __name__ == "__main__":
    sys.exit(main())
