"""The commands beside the main jobs: ``report``, ``push``, ``plan``, ``convert``, ``quickstart`` and ``env``."""

import argparse
import os
from pathlib import Path

from know_hf.cli.options import PREDICTION
from know_hf.cli.recipe import plain_values
from know_hf.cli.surroundings import quiet


def run_report(options: argparse.Namespace, rest: list[str]) -> None:
    """``know-hf report``."""
    quiet()
    from know_hf.report.write import write_page

    print(write_page(options.folder))


def run_push(options: argparse.Namespace, rest: list[str]) -> None:
    """``know-hf push``."""
    from know_hf.hub.push import push

    given = {name: getattr(options, name) for name in ("create_pr", "dry_run", "overwrite_card")}
    print(push(options.folder, options.repo_id, private=options.private or None, **given))


def run_plan(options: argparse.Namespace, rest: list[str]) -> None:
    """``know-hf plan``."""
    quiet()
    from know_hf.plan import make_plan

    given = plain_values({k: v for k, v in vars(options).items() if k in (*PREDICTION, "trust_remote_code")})
    print(make_plan(options.source, **given))


def run_convert(options: argparse.Namespace, rest: list[str]) -> None:
    """``know-hf convert``."""
    out_dir = Path(options.out_dir)
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise FileExistsError(f"{out_dir} exists and is not an empty folder; choose another.")
    quiet()
    from know_hf.retrodiction.conversion import convert_keras, convert_nino
    from know_hf.store import making

    if Path(options.source).is_file():
        print(f"{convert_nino(options.source, out_dir)}: pass the folder as --predictor with --method nino.")
        return
    predictor = convert_keras(options.source)
    with making(out_dir) as beside:
        predictor.save_pretrained(beside)
    print(f"{out_dir}: pass it as --predictor. The authors state no licence: keep it to yourself.")


def run_quickstart(options: argparse.Namespace, rest: list[str]) -> None:
    """``know-hf quickstart``."""
    quiet()
    from know_hf.cli.watching import WatchedTrainer
    from know_hf.quickstart import quickstart

    quickstart(options.output_dir, seeds=options.seeds, trainer_class=WatchedTrainer)


def run_env(options: argparse.Namespace, rest: list[str]) -> None:
    """``know-hf env``."""
    import platform

    import torch

    from know_hf.trajectory.identity import versions

    print(f"python {platform.python_version()} on {platform.system()} {platform.machine()}")
    for package, version in versions().items():
        print(f"{package} {version}")
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    print(f"accelerator: {accelerator or 'none'}; processors: {os.cpu_count()}")
