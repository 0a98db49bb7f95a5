"""The table of methods in ``RETRODICTION.md``, made of the registry: ``python -m know_hf.retrodiction.page``."""

import inspect
import re
from pathlib import Path

from know_hf.retrodiction import METHODS, Method
from know_hf.store import write_text

PAGE = Path(__file__).with_name("RETRODICTION.md")
_BEGIN, _END = "<!-- made by know_hf.retrodiction.page -->", "<!-- end -->"


def methods_table() -> str:
    """The methods that are registered, in Markdown: what each gives, its parameters, needs, limits and source."""
    rows = [["method", "Θ̂^(−s)", "parameters", "needs", "limits", "source"]]
    for name, method in METHODS.items():
        rows.append([f"`{name}`", _summary(method), _parameters(method), _needs(method), *_notes(method)])
    return "\n".join("| " + " | ".join(row) + " |" for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]])


def with_table(page: str) -> str:
    """A page whose table is up to date; what stands outside the two marks stays."""
    before, _, rest = page.partition(_BEGIN)
    return f"{before}{_BEGIN}\n\n{methods_table()}\n\n{_END}{rest.partition(_END)[2]}"


def _docstring(method: Method) -> str:
    return inspect.getdoc(method.function) or ""


def _summary(method: Method) -> str:
    return _one_cell(_docstring(method).partition("\n\n")[0])


def _parameters(method: Method) -> str:
    own = [p for p in method.parameters.values() if p.name not in ("predictor", "sampling_ratio")]
    further = ["those of the method that it takes after"] if method.hands_on else []
    return ", ".join([*(f"`{p.name}={p.default!r}`" for p in own), *further]).replace("'", '"') or "–"


def _needs(method: Method) -> str:
    needs = ["whole tensors"] if method.whole_tensors else []
    needs += ["branches from one start"] if method.branches else []
    if family := method.reads({}):
        needs.append(f"weights of {family.name} ({'bundled' if family.bundled else 'your own'})")
    return ", ".join(needs) or "–"


def _notes(method: Method) -> list[str]:
    """Limits and source, as the docstring states them."""
    found = {}
    for name in ("Limits", "Source"):
        section = re.search(rf"^{name}: (.*?)(?=\n\n|\Z)", _docstring(method), re.MULTILINE | re.DOTALL)
        found[name] = _one_cell(section[1]) if section else "–"
    return [found["Limits"], found["Source"]]


def _one_cell(text: str) -> str:
    """Docstring as it stands in a cell: one line, single quotation marks of code, bars escaped."""
    return re.sub(r"\s+", " ", text).strip().removesuffix(".").replace("``", "`").replace("|", r"\|")


if __name__ == "__main__":
    write_text(PAGE, with_table(PAGE.read_text(encoding="utf-8")))
