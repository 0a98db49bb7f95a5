"""The commands beside the main jobs: ``report``, ``push``, ``plan``, ``convert``, ``quickstart`` and ``env``."""

import os
from pathlib import Path

from know_hf.cli.recipe import Call
from know_hf.cli.surroundings import quiet


def run_report(call: Call) -> None:
    """Write one HTML page about a finished run, comparison or experiment."""
    quiet()
    from know_hf.report.write import write_page

    print(write_page(call.settings()["folder"]))


def run_push(call: Call) -> None:
    """Upload a run's steps, a checkpoint, a predictor or a meta-data set to the Hub."""
    from know_hf.hub.push import push

    print(push(**call.settings()))


def run_plan(call: Call) -> None:
    """Show what would be predicted and copied, and what it takes."""
    quiet()
    from know_hf.plan import make_plan

    print(make_plan(**call.settings()))


def run_convert(call: Call) -> None:
    """Read released weights of KNOWN, WNN or NiNo from your own copy."""
    settings = call.settings()
    source, out_dir = settings["source"], Path(settings["out_dir"])
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise FileExistsError(f"{out_dir} exists and is not an empty folder; choose another.")
    quiet()
    from know_hf.store import check_output, making

    check_output(out_dir)
    from know_hf.retrodiction.conversion import convert_keras, convert_nino

    if Path(source).is_file():
        print(f"{convert_nino(source, out_dir)}: pass the folder as --predictor with --method nino.")
        return
    predictor = convert_keras(source)
    with making(out_dir) as beside:
        predictor.save_pretrained(beside)
    print(f"{out_dir}: pass it as --predictor. The authors state no licence: keep it to yourself.")


def run_quickstart(call: Call) -> None:
    """The whole job on scikit-learn's handwritten digits, in minutes."""
    quiet()
    from know_hf.cli.watching import WatchedTrainer
    from know_hf.quickstart import quickstart

    quickstart(**call.settings(), trainer_class=WatchedTrainer)


def run_env(call: Call) -> None:
    """Print versions for a bug report."""
    import platform

    import torch

    from know_hf.trajectory.identity import versions

    print(f"python {platform.python_version()} on {platform.system()} {platform.machine()}")
    for package, version in versions().items():
        print(f"{package} {version}")
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    print(f"accelerator: {accelerator or 'none'}; processors: {os.cpu_count()}")
