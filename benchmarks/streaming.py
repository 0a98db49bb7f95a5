"""Checkpoints that one has, beside the disk and mergekit: `know-hf predict` of five folders by methods of little work.

    python benchmarks/streaming.py --work-dir WORK [--layers 16 --width 2048] [--mergekit OTHER/bin/mergekit-yaml]

Five folders as `from_pretrained` wants them, of a Llama's shapes in float16 (1.9 GB each at the sizes above) and random
values. Every row is a process of its own from its start to its end, imports and hashes of inputs and results included,
and the peak of its memory. `cp` copies the five folders and flushes them. mergekit averages the same five.
"""

import argparse
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

METHODS = ("naive", "mean", "task_vector", "linear_fit", "log_fit")
STAGES = 5


def write_checkpoints(folder: Path, layers: int, width: int, vocabulary: int) -> None:
    """Writes checkpoints of which each differs a little from the one before."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=width, intermediate_size=width * 11 // 4, num_hidden_layers=layers, num_attention_heads=16,
        num_key_value_heads=16, vocab_size=vocabulary, dtype="float16", architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in LlamaForCausalLM(config).state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.ones(shape) if len(shape) == 1 else 0.02 * torch.randn(shape, generator=generator)
        for name, shape in shapes.items()
    }
    for stage in range(STAGES):
        target = folder / f"stage-{stage}"
        target.mkdir(parents=True)
        values = {name: ((1 - 0.02 * stage) * value).half() for name, value in weights.items()}
        save_file(values, target / "model.safetensors", {"format": "pt"})
        config.save_pretrained(target)


def measured(command: list[str | Path]) -> tuple[float, float, float]:
    """Seconds, processor seconds and peak memory in GB of a process."""
    # By a process between, whose only child it is: the peak of children is that of the largest there ever was.
    script = (
        "import resource, subprocess, sys, time; begun = time.perf_counter();"
        "done = subprocess.run(sys.argv[1:], capture_output=True, text=True); wall = time.perf_counter() - begun;"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN);"
        "print(wall, used.ru_utime + used.ru_stime, used.ru_maxrss);"
        "sys.stderr.write(done.stderr); sys.exit(done.returncode)"
    )
    done = subprocess.run([sys.executable, "-c", script, *map(str, command)], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [done.returncode])[-1]
        raise SystemExit(f"{' '.join(map(str, command[:3]))} failed: {reason}")
    wall, used, peak = map(float, done.stdout.split()[-3:])
    return wall, used, peak * (1 if sys.platform == "darwin" else 1024) / 1e9


def copied(stages: list[Path], target: Path) -> tuple[float, float, float]:
    """The same of copying the folders and flushing the copies."""
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(["cp", "-r", *map(str, stages), str(target)], check=True)
    subprocess.run(["sync", *(str(path) for path in target.rglob("*.safetensors"))], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall = time.perf_counter() - begun
    shutil.rmtree(target)
    target.mkdir()
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--mergekit", type=Path, help="mergekit-yaml of another environment")
    args = parser.parse_args()

    from know_hf.tables import table

    place = args.work_dir / "checkpoints"
    if not place.exists():
        write_checkpoints(place, args.layers, args.width, args.vocabulary)
    stages = [place / f"stage-{i}" for i in range(STAGES)]
    out, copy = args.work_dir / "out", args.work_dir / "copy"
    copy.mkdir(exist_ok=True)
    size = sum(path.stat().st_size for path in place.rglob("*.safetensors"))
    rows = [["what", "seconds", "beside cp", "processor seconds", "beside cp", "peak memory, GB"]]
    jobs = {
        method: [sys.executable, "-m", "know_hf", "predict", *stages, "--sampling-ratio", "0.5", "--method", method,
                 "--steps", "1", "--output-dir", out]
        for method in args.methods
    }  # fmt: skip
    if args.mergekit:
        models = "".join(f"  - {{model: {stage}, parameters: {{weight: 1}}}}\n" for stage in stages)
        recipe = args.work_dir / "merge.yml"
        recipe.write_text(f"merge_method: linear\ndtype: float16\nmodels:\n{models}")
        jobs["mergekit, linear"] = [args.mergekit, recipe, out]
    copied(stages, copy)  # the first of all reads what may not be in memory
    before = copied(stages, copy)
    rows.append(["cp of the five, flushed", f"{before[0]:.2f}", "1.0", f"{before[1]:.2f}", "1.0", "–"])
    for name, command in jobs.items():
        wall, used, peak = measured(command)
        shutil.rmtree(out)
        after = copied(stages, copy)  # cp before and after, as the disk's speed varies
        beside = [2 * own / (a + b) for own, a, b in zip((wall, used), before, after, strict=False)]
        rows.append([name, f"{wall:.2f}", f"{beside[0]:.1f}", f"{used:.2f}", f"{beside[1]:.1f}", f"{peak:.2f}"])
        before = after
    print(f"{size / 1e9:.2f} GB of checkpoints\n\n{table(rows)}")


if __name__ == "__main__":
    main()
