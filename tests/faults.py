"""Every change of files that a command makes, as a point where it may die or fail; then the same command again.

``campaign`` runs this file as a program with ``faults.c`` loaded before the C library. The program imports everything
once and forks a process for each run, so that a run takes no longer than its work. Points are numbered operations
(open to write, write, flush, rename, delete, make a folder …) below the command's folder, of compiled libraries too.
"""

import contextlib
import fnmatch
import gc
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

#: What happens at a point. ``kill``: SIGKILL before the operation; ``torn``: after half of a write; ``power``: SIGKILL,
#: and what was written but not flushed is gone; ``full``: no room from there on; ``fail``: one input/output error.
MODES = ("kill", "torn", "power", "full", "fail")
#: Exit codes of a command that met a fault: by the signal, or in words.
_SAID = 2
_DURATIONS = ("seconds", "training")


@dataclass
class Campaign:
    """A command and where to disturb it.

    Args:
        command: Arguments of the command line; ``{folder}`` stands for its folder.
        modes: What happens.
        points: How many points of each kind of fault, evenly spread; None for every one.
        begin: A folder that the command's folder begins as a copy of.
        ignored: Patterns of paths that differ from run to run, because they tell how long it took.
        seed: Of where the spread begins.
    """

    command: list[str]
    modes: list[str] = field(default_factory=lambda: list(MODES))
    points: int | None = None
    begin: str | None = None
    ignored: list[str] = field(default_factory=list)
    seed: int = 0


@dataclass
class Outcome:
    """What came of it: operations of an undisturbed run, faults tried, and what did not hold."""

    operations: int
    tried: dict[str, int]
    failures: list[str]
    log: list[str]
    seconds: float


def campaign(plan: Campaign, scratch: Path) -> Outcome:
    """Runs a campaign in a process of its own; needs a C compiler and Linux."""
    scratch.mkdir(parents=True, exist_ok=True)
    library = scratch / "faults.so"
    source = Path(__file__).with_name("faults.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    told = scratch / "plan.json"
    told.write_text(json.dumps({"plan": asdict(plan), "scratch": str(scratch)}))
    environment = {**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, __file__, told], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"the campaign itself failed:\n{done.stdout[-2000:]}{done.stderr[-3000:]}")
    return Outcome(**json.loads((scratch / "outcome.json").read_text()))


def main(told: Path) -> None:
    """The program: imports, forks, compares."""
    content = json.loads(told.read_text())
    plan, scratch = Campaign(**content["plan"]), Path(content["scratch"])
    _import(["know_hf.cli.main", "torch"])
    begun = time.perf_counter()
    reference, folder = scratch / "reference", scratch / "run"
    # All runs are of one and the same path, as some of it shows in what they write.
    code, operations, log = _run(plan, folder)
    if code:
        raise SystemExit(f"the undisturbed command ended with {code}: {_words(scratch)}")
    _import((scratch / "modules.txt").read_text().split())
    folder.rename(reference)
    expected, tried, failures = _contents(reference, plan), dict.fromkeys(plan.modes, 0), []
    for mode in plan.modes:
        for point in _points(plan, operations, mode):
            tried[mode] += 1
            if fault := _disturb(plan, folder, mode, point, expected):
                failures.append(f"{mode} at {point} ({log[point - 1]}): {fault}")
                with open(scratch / "failures.txt", "a") as file:
                    file.write(failures[-1] + "\n")
            shutil.rmtree(folder, ignore_errors=True)
    outcome = Outcome(operations, tried, failures, log, time.perf_counter() - begun)
    (scratch / "outcome.json").write_text(json.dumps(asdict(outcome)))


def _points(plan: Campaign, operations: int, mode: str) -> list[int]:
    if plan.points is None or plan.points >= operations:
        return list(range(1, operations + 1))
    first = random.Random(f"{plan.seed} {mode}").random()
    return [1 + int((i + first) * operations / plan.points) for i in range(plan.points)]


def _disturb(plan: Campaign, folder: Path, mode: str, point: int, expected: dict[str, bytes]) -> str | None:
    """One fault, and the same command again; what does not hold, or None."""
    code, _, _ = _run(plan, folder, mode, point)
    words = _words(folder.parent)
    if mode in ("full", "fail"):
        # One that is not needed may fail: then the run is as if nothing had been.
        if code not in (0, _SAID):
            return f"ended with {code}: {words}"
        if code == _SAID and (words.count("\n") > 1 and "Traceback" in words or "error: " not in words):
            return f"not said in a line: {words}"
        if code == _SAID and "Error: " in words.split("error: ", 1)[1][:40]:
            return f"said in a library's words: {words}"
    elif code != -signal.SIGKILL:
        return f"did not die but ended with {code}: {words}"
    code, _, _ = _run(plan, folder)
    if code:
        return f"cannot be continued ({code}): {_words(folder.parent)}"
    found = _contents(folder, plan)
    if different := sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)):
        return f"continued, other files: {', '.join(different[:6])} ({len(different)})"
    return None


def _run(plan: Campaign, folder: Path, mode: str = "count", point: int = 0) -> tuple[int, int, list[str]]:
    """Runs the command in a forked process; returns its exit code, operations and their list."""
    if not folder.exists():
        shutil.copytree(plan.begin, folder, symlinks=True) if plan.begin else folder.mkdir()
    log = folder.parent / "operations.txt"
    process = os.fork()
    if process == 0:
        _child(plan, folder, mode, point, log)
    _, status = os.waitpid(process, 0)
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return os.waitstatus_to_exitcode(status), len(lines), lines


def _child(plan: Campaign, folder: Path, mode: str, point: int, log: Path) -> None:
    import ctypes

    from know_hf.cli.main import main as command_line

    output = os.open(folder.parent / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1), os.dup2(output, 2)
    listed = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    code = 0
    shim = ctypes.CDLL(os.environ["LD_PRELOAD"])
    shim.faults_arm(str(folder).encode(), ctypes.c_long(point), ("count", *MODES).index(mode), listed)
    try:
        command_line([argument.replace("{folder}", str(folder)) for argument in plan.command])
    except SystemExit as error:
        code = error.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    finally:
        shim.faults_arm(b"", ctypes.c_long(0), 0, -1)
        if mode == "count":
            (folder.parent / "modules.txt").write_text("\n".join(sys.modules))
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)


def _words(scratch: Path) -> str:
    lines = (scratch / "output.txt").read_text(errors="replace").replace("\r", "\n").splitlines()
    return "\n".join(line for line in lines if line.startswith(("know-hf: ", "Traceback")) or "rror" in line)[-600:]


def _contents(folder: Path, plan: Campaign) -> dict[str, bytes]:
    """Every file that may not differ, and every folder; of those that may, that they are there."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        told = path.is_file() and not any(fnmatch.fnmatch(name, pattern) for pattern in plan.ignored)
        found[name] = _untimed(path) if told else b""
    return found


def _untimed(path: Path) -> bytes:
    """A file's bytes; of a record the content without durations."""
    content = path.read_bytes()
    if path.suffix != ".json" or not any(f'"{key}"'.encode() in content for key in _DURATIONS):
        return content
    return json.dumps(_without_durations(json.loads(content))).encode()


def _without_durations(content):
    if isinstance(content, dict):
        return {key: _without_durations(value) for key, value in content.items() if key not in _DURATIONS}
    return [_without_durations(value) for value in content] if isinstance(content, list) else content


def _import(modules: list[str]) -> None:
    """What an undisturbed run had imported, so that those to come find it there."""
    import torch

    torch.set_num_threads(1)
    for name in modules:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    gc.freeze()  # Trainer collects garbage often; what is imported need not be looked at each time


if __name__ == "__main__":
    main(Path(sys.argv[1]))
