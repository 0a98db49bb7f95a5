"""The compiled kernel on every instruction set that this processor has, beside the limit of the same set.

    python benchmarks/kernel.py [--weights 131072] [--rounds 9]

The limit is a large float32 matrix product (MKL's, told by MKL_ENABLE_INSTRUCTIONS to use that set and no more), timed
in turns with the kernel on one thread, by the processor's time, so that other work on the machine takes little part.
Prints one row a set: medians, and the median of the ratios of neighbouring rounds.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

#: Instruction set as MKL calls it → flags for the compiler.
SETS = {
    "AVX512": ["-march=native"],
    "AVX2": ["-mavx2", "-mfma", "-mno-avx512f"],
    "SSE4_2": ["-march=x86-64"],
}
NAMES = {"AVX512": "AVX-512", "AVX2": "AVX2", "SSE4_2": "plain x86-64 (SSE2)"}
FLOP = 2 * 7368


def measure(flags: list[str], weights: int, rounds: int) -> None:
    """Prints a row of nanoseconds, limit, share, largest error and seconds of compiling for the set of this process."""
    import torch

    from know_hf import KnownPredictor
    from know_hf.known import native
    from know_hf.known.inference import FoldedNetwork

    torch.set_num_threads(1)
    native.TARGET = flags
    network = KnownPredictor.default().network("conv")
    folded = FoldedNetwork.of(network)
    history = torch.randn(1, weights) * 0.05 + torch.randn(5, weights) * 0.005
    side = 1024
    left, right, predicted = torch.randn(side, side), torch.randn(side, side), torch.empty(3, weights)
    with torch.no_grad():
        kernel = native.compile_kernel(folded.sizes)
        if kernel is None:
            raise SystemExit("There is no C++ compiler, or it cannot compile for this instruction set.")
        constants = kernel.pack((folded.values, folded.differences), folded.head)
        limits, times = [], []
        for turn in range(rounds + 1):
            begun = time.thread_time()
            torch.mm(left, right)
            between = time.thread_time()
            kernel.predict(constants, history, predicted)
            ended = time.thread_time()
            if turn:  # the first pays for what is loaded
                limits.append((between - begun) / (2 * side**3) * FLOP)
                times.append((ended - between) / weights / len(predicted))
        error = (predicted[0] - history[-1] - network(history.T)).abs().max().item()
    share = statistics.median(limit / each for limit, each in zip(limits, times, strict=True))
    limit, each = statistics.median(limits) * 1e9, statistics.median(times) * 1e9
    print(f"{each:.0f}|{limit:.0f}|{share:.0%}|{error:.0e}|{kernel.seconds:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=int, default=1 << 17)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", choices=SETS, help="measure this set in this process; used by the script itself")
    args = parser.parse_args()
    if args.only:
        return measure(SETS[args.only], args.weights, args.rounds)

    import torch

    from know_hf.tables import table

    here = torch.backends.cpu.get_cpu_capability()
    names = [name for name in SETS if name == "SSE4_2" or name in here or (name == "AVX2" and here == "AVX512")]
    rows = [["instruction set", "ns per weight and step", "limit", "of the limit", "largest difference", "compiles, s"]]
    for name in names:
        command = [sys.executable, __file__, "--only", name, "--weights", str(args.weights)]
        environment = {**os.environ, "MKL_ENABLE_INSTRUCTIONS": name, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([*command, "--rounds", str(args.rounds)], capture_output=True, text=True, env=environment)
        found = done.stdout.splitlines()[-1].split("|") if done.returncode == 0 else ["–"] * 5
        rows.append([NAMES[name], *found])
    print(table(rows))


if __name__ == "__main__":
    main()
