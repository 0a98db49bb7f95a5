"""Every flag of every command with values that make no sense: one line, exit code 2, at once, and nothing written."""

import os
import random
import time

import pytest
import yaml

import know_hf.laboratory.comparison  # noqa: F401 (so that no test waits for it)
from know_hf.cli.main import build_parser, main
from know_hf.forgetting.options import training_fields

ABSURD = ["", " ", "0", "-1", "1e400", "nan", "inf", "-inf", "1e-320", str(2**70), "9" * 5000, "x", "é\u202e\n",
          "a" * 5000, "/proc/nowhere/at/all", "=", "a=b", "*=x", "a=[[[", "a=&a [*a]", "{", "\udcff", "\0"]  # fmt: skip
#: Numbers of Trainer's that nothing here decides by.
UNUSED = ("local_rank", "past_index", "save_total_limit", "ddp_timeout", "ddp_bucket_cap_mb", "logging_nan_inf_filter")


def commands(folders: dict[str, str], out: str) -> dict[str, list[str]]:
    """Each command as it would run, but for a flag too many."""
    from_data = ["--model", folders["model"], "--dataset", folders["data"], "--output-dir", out]
    return {
        "enrich": ["enrich", *from_data, "--num_stages", "1"],  # what is wrong with the flag comes first, or this does
        "forget": ["forget", *from_data, "--num_stages", "1"],
        "predict": ["predict", folders["run"], "--output-dir", out, "--norms", "x"],
        "transfer": ["transfer", "--arms", "a=/proc/nowhere", "--dataset", folders["data"], "--output-dir", out],
        "compare": ["compare", "--arms", "a=/proc/nowhere", "--dataset", folders["data"], "--output-dir", out],
        "experiment": ["experiment", "/proc/nowhere", "--output-dir", out],
        "collect": ["collect", "--data", "/proc/nowhere", "--output-dir", out],
        "meta-train": ["meta-train", "/proc/nowhere", "--output-dir", out],
        "meta-evaluate": ["meta-evaluate", "/proc/nowhere", "--output-dir", out],
        "report": ["report", "/proc/nowhere"],
        "push": ["push", "/proc/nowhere", "user/name"],
        "plan": ["plan", "/proc/nowhere"],
        "convert": ["convert", "/proc/nowhere", out],
        "quickstart": ["quickstart", "--output-dir", out, "--seeds", "1"],
    }


def cases(folders: dict[str, str], out: str) -> list[list[str]]:
    parser = build_parser()
    numbers = [n for n, kind in training_fields().items() if kind in ("int", "float") and n not in UNUSED]
    found = [["--config", folders["text"]], ["enrich", "--config", folders["data"]], ["transfer", folders["data"]]]
    for name, command in commands(folders, out).items():
        for action in parser.commands[name]._actions:
            if action.option_strings and action.dest not in ("help", "traceback"):
                found += [[*command, action.option_strings[0], value] for value in [*ABSURD, *folders.values()]]
            elif not action.option_strings:
                found += [[name, value, *command[2:]] for value in ABSURD if name in ("report", "plan", "predict")]
    for flag in numbers:
        command = commands(folders, out)["enrich"]
        found += [[*command, f"--{flag}", value] for value in ("nan", "-7", "x", "[", str(2**70), "9" * 5000)]
    return found


@pytest.fixture
def folders(trajectory, image_model_folder, image_data_folder, tmp_path) -> dict[str, str]:
    (tmp_path / "some.txt").write_text("text")
    there = {"run": trajectory.root, "model": image_model_folder, "data": image_data_folder}
    return {name: str(path) for name, path in {**there, "text": tmp_path / "some.txt"}.items()}


def try_all(found: list[list[str]], out: str, capsys) -> None:
    faults = []
    for arguments in found:
        begun = time.perf_counter()
        try:
            main(arguments)
            code = 0
        except SystemExit as ended:
            code = ended.code
        except Exception as error:
            code = repr(error)
        said = capsys.readouterr().err
        lines = [line for line in said.splitlines() if line.startswith("know-hf: error: ")]
        written = os.path.isdir(out) and os.listdir(out)
        if code != 2 or len(lines) != 1 or "Traceback" in said or written or time.perf_counter() - begun > 10:
            faults.append(([a[:60] for a in arguments], code, said[-300:], written))
    assert not faults, f"{len(faults)} of {len(found)}: " + "\n".join(map(str, faults[:10]))


def test_absurd_flags_end_in_one_line(folders, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = str(tmp_path / "out")
    try_all(random.Random(0).sample(cases(folders, out), 60), out, capsys)


@pytest.mark.slow
def test_every_absurd_flag_ends_in_one_line(folders, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = str(tmp_path / "out")
    found = cases(folders, out)
    assert len(found) > 2000
    with capsys.disabled():
        print(f"\nabsurd flags: {len(found)}")
    try_all(found, out, capsys)


def bomb(levels: int = 12) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines)


def merge_bomb(levels: int = 12) -> str:
    lines = ["a0: &a0 {x: 1, y: 2}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}], z{i}: 1}}" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 5000, "nested too deeply"),
        ("a: " + "[" * 200 + "]" * 200, "nested too deeply"),
        (bomb(), "more than 20,000 values"),
        (merge_bomb(), "know-hf"),  # refused, or harmless where the library merges each name once
        ("a: &a [*a]", "holds itself"),
        ("steps: 2024-01-01", "steps is a date"),
        ("steps: !!binary aGk=", "steps is a bytes"),
        ('output_dir: "a\\0b"', "NUL"),
        ('output_dir: "\\ud800"', "not valid UTF-8"),
        ("1: 2", "the name 1 is not text"),
        ("steps: " + "9" * 6000, "not plain YAML"),
        ("steps: " + "9" * 400, "nothing here counts to"),
        ("steps: 1000000000", "at most 100"),
        ("seed: -1", "seed is -1; it must be at least 0"),
        ("learning_rate: .nan", "learning_rate is nan"),
        ("a: !!python/object:os.system x", "not plain YAML"),
        ("x" * (1 << 20) + ": 1", "more than 256 kB"),
        ("output_dir: ''", "output_dir must be text"),
    ],
)
def test_recipes_that_are_none(tmp_path, capsys, text, said):
    (tmp_path / "run.yaml").write_text("model: m\ndataset: d\n" + text if ":" in text and "[" != text[0] else text)
    begun = time.perf_counter()
    for command in (["enrich", "--config", tmp_path / "run.yaml", "--output-dir", tmp_path / "o"],
                    ["experiment", tmp_path / "run.yaml", "--output-dir", tmp_path / "o"]):  # fmt: skip
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in command])
        line = capsys.readouterr().err
        assert ended.value.code == 2 and line.startswith("know-hf: error: ") and line.count("\n") == 1
        assert said in line or command[0] == "experiment"
    assert time.perf_counter() - begun < 5 and not (tmp_path / "o").exists()


def test_recipes_with_aliases_are_read(tmp_path):
    from know_hf.settings import read_recipe

    (tmp_path / "run.yaml").write_text("a: &a {x: 1e-3, y: [1, 2]}\nb: {<<: *a, x: 2}\nc: [*a, *a]\n")
    assert read_recipe(tmp_path / "run.yaml")["b"] == {"x": 2, "y": [1, 2]}
    assert yaml.safe_load(bomb(2))  # the bombs are YAML


def test_one_process_of_a_launch_says_it_for_all(capsys, monkeypatch, tmp_path):
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("LOCAL_RANK", rank)
        for arguments in (["predict", str(tmp_path), "--steps", "0"], ["predict"], ["nothing"]):
            with pytest.raises(SystemExit) as ended:
                main(arguments)
            assert ended.value.code == 2 and capsys.readouterr().err.count("know-hf: error:") == lines
