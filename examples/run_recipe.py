"""Runs a recipe of an experiment, and before it makes the data that the recipe asks to be made.

    python examples/run_recipe.py
    python examples/run_recipe.py examples/recipes/table4.yaml --size cpu --output-dir runs/table4

Takes what `know-hf experiment` takes, and hands it on. The recipe's `.made` says for each folder of data how
make_data.py makes it; folders that are there stay as they are. Items are taken from the recipe's data folder if it
holds a folder of their name, else from the Hub. Without arguments it lists the recipes and their
sizes; one takes from minutes to days, and with --dry-run it says how long without training.
"""

import argparse
import sys
from pathlib import Path

import make_data
import yaml

from know_hf.cli.main import main as know_hf
from know_hf.laboratory.recipe import load_recipe
from know_hf.tables import table

RECIPES = Path(__file__).parent / "recipes"


def make_missing(file: str, size: str | None) -> None:
    """Makes what a size of a recipe reads and `.made` describes, unless it is there."""
    recipe = load_recipe(file, size)
    described = yaml.safe_load(Path(file).read_text(encoding="utf-8")).get(".made") or {}
    parts = [part for setting in recipe.settings for part in (setting.pretraining, setting.transfer) if part]
    for name in dict.fromkeys(part.dataset for part in parts):
        if name in described and not Path(recipe.data(name)).is_dir():
            options = {"output_dir": name, **described[name]}
            if "items" in options:
                options["items"] = recipe.data(options["items"])
            make_data.main([str(word) for option, value in options.items() for word in (f"--{option}", value)])


def listed(folder: Path) -> str:
    """A table of the recipes in a folder."""
    rows = [["recipe", "what it asks", "sizes"]]
    for file in sorted(folder.glob("*.yaml")):
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        rows.append([file.name, content["title"], ", ".join(content["sizes"])])
    return table(rows)


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments:
        print(listed(RECIPES))
        print(f"\npython {sys.argv[0]} {RECIPES / 'table3.yaml'} --size cpu --output-dir runs/table3 --dry-run")
        return
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("recipe")
    parser.add_argument("--size")
    known, _ = parser.parse_known_args(arguments)
    make_missing(known.recipe, known.size)
    know_hf(["experiment", *arguments])


if __name__ == "__main__":
    main()
