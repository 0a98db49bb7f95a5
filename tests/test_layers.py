"""The house: what may import what."""

import ast
from itertools import pairwise
from pathlib import Path

import know_hf

ROOT = Path(know_hf.__file__).parent
#: Rooms from the ground up. A file imports from its own room, or from rooms further up in this list; a room is a file
#: of the package or a folder of files.
LAYERS = (
    "__init__",
    "auto_classes",
    "installing",
    "text",
    "garbage",
    "progress",
    "notices",
    "store",
    "reading",
    "plain_yaml",
    "settings",
    "sharing",
    "records",
    "checkpoints",
    "tables",
    "remote",
    "model_config",
    "metrics",
    "tasks",
    "models",
    "trajectory",
    "training",
    "forgetting",
    "known",
    "retrodiction",
    "fitting",
    "hub",
    "enrichment",
    "choice",
    "laboratory",
    "meta",
    "report",
    "outcome",
    "pretrained",
    "plan",
    "quickstart",
    "cli",
    "__main__",
)


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def imports() -> list[tuple[str, str]]:
    """(importing module, imported module) of the whole package, imports within functions included."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        module = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        # What only a type checker reads binds no one: the package's own names are fetched on first use.
        skipped = {
            inner
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            if node in skipped:
                continue
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module == "know_hf":
                # Of the package itself come its rooms, and its version.
                found += [(module, f"know_hf.{n.name}" if n.name in LAYERS else "know_hf") for n in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.append((module, node.module))
            elif isinstance(node, ast.Import):
                found += [(module, name.name) for name in node.names]
    return [(source, target) for source, target in found if target.split(".")[0] == "know_hf"]


def test_every_file_has_its_layer():
    rooms = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert rooms == set(LAYERS)


def test_no_import_runs_upward():
    upward = [
        f"{source} imports {target}"
        for source, target in imports()
        if LAYERS.index(room_of(target)) > LAYERS.index(room_of(source))
    ]
    assert not upward


def test_no_files_import_each_other_in_a_circle():
    graph: dict[str, set[str]] = {}
    for source, target in imports():
        graph.setdefault(source.removesuffix(".__init__"), set()).add(target)

    def walk(module: str, path: tuple[str, ...]) -> None:
        if module in path:
            circle = [*path[path.index(module) :], module]
            # A folder's own __init__ gathers what its files define.
            if not any(a.startswith(f"{b}.") or b.startswith(f"{a}.") for a, b in pairwise(circle)):
                raise AssertionError(" → ".join(circle))
            return
        if module not in done:
            for target in sorted(graph.get(module, ())):
                walk(target, (*path, module))
            done.add(module)

    done: set[str] = set()
    for module in sorted(graph):
        walk(module, ())


def test_the_predictor_s_files_stand_alone():
    """They ship to the Hub with a predictor: relative imports only, of files in the same folder."""
    for path in (ROOT / "known").glob("*.py"):
        if path.name == "__init__.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level <= 1
                assert node.level == 1 or not (node.module or "").startswith("know_hf"), path
            elif isinstance(node, ast.Import):
                assert not any(name.name.startswith("know_hf") for name in node.names), path
