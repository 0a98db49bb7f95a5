"""From a folder to its page, whatever command made it."""

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType

import know_hf.report
from know_hf.records import TrajectoryError, found_at


def renderers() -> dict[str, ModuleType]:
    """The modules beside this one that render a kind of result, by the file that such a folder is known by.

    A renderer names that file in ``RECORD``, and its ``write_page`` makes the page of a folder. Where a folder holds
    several kinds of results, the first by name of the module is rendered.
    """
    modules = [import_module(f"know_hf.report.{module.name}") for module in iter_modules(know_hf.report.__path__)]
    return {module.RECORD: module for module in modules if hasattr(module, "RECORD")}


def write_page(folder: str | Path) -> Path:
    """Writes ``report/index.html`` of a forgetting or enrichment run, a comparison or an experiment.

    Args:
        folder: Its folder.

    Returns:
        The page's path; PNGs lie beside it.

    Raises:
        TrajectoryError: If the folder is none of these, or not finished.

    Example:
        >>> from know_hf.report.write import write_page
        >>> write_page("runs/mine")  # doctest: +SKIP
        PosixPath('runs/mine/report/index.html')
    """
    folder, known = Path(folder), renderers()
    for record, renderer in known.items():
        if (folder / record).exists():
            return renderer.write_page(folder)
    *others, last = sorted(known)
    near = [folder.absolute().parent, *(sorted(folder.iterdir()) if folder.is_dir() else ())]
    near = [other for other in near if any((other / record).exists() for record in known)][:3]
    meant = f" Perhaps {' or '.join(map(str, near))} is meant." if near else ""
    raise TrajectoryError(
        f"No page can be written about {folder}: {', '.join(others)} or {last} is expected there, and it "
        f"{found_at(folder)}. Give the output_dir of an enrich, forget, compare or experiment.{meant}"
    )
