"""What is refused in words, and what sound things are not: results of other commands, inputs, configurations, flags."""

import itertools
import json
import math
import os
import shutil

import pytest
from conftest import QUICK
from test_finished import listing, run  # noqa: F401 (a fixture)

from know_hf import enrich
from know_hf.cli.main import in_words, main
from know_hf.enrichment.options import Prediction
from know_hf.enrichment.resolved import resolve
from know_hf.model_config import check_config, read_config
from know_hf.pretrained import forget_pretrained
from know_hf.retrodiction import METHODS, check_method


def edit(path, **changes):
    content = json.loads(path.read_text())
    for name, value in changes.items():
        content.pop(name, None) if value is None else content.update({name: value})
    path.write_text(json.dumps(content))


def test_what_data_finished_is_not_made_again_without_them(run):  # noqa: F811
    folder = run / "enriched" / "x2"
    edit(folder / "enrichment.json", batch_norm="re-estimated on 128 training examples")
    whole = (folder / "enrichment.json").read_bytes()
    assert enrich(run, steps=1).checkpoints["x2"] == folder  # it is whole
    os.truncate(folder / "model.safetensors", 100)
    with pytest.raises(FileExistsError, match="x2 is damaged .* was finished with data .*know-hf enrich"):
        enrich(run, steps=1)
    assert (folder / "enrichment.json").read_bytes() == whole


def test_results_without_the_newest_notes_are_taken_as_they_are(run, caplog):  # noqa: F811
    edit(run / "enriched" / "x2" / "enrichment.json", sha256=None, baseline=None)
    before = listing(run / "enriched")
    enrich(run, steps=2, verify=True)
    assert "x2 cannot be verified" in caplog.text and listing(run / "enriched") == before


@pytest.mark.parametrize("changes", [{"sha256": []}, {"statistics": {}}, {"statistics": {"fc": {}}}])
def test_records_that_lost_something_are_damage(run, caplog, changes):  # noqa: F811
    edit(run / "enriched" / "x2" / "enrichment.json", **changes)
    enrich(run, steps=2, verify=True)
    assert "x2 is damaged" in caplog.text
    assert json.loads((run / "enriched" / "x2" / "enrichment.json").read_text())["statistics"]


def test_a_halved_configuration_is_damage_and_an_edited_one_is_told(run, caplog):  # noqa: F811
    path = run / "enriched" / "x2" / "config.json"
    edit(path, note="mine")
    edited = path.read_bytes()
    enrich(run, steps=2, verify=True)
    assert "config.json differs from stage 0's; it is left" in caplog.text and path.read_bytes() == edited
    os.truncate(path, path.stat().st_size // 2)
    enrich(run, steps=2)
    assert "config.json is no JSON any more" in caplog.text and json.loads(path.read_text())


def test_output_in_an_input_is_refused(tmp_path, image_model_folder, image_data_folder, capsys):
    model, data = tmp_path / "model", tmp_path / "data"
    shutil.copytree(image_model_folder, model)
    shutil.copytree(image_data_folder, data)
    before = listing(tmp_path)
    for inside in (model / "out", data / "out"):
        with pytest.raises(FileExistsError, match="is, or lies in, the input"):
            forget_pretrained(str(model), str(data), inside, **QUICK)
        arms = ["--arms", f"a={model}", f"b={image_model_folder}"]
        for command in (["forget", "--model", str(model)], ["transfer", *arms]):
            with pytest.raises(SystemExit) as ended:
                main([*command, "--dataset", str(data), "--output_dir", str(inside)])
            assert ended.value.code == 2 and "is, or lies in, the input" in capsys.readouterr().err
    assert listing(tmp_path) == before


@pytest.mark.parametrize(
    "name, parameters, said",
    [
        ("tsv", {"frac": "abc"}, "tsv: frac must be a number, found 'abc'"),
        ("tsv", {"frac": True}, "frac must be a number"),
        ("tsv", {"merge": "abc"}, "merge must be true or false"),
        ("tsv", {"lam": None}, "lam must be a number"),
        ("shrink", {"factors": [1, 2]}, "factors must be name: value pairs"),
        ("shrink", {"to": "tsv", "frac": [0.1]}, "shrink: frac must be a number"),
    ],
)
def test_parameters_of_another_type(name, parameters, said):
    with pytest.raises(ValueError, match=said):
        check_method(name, 5, ["fc"], 1, parameters)


@pytest.mark.parametrize(
    "sound",
    [
        {"max_depth": 10_000},
        {"label2id": {"sleep_stages": 2500, "awake": 0}, "id2label": {"2500": "sleep_stages"}},
        {"mlp_layers": [4096, 1024]},
        {"max_length": 10**30},
        {"depths": [3, 3, 27, 3], "vision_config": {"num_hidden_layers": 48}},
    ],
)
def test_sound_configurations_are_read(sound):
    check_config(sound, "config.json")


@pytest.mark.parametrize("absurd", [{"depths": [3, 10**6]}, {"num_layers": 10**6}, {"vocab_size": 10**30}])
def test_absurd_configurations_are_not(absurd):
    with pytest.raises(ValueError, match="no model has so many"):
        check_config(absurd, "config.json")


def test_an_adapter_is_no_model_by_itself(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "me/base", "r": 4}))
    with pytest.raises(ValueError, match=r"is a PEFT adapter of .me/base., no model by itself\. In Python, put it on"):
        read_config(tmp_path)


# What a command line, or a program, may pass as a method's parameter.
ODD = (
    "text", "", 3, -1, 0, 0.5, math.inf, 10**400, True, None, [1], [], [True], {"a": "b"}, {"a": [1]}, {1: 2}, b"x",
    (1,), {1},
)  # fmt: skip


@pytest.mark.parametrize("name", list(METHODS))
def test_a_parameter_of_any_type_is_answered_in_words(name):
    for parameter, value in itertools.product(METHODS[name].parameters, ODD):
        try:
            resolve(Prediction(method=name, steps=1, parameters={parameter: value}), 5, 0.5).check(["fc"])
        except Exception as error:
            said = in_words(error)
            assert said is not None and said.startswith(str(error)[:10]), (parameter, value, error)
