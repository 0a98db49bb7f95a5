"""Folders and files that are not what a flag says they are, damaged runs, and models of absurd sizes: one line each."""

import json
import os
import shutil

import pytest
import torch
from conftest import link
from test_cli import FAST, fails

from know_hf import KnownConfig, Trajectory, TrajectoryError, enrich
from know_hf.cli.main import main
from know_hf.forgetting.subsets import subset_sizes
from know_hf.models.loading import load_model
from know_hf.report.write import write_page


@pytest.fixture(scope="module")
def finished(image_run, tmp_path_factory):
    """A run with its predictions, to be copied and damaged."""
    run = tmp_path_factory.mktemp("finished") / "run"
    shutil.copytree(image_run.trajectory.root, run, ignore=shutil.ignore_patterns("training", "enriched*", "report"))
    enrich(run, steps=1)
    (run / "report").mkdir()
    (run / "report" / "self_check.json").write_text(json.dumps({"ratios": {"fc": 0.5}, "scores": {}}))
    return run


@pytest.fixture
def run(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def in_record(run, **changes) -> None:
    content = json.loads((run / "trajectory.json").read_text())
    (run / "trajectory.json").write_text(json.dumps({**content, **changes}))


def test_a_page_of_a_whole_run(run):
    assert "Self-check" in write_page(run).read_text()


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("enriched/x2/enrichment.json", "{}", "enrichment.json: method must be text"),
        ("enriched/x2/enrichment.json", "[" * 5000, "enrichment.json cannot be read: it is nested too deeply"),
        ("enriched/x2/enrichment.json", '{"method": "known", "step": "one"}', "step must be a whole number"),
        ("enriched/x2/enrichment.json", '{"method": "known", "step": 1}', "metrics must be name: value pairs"),
        ("report/self_check.json", '{"ratios": {"fc": "low"}}', "self_check.json: ratios.fc must be a number"),
        ("report/self_check.json", "", "self_check.json cannot be read"),
        ("report/self_check.json", '{"ratios": {"\\ud800": 1}}', "self_check.json cannot be read"),
        ("report/report.md", b"\xff\xfe", "report.md cannot be read"),
        ("trajectory.json", "{", "trajectory.json cannot be read"),
        ("transfer.json", "[]", "transfer.json is damaged: its content must be name: value pairs"),
        ("transfer.json", "{}", "transfer.json is damaged: arms must be name: value pairs"),
        ("recipe.json", '{"recipe": 3}', "recipe.json is damaged: recipe must be name: value pairs"),
    ],
)
def test_reports_of_damaged_runs(run, capsys, file, content, said):
    path = run / file
    (run / "wall.json").write_text('{"seconds": 1.0}')  # which an experiment has as well
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    assert said in fails(capsys, "report", run)
    assert not (run / "report" / "index.html").exists()


def test_folders_that_are_no_runs(tmp_path, capsys):
    """What was expected, what is there, and what to do; by all commands that read such."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "other" / "run").mkdir(parents=True)
    (tmp_path / "other" / "run" / "trajectory.json").write_text("{}")
    (tmp_path / "other" / "run" / "enriched").mkdir()
    expected = "recipe.json, trajectory.json or transfer.json is expected there, and it"
    for name, there in (
        ("nowhere", "does not exist"),
        ("empty", "is empty"),
        ("file", "is a file"),
        ("other", "holds run"),
        ("other/run/enriched", "is empty"),
    ):
        folder = tmp_path / name
        told = fails(capsys, "report", folder)
        assert f"{folder}: {expected} {there}. Give the output_dir of an enrich, forget, compare" in told
        assert told.rstrip().endswith(f"Perhaps {tmp_path}/other/run is meant.") == name.startswith("other")
        assert f"trajectory.json is expected there, and it {there}." in fails(capsys, "predict", folder)
        assert there in fails(capsys, "push", folder, "me/mine")


def test_reports_of_odd_runs(run, capsys):
    stages = json.loads((run / "trajectory.json").read_text())["stages"]
    mixed = [{**stage, "metrics": {f"eval_{i % 2}": 0.5}} for i, stage in enumerate(stages)]
    in_record(run, stages=mixed)
    main(["report", str(run)])
    in_record(run, stages=[{**stage, "metrics": {"eval_a": float("nan")}} for stage in stages])
    main(["report", str(run)])
    capsys.readouterr()
    for changes, said in (
        ({"model": {"id": ["a"]}}, "model: id must be text"),
        ({"model": {"parameters": 10**400}}, "model: parameters must be a whole number"),
        (
            {"stages": [{**stage, "metrics": {"eval_a": 10**400}} for stage in stages]},
            "metrics.eval_a must be",
        ),
        ({"stages": [{**stage, "examples": -3} for stage in stages]}, "examples of stage 0 is -3, not a count"),
        ({"stages": stages[:2]}, "and there are 2 stages"),
        ({"sampling_ratio": 1e-300}, "take fewer steps"),
    ):
        (run / "trajectory.json").write_text(
            json.dumps({**json.loads((run / "trajectory.json").read_text()), "model": {}})
        )
        in_record(run, **{"stages": stages, **changes})
        command = (
            ["predict", run, "--steps", 3, "--output-dir", run / "o"]
            if "sampling_ratio" in changes
            else ["report", run]
        )
        assert said in fails(capsys, *command)


def test_predictions_of_something_else_beside_a_run(run, capsys, text_model_folder):
    shutil.copyfile(text_model_folder / "model.safetensors", run / "enriched" / "x2" / "model.safetensors")
    assert "hold different tensors" in fails(capsys, "report", run)


@pytest.mark.parametrize("command", ["report", "predict", "plan", "push"])
def test_what_is_no_run(tmp_path, capsys, command):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "trajectory.json").mkdir()
    rest = ["user/name", "--dry-run"] if command == "push" else []
    for place in ("file", "empty", "odd", "nowhere", "a" * 5000, "line\nbreak"):
        assert len(fails(capsys, command, tmp_path / place, *rest)) < 2100
    assert not list(tmp_path.rglob("report"))


def test_pickles_are_no_models(tmp_path, capsys, image_model_folder, image_data_folder):
    folder = tmp_path / "model"
    shutil.copytree(image_model_folder, folder)
    (folder / "model.safetensors").unlink()
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(marker),)

    torch.save({"a": Evil()}, folder / "pytorch_model.bin")
    base = ["--dataset", image_data_folder, "--output-dir", tmp_path / "o", *FAST]
    assert "safetensors" in fails(capsys, "enrich", "--model", folder, *base)
    assert "holds no safetensors weights: it has pytorch_model.bin" in fails(capsys, "plan", folder)
    with pytest.raises(TrajectoryError, match="pytorch_model.bin"):
        Trajectory.from_checkpoints([folder, image_model_folder], kinds={"a": "fc"})
    assert not marker.exists() and not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "must hold name: value pairs"),
        ("", "config.json cannot be read"),
        ("[" * 9000, "nested too deeply"),
        ({"hidden_size": 10**6}, "weights by its configuration"),
        ({"hidden_size": -16}, ""),
        ({"hidden_size": "wide"}, ""),
        ({"num_hidden_layers": 10**9}, "no model has so many"),
        ({"num_labels": 10**9}, "no model has so many"),
        ({"num_attention_heads": 0}, ""),
        ({"vocab_size": 10**30}, "no model has so many"),
        ({"model_type": ["bert"]}, ""),
        ({"model_type": "nothing"}, "not a model that transformers knows"),
    ],
)
def test_models_that_nothing_could_hold(tmp_path, capsys, text_model_folder, content, said):
    folder = tmp_path / "model"
    shutil.copytree(text_model_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(content if isinstance(content, str) else json.dumps({**config, **content}))
    data = tmp_path / "data.csv"
    data.write_text("text,label\n" + "good film,a\nbad film,b\n" * 40)
    base = ["--dataset", data, "--output-dir", tmp_path / "o", *FAST]
    for command in (["enrich", "--model", folder, *base], ["enrich", "--from_scratch", "--model", folder, *base]):
        assert said in fails(capsys, *command)
    assert not list(tmp_path.rglob("stage-*"))


def test_a_predictor_of_absurd_size_is_refused_before_it_is_made():
    kinds = [f"k{i}" for i in range(10**5)]
    for sizes in ({"hidden_size": 10**9}, {"output_size": 10**9}, {"history_length": 10**9}, {"kinds": kinds}):
        with pytest.raises(Exception, match="weights; no predictor is as large"):
            KnownConfig(**sizes)


@pytest.mark.parametrize(
    "content", ["{", "[]", "[" * 9000, '{"model": 3}', '{"version": "1.0", "model": {"type": "x"}}']
)
def test_damaged_tokenizers_are_named(tmp_path, capsys, text_model_folder, content):
    folder = tmp_path / "model"
    shutil.copytree(text_model_folder, folder)
    (folder / "tokenizer.json").write_text(content)
    data = tmp_path / "data.csv"
    data.write_text("text,label\n" + "good film,a\nbad film,b\n" * 40)
    base = ["--dataset", data, "--output-dir", tmp_path / "o", *FAST]
    assert f"The tokenizer in '{folder}' cannot be loaded" in fails(capsys, "enrich", "--model", folder, *base)


@pytest.mark.parametrize("content", ["{", "[]", "[" * 9000, "3"])
def test_damaged_image_processors_are_named(tmp_path, content):
    from know_hf.tasks.images import saved_processor

    (tmp_path / "preprocessor_config.json").write_text(content)
    with pytest.raises(ValueError, match="preprocessor_config.json|image processor in"):
        saved_processor(tmp_path)
    assert saved_processor(tmp_path.parent) is None


NO_DATA = {
    "a.csv": b"\0\1\2" * 99, "a.json": b"[" * 9000, "a.parquet": b"PAR1", "a.jsonl": b"\xff", "b.json": b"3",
    "c.json": b"", "d.csv": b"text,label\n", "folder/a.parquet": b"no", "empty/.hidden": b"",
}  # fmt: skip


def test_data_that_are_none(tmp_path, capsys, text_model_folder):
    base = ["enrich", "--model", text_model_folder, "--output-dir", tmp_path / "o", *FAST]
    for name, content in NO_DATA.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
        said = fails(capsys, *base, "--dataset", tmp_path / name.split("/")[0])
        assert name.split("/")[0] in said or "training data are empty" in said, said
    assert not (tmp_path / "o").exists()


def test_stages_that_would_be_equal():
    for examples, ratio, stages in ((10, 0.95, 5), (1000, 1 - 1e-12, 2), (3, 0.9999, 3)):
        with pytest.raises(ValueError, match="the same"):
            subset_sizes(examples, ratio, stages)
    with pytest.raises(ValueError, match="without data"):
        subset_sizes(1000, 1e-300, 2)


def test_numbers_beyond_their_limits(capsys, tmp_path, image_model_folder, image_data_folder, trajectory):
    base = ["enrich", "--model", image_model_folder, "--dataset", image_data_folder, "--output-dir", tmp_path / "o"]
    for flag, value in (
        ("--steps", 1024), ("--steps", 10**9), ("--num_stages", 0), ("--num_stages", 1), ("--num_stages", 10**6),
        ("--sampling_ratio", "1e-300"), ("--sampling_ratio", "nan"), ("--sampling_ratio", 1 - 1e-12), ("--seed", 2**70),
        ("--seed", -1), ("--per_device_train_batch_size", 0), ("--per_device_train_batch_size", -8),
        ("--num_train_epochs", 0), ("--num_train_epochs", -1), ("--num_train_epochs", "inf"), ("--adam_beta1", 2),
    ):  # fmt: skip
        assert flag[2:] in fails(capsys, *base, flag, value), (flag, value)
    assert "at most 100" in fails(capsys, "predict", trajectory.root, "--steps", 1024, "--method", "all")
    assert "device 'nowhere:9' cannot be used" in fails(capsys, "predict", trajectory.root, "--device", "nowhere:9")
    assert not (tmp_path / "o").exists()


def test_a_model_folder_keeps_loading(text_model_folder):
    assert load_model(text_model_folder, "text-classification", ["a", "b"]).new_head


@pytest.mark.parametrize("name", ["arms", "runs"])
def test_a_comparison_through_a_link_is_refused_before_it_predicts(
    capsys, tmp_path, precious, image_run, image_data_folder, name
):
    link(tmp_path / "out" / name, precious)
    sizes = ["--examples", 40, "--validation-examples", 20]
    said = fails(capsys, "transfer", "--trajectory", image_run.trajectory.root, "--dataset", image_data_folder,
                 "--output-dir", tmp_path / "out", *sizes)  # fmt: skip
    assert f"{name} is a link, through which nothing is written" in said
    assert os.listdir(tmp_path / "out") == [name]
