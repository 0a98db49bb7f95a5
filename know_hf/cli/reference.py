"""The reference page, made from the options themselves: ``python -m know_hf.cli.reference docs/reference.md``."""

import sys
from pathlib import Path

from know_hf.cli.commands import COMMANDS
from know_hf.cli.flags import spellings
from know_hf.settings import COUNT, TINY, Option, options_of

_HEAD = """# Reference

Every command and every option, made from the fields that define them by `python -m know_hf.cli.reference
docs/reference.md`. An option has one name: `--steps 2` on the command line (with `-` or `_`), `steps: 2` in a file that
`--config` reads, `steps=2` in Python. `enrich` and `forget` take every field of transformers' `TrainingArguments`, too.
"""


def reference() -> str:
    """The page in Markdown."""
    rows = [["command", "does", "options"]]
    for name, command in COMMANDS.items():
        links = ", ".join(_link(kind) for kind in command.kinds)
        if command.trains:
            links += ", [ForgettingSettings](#forgettingsettings)"
        rows.append([f"`know-hf {name}`", command.help, links])
    parts = [_HEAD, "## Commands\n", _table(rows), "\n## Options\n"]
    for kind in all_option_classes():
        parts.append(f"### {kind.__name__}\n\n{(kind.__doc__ or '').splitlines()[0]} (`{kind.__module__}`)\n")
        rows = [["name", "flag", "type", "default", "what it is"], *map(_row, options_of(kind).values())]
        parts.append(f"{_table(rows)}\n")
    return "\n".join(parts)


def all_option_classes() -> list[type]:
    """Every dataclass of options, in the order of the page."""
    from know_hf.forgetting.options import ForgettingSettings
    from know_hf.laboratory.options import Cell, Decoder
    from know_hf.laboratory.recipe import Recipe
    from know_hf.laboratory.setting import Downstream, Pretraining, Setting
    from know_hf.training.options import Augmentation

    used = [kind for command in COMMANDS.values() for kind in command.kinds]
    of_recipes = [Recipe, Setting, Cell, Pretraining, Downstream, Decoder, Augmentation]
    return list(dict.fromkeys([*used, ForgettingSettings, *of_recipes]))


def _link(kind: type) -> str:
    return f"[{kind.__name__}](#{kind.__name__.lower()})"


def _row(known: Option) -> list[str]:
    flag = "" if known.flag is None else known.flag.upper()
    if known.flag and not known.positional:
        flag = spellings(f"no_{known.flag}" if known.form is bool and known.default is True else known.flag)[0]
    default = "required" if known.required else known.default_name
    return [f"`{known.name}`", flag and f"`{flag}`", f"`{known.type_name}`", default, f"{known.help}{_range(known)}"]


def _range(known: Option) -> str:
    if known.limits is None:
        return ""
    low, high = known.limits
    least = "more than 0" if low == TINY else f"at least {low:g}"
    return f" ({least})" if high >= COUNT or high == 1e9 else f" ({least}, at most {high:.10g})"


def _table(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference(), encoding="utf-8")
