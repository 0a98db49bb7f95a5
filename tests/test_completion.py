"""What the scripts for shells complete, asked of the shells themselves."""

import shutil
import subprocess
import sys

import pytest

from know_hf.cli.commands import COMMANDS
from know_hf.cli.completion import SHELLS, flags_of, script
from know_hf.cli.main import build_parser, main
from know_hf.cli.options import CompletionInputs
from know_hf.settings import options_of


def shell(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"needs {name}")
    return found


def completed(line: str, tmp_path) -> list[str]:
    """What bash offers for the last word of a line, by the function that ``complete`` has for the program."""
    file = tmp_path / "know-hf.bash"
    if not file.exists():
        file.write_text(script("bash", COMMANDS), encoding="utf-8")
    words = line.split(" ")
    asked = f"""
        set -u; source {file}
        compopt() {{ :; }}  # is for a terminal, which is not there
        [[ $(complete -p know-hf) =~ -F\\ ([^ ]+)\\ know-hf ]]
        COMP_WORDS=({" ".join(repr(word) for word in words)}); COMP_CWORD={len(words) - 1}
        "${{BASH_REMATCH[1]}}"; printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run([shell("bash"), "--norc", "-c", asked], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("know-hf en", ["enrich", "env"]),
        ("know-hf meta", ["meta-train", "meta-evaluate"]),
        ("know-hf --ver", ["--version"]),
        ("know-hf enrich --choose-o", ["--choose-on"]),
        ("know-hf --traceback enrich --choose n", ["none"]),
        ("know-hf enrich --output-dir runs --recipe inc", ["incremental"]),
        ("know-hf enrich --recipe = equal", ["equal_compute"]),  # as bash parts --recipe=equal
        ("know-hf enrich --task text-", ["text-classification", "text-generation", "text-regression"]),
        ("know-hf plan model --dataset d --task conv", ["conversation"]),
        ("know-hf predict run --method li", ["linear_fit"]),
        ("know-hf enrich --method al", ["all"]),
        ("know-hf compare --method ni", ["nino"]),
        ("know-hf enrich --also on", ["once_more"]),
        ("know-hf enrich --num_tr", ["--num_train_epochs"]),
        ("know-hf enrich --num-tr", ["--num-train-epochs"]),
        ("know-hf forget --choose-o", []),
        ("know-hf enrich --model runs/", []),  # files are bash's own matter
        ("know-hf completion ", ["bash", "zsh", "fish"]),
    ],
)
def test_bash(line, found, tmp_path):
    assert completed(line, tmp_path) == found


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_of_the_parser_is_offered(name, tmp_path):
    offered = {word.removeprefix("--") for word in completed(f"know-hf {name} --", tmp_path)}
    parser = build_parser().commands[name]
    hidden = "==SUPPRESS=="
    own = {a.option_strings[0].lstrip("-") for a in parser._actions if a.option_strings and a.help != hidden}
    assert own - {"h"} <= offered | {"help"}
    assert ("fsdp" in offered) == COMMANDS[name].trains


def test_fish(tmp_path):
    file = tmp_path / "know-hf.fish"
    file.write_text(script("fish", COMMANDS), encoding="utf-8")
    for line, found in (("know-hf en", ["enrich", "env"]), ("know-hf completion ", ["bash", "fish", "zsh"])):
        asked = [shell("fish"), "--no-config", "-c", f"source {file}; complete -C '{line}'"]
        done = subprocess.run(asked, capture_output=True, text=True)
        assert [row.split("\t")[0] for row in done.stdout.splitlines()] == found, done.stderr


@pytest.mark.parametrize("name", ["bash", "zsh"])
def test_the_shell_can_read_it(name, tmp_path):
    file = tmp_path / "script"
    file.write_text(script(name, COMMANDS), encoding="utf-8")
    subprocess.run([shell(name), "-n", file], check=True)


@pytest.mark.parametrize("name", SHELLS)
def test_a_script_has_every_command_and_flag(name):
    text = script(name, COMMANDS)
    for command in COMMANDS:
        assert command in text
    assert all(flag.name in text for flag in flags_of(COMMANDS["enrich"]))
    if name != "bash":  # texts are quoted: those with apostrophes among them end where they should
        assert "model's own" in text.replace("'\"'\"'", "'").replace("\\'", "'")


def test_the_command(capsys):
    main(["completion", "fish"])
    assert capsys.readouterr().out == script("fish", COMMANDS)
    assert options_of(CompletionInputs)["shell"].choices == tuple(SHELLS)
    with pytest.raises(SystemExit):
        main(["completion", "tcsh"])
    assert "bash, zsh, fish" in capsys.readouterr().err


def test_names_read_from_the_source_are_those_that_are_registered():
    from know_hf.retrodiction import METHODS
    from know_hf.tasks import TASKS

    of = {name: one for command in ("enrich", "compare") for name, one in COMMANDS[command].options.items()}
    assert set(of["task"].usual()) == {
        n for n, one in TASKS.items() if one.preprocessing.__module__.startswith("know_hf.")
    }
    ours = {name for name, one in METHODS.items() if one.function.__module__.startswith("know_hf.")}
    assert set(of["method"].usual()) == {*ours, "all"}


def test_nothing_heavy_is_imported():
    code = (
        "import sys; from know_hf.cli.main import main; main(['completion', 'bash'])\n"
        "heavy = {'torch', 'numpy', 'transformers', 'datasets'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
