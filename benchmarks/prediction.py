"""How near prediction comes to the machine's limits: every way to compute it, and a whole run out of core.

    python benchmarks/prediction.py
    python benchmarks/prediction.py --work-dir WORK [--layers 40] [--threads 2]
        [--keras-python OTHER/bin/python --keras-weights FOLDER]

Prints two tables, the second with --work-dir only; the first takes about a minute. It has nanoseconds per weight and
step of the plain network, its folded form, that form under torch.compile, and the compiled kernel, beside what the same
threads reach in a large matrix product. With an environment that has TensorFlow and a copy of the authors' .h5 files,
their way of calling Keras comes first. The second has `know-hf predict` on a synthetic trajectory (0.5 GB a stage with
10 layers), beside the disk.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

# Threads that wait must not hold the processors of those that compute.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from retrodiction import write_trajectory

from know_hf import KnownPredictor
from know_hf.known import native
from know_hf.known.inference import FoldedNetwork
from know_hf.known.threads import run_side_by_side
from know_hf.report import table
from know_hf.retrodiction.conversion import convert_keras

#: Operations per weight and step: 7,368 multiply-adds of the folded network.
FLOP = 2 * 7368
KERAS = """
import sys, time
import h5py, keras, numpy as np
weights, histories, output, rounds = sys.argv[1:]
values = keras.Input((5,)); moves = keras.Input((4,))
def stream(x):
    h = keras.layers.Dense(64)(x)
    z = keras.layers.Dense(8, activation="relu")(h)
    t, a, b = (keras.layers.Dense(64)(z) for _ in range(3))
    h = a * keras.ops.exp(b * h) + t
    return keras.layers.LeakyReLU(negative_slope=0.3)(keras.layers.Dense(32)(h))
joined = keras.layers.Concatenate()([stream(values), stream(moves)])
model = keras.Model([values, moves], keras.layers.Dense(1, activation="tanh")(joined))
dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
dense.sort(key=lambda layer: int(("dense_0" if layer.name == "dense" else layer.name).split("_")[1]))
with h5py.File(weights) as file:
    found = {}
    file.visititems(lambda n, o: found.setdefault(n.split("/")[-2], {}).update({n.split("/")[-1][:4]: o[()]})
                    if isinstance(o, h5py.Dataset) else None)
stored = sorted(found.items(), key=lambda item: int(("dense_0" if item[0] == "dense" else item[0]).split("_")[1]))
for layer, (_, arrays) in zip(dense, stored, strict=True):
    layer.set_weights([arrays["kern"], arrays["bias"]])
x = np.load(histories); d = np.diff(x, axis=1)
best = float("inf")
for _ in range(int(rounds)):
    start = time.perf_counter()
    result = model.predict([x, d], batch_size=100000, verbose=0)
    best = min(best, time.perf_counter() - start)
np.save(output, result[:, 0]); print(best)
"""


def best_of(work: Callable[[], object], rounds: int = 5) -> float:
    """Seconds of the fastest of several rounds."""
    work()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def gemm_rate(size: int = 2048) -> float:
    """Float32 operations per second of a large matrix product."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / best_of(lambda: torch.mm(a, b))


def arithmetic(predictor: KnownPredictor, weights: int, steps: int) -> tuple[list[list[str]], torch.Tensor]:
    """Rows of the first table, and the histories ``(S, n)`` that were predicted from."""
    network, stages = predictor.network("conv"), predictor.config.history_length
    history = torch.randn(1, weights) * 0.05 + torch.randn(stages, weights) * 0.005
    folded, exact = FoldedNetwork.of(network), torch.empty(weights)
    part = history[:, : weights // 16]

    def plain() -> torch.Tensor:
        columns = part.T.contiguous()
        return torch.cat([part[-1, at : at + 100_000] + network(columns[at : at + 100_000])
                          for at in range(0, len(columns), 100_000)])  # fmt: skip

    def in_pieces(function: Callable, size: int = 4096) -> Callable[[], None]:
        def piece(at: int) -> None:
            exact[at : at + size] = function(history[:, at : at + size])

        return lambda: run_side_by_side(piece, range(0, weights, size))

    limit = FLOP / gemm_rate()
    rows, reference = [], plain()

    def row(name: str, seconds: float, result: torch.Tensor, note: str = "") -> None:
        error = (result[: len(reference)] - reference).abs().max().item()
        rows.append([name, f"{seconds * 1e9:.0f}", f"{limit / seconds:.0%}", f"{error:.1e}", note])

    row("plain network, batches of 100,000", best_of(plain) / part.shape[1], reference)
    step = in_pieces(lambda columns: columns[-1] + folded.residual(columns), 2048)
    row("folded", best_of(step) / weights, exact)
    if native.compiler():
        torch._inductor.config.cpp.threads = 1
        compiled = torch.compile(lambda columns: columns[-1] + folded.residual(columns))
        start = time.perf_counter()
        compiled(history[:, :4096])
        note = f"compiles in {time.perf_counter() - start:.1f} s"
        row("folded, torch.compile", best_of(in_pieces(compiled)) / weights, exact, note)
    for precision in ("float32", "bfloat16"):
        native.compile_kernel.cache_clear()
        kernel = native.compile_kernel(folded.sizes, precision == "bfloat16")
        if kernel is None:
            rows.append([f"kernel, {precision}", "–", "–", "–", "no compiler, or not in this processor"])
            continue
        work = max(native.REPAYS, weights * steps)
        with predictor.frozen(work):
            seconds = best_of(lambda p=precision: predictor.predict(history, "conv", steps, precision=p))
            result = predictor.predict(history, "conv", precision=precision)[0]
        row(f"kernel, {precision}", seconds / weights / steps, result, f"compiles in {kernel.seconds:.1f} s")
    rows.append(
        ["limit: a large matrix product", f"{limit * 1e9:.0f}", "100%", "", f"{FLOP / limit / 1e9:.0f} GFLOP/s"]
    )
    return rows, history


def keras_row(python: Path, weights: Path, history: torch.Tensor, expected: torch.Tensor, limit: float) -> list[str]:
    """The authors' way, in another environment: seconds per weight, and how far its results are."""
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder) / name) for name in ("in.npy", "out.npy")]
        np.save(files[0], history.T.contiguous().numpy())
        command = [str(python), "-c", KERAS, str(weights / "KNOWN_Conv.h5"), *files, "3"]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
        environment.pop("OMP_WAIT_POLICY")
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise SystemExit(f"{python} cannot run the Keras model:\n{done.stderr[-2000:]}")
        seconds = float(done.stdout.splitlines()[-1]) / history.shape[1]
        error = np.abs(history[-1].numpy() + np.load(files[1]) - expected.numpy()).max()
    return ["Keras, predict(batch_size=100000)", f"{seconds * 1e9:.0f}", f"{limit / seconds:.0%}", f"{error:.1e}", ""]


def run_and_watch(command: list[str]) -> tuple[float, float]:
    """Runs a command; returns its seconds and its highest resident memory in MB (Linux)."""
    start, peak = time.perf_counter(), 0.0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
                peak = max(peak, int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024)
            except (OSError, TypeError):  # just ended
                pass
            time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return time.perf_counter() - start, peak


def bandwidth(folder: Path) -> tuple[float, float]:
    """Bytes per second of reading the stages one after the other and of writing a file of one stage's size."""
    files = sorted(folder.glob("stage-*/model.safetensors"))
    start, size = time.perf_counter(), 0
    for path in files:
        with open(path, "rb", buffering=0) as file:
            while block := file.read(1 << 22):
                size += len(block)
    reading, start = size / (time.perf_counter() - start), time.perf_counter()
    with open(folder / "written.tmp", "wb", buffering=0) as file:
        for _ in range(size // len(files) >> 22):
            file.write(bytes(1 << 22))
        os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    (folder / "written.tmp").unlink()
    return reading, size / len(files) / seconds


def out_of_core(folder: Path, layers: int, width: int, steps: int, each: float) -> list[list[str]]:
    """Rows of the second table; ``each`` is the kernel's time per weight and step."""
    from know_hf import Trajectory

    if not (folder / "trajectory.json").exists():
        write_trajectory(folder, layers, width)
    trajectory = Trajectory.load(folder)
    weights = sum(spec.numel for spec in trajectory.tensors.values())
    size = trajectory.checkpoints[0].nbytes
    reading, writing = bandwidth(folder)
    _, idle = run_and_watch([sys.executable, "-c", "import know_hf, torch; know_hf.Trajectory"])
    command = [sys.executable, "-m", "know_hf", "predict", str(folder), "--steps", str(steps)]
    seconds, peak = run_and_watch([*command, "--output-dir", str(folder / f"predicted-{os.getpid()}")])
    # Stages are read once for their hashes and once to predict; results are copied, then overwritten.
    disk = (2 * 5 * size + steps * size) / reading + 2 * steps * size / writing
    rows = [["checkpoint", f"{size / 1e9:.2f} GB × {len(trajectory)} stages, {weights / 1e6:.0f} million weights"]]
    rows.append(["disk", f"reads {reading / 1e9:.1f} GB/s (cached where it fits), writes {writing / 1e9:.2f} GB/s"])
    rows.append([f"know-hf predict, {steps} steps", f"{seconds:.0f} s from start to end"])
    rows.append(["of these arithmetic", f"{weights * steps * each:.0f} s"])
    rows.append(["all reading and writing alone", f"{disk:.0f} s"])
    rows.append(["peak memory", f"{peak:.0f} MB, {peak - idle:.0f} above an idle import ({idle:.0f})"])
    return rows


def processor() -> str:
    """The processor's name, as the system has it."""
    try:
        return re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[1]
    except (OSError, TypeError):
        return platform.processor() or platform.machine()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, help="for the synthetic trajectory; without it no second table")
    parser.add_argument("--layers", type=int, default=10, help="of the synthetic trajectory, 50 MB each")
    parser.add_argument("--width", type=int, default=1024, help="of these layers")
    parser.add_argument("--weights", type=int, default=1 << 20, help="of the first table")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--keras-python", type=Path, help="interpreter of an environment with TensorFlow and h5py")
    parser.add_argument("--keras-weights", type=Path, help="folder of the authors' .h5 files")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    predictor = convert_keras(args.keras_weights) if args.keras_weights else KnownPredictor.default()
    with torch.no_grad():
        rows, history = arithmetic(predictor, args.weights, args.steps)
        limit = float(rows[-1][1]) / 1e9
        if args.keras_python:
            part = history[:, : args.weights // 4 or 1]
            exact = part[-1] + predictor.network("conv")(part.T.contiguous())
            rows.insert(0, keras_row(args.keras_python, args.keras_weights, part, exact, limit))
    features = ", ".join(name for name in ("avx2", "avx512") if name in torch.backends.cpu.get_cpu_capability().lower())
    print(f"{processor()} ({features or platform.machine()}), {args.threads} threads, torch {torch.__version__}\n")
    head = ["way", "ns per weight and step", "of the limit", "largest difference to the plain network", ""]
    print(table([head, *rows]), flush=True)
    if args.work_dir:
        fastest = min(float(row[1]) for row in rows if row[0] in ("folded", "kernel, float32") and row[1] != "–") / 1e9
        print("\n" + table([["", ""], *out_of_core(args.work_dir, args.layers, args.width, args.steps, fastest)]))


if __name__ == "__main__":
    main()
