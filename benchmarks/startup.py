"""How long people wait for commands, a small job and the quickstart: processor and wall seconds, medians.

    python benchmarks/startup.py --work-dir WORK [--repeat 5] [--quickstart]

Every command is a process of its own, imports counted; the job is `know-hf enrich` of a small timm network on 352 of
scikit-learn's digits, and its second row the part of it before the first optimizer step.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

# Runs the command line and says, at the end and when training begins, what its process has used.
RUN = """
import resource, sys, time
from know_hf.cli.main import main
begun = time.perf_counter()
def say(what):
    own, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    used = own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime
    print(f"\\n@{what} {used} {time.perf_counter() - begun}", flush=True)
if "enrich" in sys.argv:
    from transformers import trainer_callback
    ordinary = trainer_callback.CallbackHandler.on_train_begin
    def watched(self, *args, **kwargs):
        say("begins")
        trainer_callback.CallbackHandler.on_train_begin = ordinary
        return ordinary(self, *args, **kwargs)
    trainer_callback.CallbackHandler.on_train_begin = watched
try:
    main(sys.argv[1:])
finally:
    say("ends")
"""


def used(arguments: list[str | Path]) -> dict[str, tuple[float, float]]:
    """Moment → processor seconds, wall seconds of a command up to it."""
    done = subprocess.run([sys.executable, "-c", RUN, *map(str, arguments)], capture_output=True, text=True)
    found = [line[1:].split() for line in done.stdout.splitlines() if line.startswith("@")]
    if done.returncode or not found:
        raise SystemExit(f"{arguments[0]} failed: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    return {what: (float(processor), float(wall)) for what, processor, wall in found}


def prepare(folder: Path) -> tuple[Path, Path]:
    """A folder of pictures, and one of a model."""
    from know_hf.models.building import timm_from_scratch
    from know_hf.quickstart import digits

    data, model = folder / "digits", folder / "model"
    rows = digits(tuple(range(10))).shuffle(seed=0)
    for split, part in (("train", range(352)), ("test", range(352, 552))):
        (data / "data").mkdir(parents=True, exist_ok=True)
        rows.select(part).to_parquet(data / "data" / f"{split}.parquet")
    shape = {"channels": [16, 32, 64, 128], "stem_width": 16, "in_chans": 1}
    timm_from_scratch("resnet10t", image_size=16, model_args=shape, mean=(0.3,), std=(0.38,)).save_pretrained(model)
    return data, model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--quickstart", action="store_true", help="also run the whole quickstart, as often")
    args = parser.parse_args()

    from know_hf.tables import table

    data, model = prepare(args.work_dir)
    run, out = args.work_dir / "run", args.work_dir / "out"
    enrich = ["enrich", "--model", model, "--dataset", data, "--output_dir", run, "--num_train_epochs", "5",
              "--train_stage_zero"]  # fmt: skip
    commands: dict[str, list[str | Path]] = {
        "enrich, 352 pictures": enrich,
        "plan RUN": ["plan", run],
        "predict RUN": ["predict", run, "--output-dir", out],
        "predict FOLDER FOLDER FOLDER": [
            "predict",
            *(run / f"stage-{stage}" for stage in range(3)),
            "--sampling-ratio",
            "0.5",
            "--output-dir",
            out,
        ],
        "plan MODEL": ["plan", model],
        "--help": ["--help"],
    }
    if args.quickstart:
        commands["quickstart"] = ["quickstart", "--output-dir", out]
    rows = [["command", "processor seconds", "seconds"]]
    for name, command in commands.items():
        found = []
        for _ in range(args.repeat):
            shutil.rmtree(out, ignore_errors=True)
            if command is enrich:
                shutil.rmtree(run, ignore_errors=True)
            found.append(used(command))
        for moment in found[0]:
            middle = [statistics.median(one[moment][i] for one in found) for i in (0, 1)]
            what = f"{name}, until training begins" if moment == "begins" else name
            rows.append([what, *(f"{value:.1f}" for value in middle)])
    print(table(rows))


if __name__ == "__main__":
    main()
