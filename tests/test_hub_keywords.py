"""Pushing with transformers' own keywords, and Auto classes that know the predictor once know_hf is imported."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hub_server import TOKEN
from test_cli import fails

from know_hf import KnownPredictor, enrich
from know_hf.cli.main import main
from know_hf.hub.push import push


@pytest.fixture(scope="module")
def result(image_run, tmp_path_factory):
    return enrich(image_run.trajectory, tmp_path_factory.mktemp("made") / "enriched", steps=2)


def commits(hub, name: str, revision: str = "main") -> list[str]:
    return [commit["message"] for commit in hub.model(name).branches[revision]]


def test_one_checkpoint_on_a_branch(hub, result):
    folder = result.checkpoints["x2"]
    url = push(folder, "tester/own", commit_message="Take this", private=True, token=True, revision="v1")
    assert url.endswith("tester/own") and hub.model("tester/own").private
    assert commits(hub, "tester/own") == ["initial commit"]  # main is left alone
    assert commits(hub, "tester/own", "v1")[1:] == ["Take this"]
    assert b'from_pretrained("tester/own", revision="v1")' in hub.model("tester/own").files("v1")["README.md"]
    push(result.checkpoints["x4"], "tester/own", revision="v1")
    assert commits(hub, "tester/own", "v1")[1:] == ["Take this", "Upload x4 with know-hf"]


def test_a_predictor(hub):
    url = KnownPredictor.default(2).push_to_hub(
        "tester/known", commit_message="Two stages", revision="small", token=TOKEN, private=True
    )
    assert url.endswith("tester/known") and commits(hub, "tester/known", "small")[1:] == ["Two stages"]
    url = KnownPredictor.default(2).push_to_hub("tester/known", create_pr=True, commit_message="Please")
    assert url.endswith("/discussions/1") and commits(hub, "tester/known", "refs/pr/1")[-1] == "Please"
    assert KnownPredictor.from_pretrained("tester/known", revision="small").config.history_length == 2


def test_another_token_is_used(hub, result):
    with pytest.raises(PermissionError, match="401"):
        push(result.checkpoints["x2"], "tester/own", token="hf_" + "NotTheirs" + "x" * 25)


def test_what_is_recommended_becomes_main(hub, result, tmp_path):
    best = Path(shutil.copytree(result.checkpoints["x4"], tmp_path / "elsewhere" / "best"))
    chosen = replace(result, best=best)
    chosen.push_to_hub("tester/steps", commit_message="All of it")
    branches = hub.model("tester/steps").branches
    assert set(branches) == {"main", "x2", "x4"} and len(branches["main"]) == 2  # written once
    found = {name: hub.model("tester/steps").files(name)["model.safetensors"] for name in branches}
    assert found["main"] == found["x4"] != found["x2"]
    assert b"`main` is `best`" in hub.model("tester/steps").files("x2")["README.md"]
    chosen.push_to_hub("tester/steps", revision="candidate")
    assert hub.model("tester/steps").files("candidate")["model.safetensors"] == found["x4"]
    assert chosen.push_to_hub("tester/steps", create_pr=True).endswith("/discussions/1")
    result.push_to_hub("tester/first")
    first = hub.model("tester/first").files()["model.safetensors"]
    assert first == (result.checkpoints["x2"] / "model.safetensors").read_bytes()


def test_from_the_command_line(hub, result, capsys):
    folder = result.checkpoints["x2"]
    main(["push", str(folder), "tester/cli", "--commit-message", "By hand", "--revision", "v2", "--token", TOKEN])
    assert commits(hub, "tester/cli", "v2")[-1] == "By hand" and TOKEN not in capsys.readouterr().out
    said = fails(capsys, "push", folder.parent, "tester/cli", "--revision", "v3")
    assert "The revision 'v3' takes one checkpoint; push one of" in said
    assert "v3" not in hub.model("tester/cli").branches


@pytest.mark.parametrize(
    "code",
    [
        "import know_hf; from transformers import AutoConfig; AutoConfig.for_model('known')",
        "import transformers, know_hf; transformers.AutoConfig.for_model('known')",
        "from transformers import AutoConfig; import know_hf; AutoConfig.for_model('known')",
        "import know_hf; import transformers as t; t.AutoModel.from_config(t.AutoConfig.for_model('known'))",
        "import know_hf; from transformers import Trainer, AutoModel; AutoModel.from_pretrained({folder!r}).networks",
        "from transformers import AutoModel; import know_hf; AutoModel.from_pretrained({folder!r}).networks",
        "import know_hf; from transformers import pipeline; know_hf.KnownPredictor",
    ],
)
@pytest.mark.slow
def test_auto_classes_know_the_predictor(code):
    from know_hf.known import modeling_known

    folder = Path(modeling_known.__file__).parent / "weights" / "stages-2"
    done = subprocess.run(
        [sys.executable, "-c", code.format(folder=str(folder))], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_importing_know_hf_alone_imports_nothing_of_transformers():
    code = "import sys, know_hf; assert not {'transformers', 'torch'} & set(sys.modules), 'heavy'"
    assert subprocess.run([sys.executable, "-c", code], timeout=100).returncode == 0
