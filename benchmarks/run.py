"""Every benchmark, one after the other, and a page of their tables.

    python benchmarks/run.py --work-dir WORK [--out docs/benchmarks.md] [--only kernel streaming …] [--full]
        [--mergekit OTHER/bin/mergekit-yaml] [--keras-python OTHER/bin/python --keras-weights FOLDER]

Without ``--full`` sizes are small, which suits ratios. What other packages are compared with, and need an environment
of their own, is left out unless its place is given. A benchmark that fails is named on the page.
"""

import argparse
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
#: Name → heading, what small and full sizes are.
PARTS = {
    "startup": ("How long people wait", ["--repeat", "3"], ["--quickstart"]),
    "kernel": (
        "Prediction: the kernel on each instruction set",
        ["--weights", "65536", "--rounds", "7"],
        ["--rounds", "25"],
    ),
    "prediction": (
        "Prediction: every way to compute it",
        ["--weights", "262144", "--layers", "2"],
        ["--layers", "40"],
    ),
    "retrodiction": ("Every method of retrodiction", ["--layers", "1", "--steps", "1"], ["--layers", "8"]),
    "streaming": (
        "Out of core beside the disk",
        ["--layers", "4", "--methods", "mean", "linear_fit"],
        ["--layers", "16", "--width", "2048"],
    ),
    "fitting": ("The memory of a fit", ["--layers", "2"], []),
    "trainer": (
        "ForgettingTrainer beside Trainer",
        ["--steps", "100", "--pairs", "3"],
        ["--steps", "2000", "--pairs", "6"],
    ),
    "collection": ("Collecting meta-data", ["--trials", "4"], ["--trials", "40"]),
    "meta_training": ("Meta-training", ["--rows", "100000", "--processes", "1"], ["--rows", "1000000"]),
}
#: What a benchmark may be given of other environments.
OTHERS = {"streaming": ("mergekit",), "prediction": ("keras_python", "keras_weights")}


def tables(text: str) -> str:
    """What a benchmark says, from its last heading or table on: progress lines are left out."""
    lines = text.splitlines()
    kept = [line for line in lines if not line.startswith(("[", "{")) and ": {" not in line]
    return "\n".join(kept).strip()


def outcome(command: list[str], limit: int) -> str:
    """What a benchmark printed, or why it printed nothing; it ends, with all that it began, after so many seconds."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, start_new_session=True, **pipes) as process:
        try:
            out, errors = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return f"It took longer than {limit} s and was ended."
    if process.returncode:
        return f"It failed: {(errors.strip().splitlines() or ['no reason given'])[-1]}"
    return tables(out)


def processor() -> str:
    """The processor's name, as the system has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True, help="for what benchmarks write; up to 4 GB")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "benchmarks.md")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--limit", type=int, default=3600, help="most seconds that a benchmark may take")
    parser.add_argument("--full", action="store_true", help="sizes for absolute figures; about an hour")
    parser.add_argument("--mergekit", help="mergekit-yaml of another environment")
    parser.add_argument("--keras-python", help="interpreter of an environment with TensorFlow and h5py")
    parser.add_argument("--keras-weights", help="folder of the authors' .h5 files")
    args = parser.parse_args()

    import torch

    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    cores = os.cpu_count() or 1
    parts = [
        "# Benchmarks",
        f"{processor()}, {cores} processors, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}, "
        f"{platform.system()}; {load:.1f} other programs wanted a processor when it began. Where that is more than a "
        "few tenths, take ratios and processor seconds, not seconds.",
        f"Made by `python benchmarks/run.py --work-dir WORK{' --full' if args.full else ''}`.",
    ]
    for name in args.only:
        heading, small, full = PARTS[name]
        command = [sys.executable, str(HERE / f"{name}.py"), *(full if args.full else small)]
        if name in ("startup", "prediction", "retrodiction", "streaming", "fitting", "trainer", "collection"):
            command += ["--work-dir", str(args.work_dir / name)]
        if name == "meta_training":
            command.insert(2, str(args.work_dir / "collection" / "meta"))
        for option in OTHERS.get(name, ()):
            if value := getattr(args, option):
                command += [f"--{option.replace('_', '-')}", value]
        begun = time.perf_counter()
        said = outcome(command, args.limit)
        print(f"{name}: {time.perf_counter() - begun:.0f} s", flush=True)
        parts += [f"## {heading}", f"`benchmarks/{name}.py`", said]
        args.out.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
