"""Makes a page of docs/results of a finished experiment: what its report says, how it was made, and no pictures.

    python examples/recipes/publish.py runs/table1 docs/results/table1.md --command "know-hf experiment …"

The numbers are those of the experiment's own records.
"""

import argparse
import json
import os
import platform
import re
from pathlib import Path

from know_hf.laboratory.outcome import ExperimentResult
from know_hf.report.experiment import write_experiment_report
from know_hf.tables import duration

_PICTURE = re.compile(r"^!\[.*\]\(.*\)\n\n?", re.MULTILINE)
_HEADING = re.compile(r"^(#+) .+\n\n(?=(#+) |\Z)", re.MULTILINE)


def without_empty(text: str) -> str:
    """A page without the headings that nothing stands under, which only pictures did."""
    while True:
        shorter = _HEADING.sub(lambda found: found[0] if len(found[2] or "") > len(found[1]) else "", text)
        if shorter == text:
            return text
        text = shorter


def processor() -> str:
    """The processor's name as the system knows it."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.+)$", info.read_text(), re.MULTILINE) if info.exists() else []
    return f"{os.cpu_count()} cores of {names[0] if names else platform.processor() or platform.machine()}"


def page(folder: Path, command: str) -> str:
    """The page of an experiment."""
    result = ExperimentResult.load(folder)
    text = (write_experiment_report(result).parent / "results.md").read_text(encoding="utf-8")
    title, _, rest = without_empty(_PICTURE.sub("", text)).partition("\n")
    record = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    made = (
        f"Made by `{command}` in {duration(result.wall)} ({processor()}; {versions}); "
        f"{100 * result.share_in_steps:.0f} % of the processes' time within training steps."
    )
    return f"{title}\n\n{made}\n{rest.rstrip()}\n"


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", type=Path)
    parser.add_argument("page", type=Path)
    parser.add_argument("--command", required=True, help="What made the experiment.")
    given = parser.parse_args()
    given.page.parent.mkdir(parents=True, exist_ok=True)
    given.page.write_text(page(given.experiment, given.command), encoding="utf-8")


if __name__ == "__main__":
    main()
