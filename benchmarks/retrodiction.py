"""Time and peak memory of every retrodiction method on a synthetic trajectory, in one run.

    python benchmarks/retrodiction.py [--work-dir WORK] [--layers 8 --width 1024] [--steps 3]

Writes five checkpoints of a transformer-shaped network (3 million weights, about two minutes; with
--layers 8 --width 1024, 100 million), predicts from them with
each method in a process of its own, and prints a table. Needs about nine times the size of a checkpoint on disk.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path


def write_trajectory(folder: Path, layers: int, width: int) -> None:
    """Five stages of random weights that drift a little, written layer by layer."""
    import torch
    from safetensors.torch import save_file

    from know_hf import Trajectory

    shapes = {}
    for layer in range(layers):
        shapes |= {f"layer{layer}.attention{i}.weight": (width, width) for i in range(4)}
        shapes |= {f"layer{layer}.up.weight": (4 * width, width), f"layer{layer}.down.weight": (width, 4 * width)}
        shapes |= {f"layer{layer}.up.bias": (4 * width,)}
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=generator) * 0.03 for name, shape in shapes.items()}
    folders = []
    for stage in range(5):
        folders.append(folder / f"stage-{stage}")
        folders[-1].mkdir(parents=True)
        save_file(tensors, folders[-1] / "model.safetensors", metadata={"format": "pt"})
        for tensor in tensors.values():
            tensor += torch.randn(tensor.shape, generator=generator) * 0.001
    kinds = {name: "bias" if name.endswith("bias") else "fc" for name in shapes}
    Trajectory.from_checkpoints(folders, kinds=kinds, sampling_ratio=0.5).save(folder)


def peak_mb(reset: bool = False) -> float:
    """Highest resident memory of this process since the last reset, in MB (Linux).

    Not ``ru_maxrss``: a new process inherits that of the one that started it.
    """
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def measure(folder: Path, method: str, steps: int) -> None:
    """Runs one method in this process and prints what it took as JSON."""
    import torch

    from know_hf import Trajectory
    from know_hf.enrichment.options import Prediction
    from know_hf.enrichment.stream import Enrichment

    torch.set_num_threads(2)
    trajectory = Trajectory.load(folder)
    run = Enrichment(trajectory, Prediction(method=method))
    run.provenance(run.prediction.methods[0], 1)  # hashes the inputs, once for all methods alike
    idle = peak_mb(reset=True)
    start = time.perf_counter()
    run.write_steps({method: folder / f"out-{method}"}, steps)
    seconds = time.perf_counter() - start
    weights = sum(trajectory.tensors[name].numel for name in run.predicted)
    print(json.dumps({"seconds": seconds, "weights": weights, "idle_mb": idle, "peak_mb": peak_mb()}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, default=Path("runs/benchmark-retrodiction"))
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--methods", nargs="+", help="default: all")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--method", help="measure this method in this process; used by the script itself")
    args = parser.parse_args()
    if args.method:
        return measure(args.work_dir, args.method, args.steps)

    from know_hf.report import table
    from know_hf.retrodiction import ALL

    if not (args.work_dir / "trajectory.json").exists():
        write_trajectory(args.work_dir, args.layers, args.width)
    rows = [["method", "seconds", "ns per weight and step", "peak MB beyond idle"]]
    for method in args.methods or ALL:
        command = [sys.executable, __file__, "--work-dir", str(args.work_dir), "--steps", str(args.steps)]
        done = subprocess.run([*command, "--method", method], capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        shutil.rmtree(args.work_dir / f"out-{method}")
        each = found["seconds"] / found["weights"] / args.steps * 1e9
        beyond = found["peak_mb"] - found["idle_mb"]
        rows.append([method, f"{found['seconds']:.1f}", f"{each:.1f}", f"{beyond:.0f}"])
        print(f"{method}: {found}", flush=True)
    print(f"\n{found['weights'] / 1e6:.1f} million weights, {args.steps} steps\n\n{table(rows)}")


if __name__ == "__main__":
    main()
