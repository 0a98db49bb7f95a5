"""The names under which a folder of this package registers functions, read from its source: nothing is imported."""

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path


@cache
def registered(package: str, decorator: str) -> tuple[str, ...]:
    """Names that a decorator gives to functions: its first argument, where that is a text, else the function's name.

    What other packages register is not among them, nor what a user's own code does.

    Args:
        package: The folder's full name, such as ``"know_hf.tasks"``.
        decorator: Name of the decorator.

    Returns:
        The names in alphabetical order; none where there is no source to read.

    Example:
        >>> from know_hf.settings.registered import registered
        >>> "text-classification" in registered("know_hf.tasks", "task")
        True
    """
    spec, names = find_spec(package), set()
    folder = Path(spec.origin).parent if spec and spec.origin else Path("nowhere")
    for path in folder.glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            for made in node.decorator_list if isinstance(node, ast.FunctionDef) else ():
                called = made.func if isinstance(made, ast.Call) else made
                if isinstance(node, ast.FunctionDef) and isinstance(called, ast.Name) and called.id == decorator:
                    first = made.args[0] if isinstance(made, ast.Call) and made.args else None
                    told = first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else None
                    names.add(told or node.name)
    return tuple(sorted(names))
