"""Out of core beside the disk: methods of little arithmetic, `cp` of the same files, and mergekit's linear merge.

    python benchmarks/streaming.py --work-dir WORK [--layers 4] [--mergekit OTHER/bin/mergekit-yaml]

Five synthetic stages (50 MB a layer and stage). Every method writes one step in a process of its own; seconds are from
the first byte read to the flushed result, imports not counted, hashes of inputs and results included. `cp` copies the
five stages and flushes them. mergekit averages the first three stages, its imports counted, too.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from retrodiction import write_trajectory

METHODS = ("naive", "mean", "task_vector", "linear_fit", "log_fit")


def copied(folder: Path) -> tuple[float, float]:
    """Seconds, and processor seconds, of copying the stages and flushing the copies."""
    target = folder / "copy"
    begun, used = time.perf_counter(), time.process_time()
    for stage in sorted(folder.glob("stage-*")):
        shutil.copytree(stage, target / stage.name)
        for path in (target / stage.name).iterdir():
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
    seconds = time.perf_counter() - begun, time.process_time() - used
    shutil.rmtree(target)
    return seconds


def measure(folder: Path, method: str) -> None:
    """Writes one step of one method in this process; prints seconds and processor seconds."""
    from know_hf import Trajectory
    from know_hf.enrichment.options import Prediction
    from know_hf.enrichment.stream import Enrichment

    begun, used = time.perf_counter(), time.process_time()
    run = Enrichment(Trajectory.load(folder), Prediction(method=method))
    run.write_steps({method: folder / f"out-{method}"}, 1)
    print(json.dumps([time.perf_counter() - begun, time.process_time() - used]))


def mergekit(folder: Path, command: Path) -> float:
    """Seconds of mergekit's linear merge of the first three stages."""
    for stage in range(3):
        config = {"architectures": ["None"], "model_type": "none"}
        (folder / f"stage-{stage}" / "config.json").write_text(json.dumps(config))
    models = "".join(f"  - {{model: {folder / f'stage-{i}'}, parameters: {{weight: 1}}}}\n" for i in range(3))
    recipe = folder / "merge.yml"
    recipe.write_text(f"merge_method: linear\nmodels:\n{models}dtype: float32\n")
    begun = time.perf_counter()
    done = subprocess.run([command, recipe, folder / "merged", "--allow-crimes"], capture_output=True, text=True)
    seconds = time.perf_counter() - begun
    shutil.rmtree(folder / "merged", ignore_errors=True)
    if done.returncode:
        reason = done.stderr.splitlines()[-1] if done.stderr else done.returncode
        raise SystemExit(f"mergekit cannot merge the stages: {reason}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--mergekit", type=Path, help="mergekit-yaml of another environment")
    parser.add_argument("--method", help="measure this method in this process; used by the script itself")
    args = parser.parse_args()
    if args.method:
        return measure(args.work_dir, args.method)

    from know_hf.tables import table

    if not (args.work_dir / "trajectory.json").exists():
        write_trajectory(args.work_dir, args.layers, args.width)
    size = sum(path.stat().st_size for path in args.work_dir.glob("stage-*/*.safetensors"))
    rows = [["what", "seconds", "beside cp", "processor seconds", "beside cp"]]
    wall, used = copied(args.work_dir)
    rows.append(["cp of the five stages, flushed", f"{wall:.2f}", "1.0", f"{used:.2f}", "1.0"])
    for method in args.methods:
        command = [sys.executable, __file__, "--work-dir", str(args.work_dir), "--method", method]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds, processor = json.loads(done.stdout.splitlines()[-1])
        shutil.rmtree(args.work_dir / f"out-{method}")
        before, (wall, used) = wall, copied(args.work_dir)  # cp before and after, as the disk's speed varies
        beside = seconds / ((before + wall) / 2)
        rows.append([method, f"{seconds:.2f}", f"{beside:.1f}", f"{processor:.2f}", f"{processor / used:.1f}"])
    if args.mergekit:
        seconds = mergekit(args.work_dir, args.mergekit)
        rows.append(["mergekit, linear, three stages", f"{seconds:.2f}", f"{seconds / wall:.1f}", "–", "–"])
    print(f"{size / 1e9:.2f} GB of stages\n\n{table(rows)}")


if __name__ == "__main__":
    main()
