"""The same folder with changed inputs: what scores depend on is looked at, and old records still continue."""

import json
import shutil

import pytest
import yaml
from conftest import tiny_image_model
from datasets import Dataset

from know_hf.laboratory.comparison import compare
from know_hf.laboratory.depending import depends_on
from know_hf.laboratory.experiment import run_experiment
from know_hf.laboratory.protocol import Protocol
from know_hf.laboratory.recipe import load_recipe
from know_hf.tasks import find_columns
from know_hf.training.prepared import prepare
from know_hf.trajectory import TrajectoryError
from know_hf.trajectory.identity import as_told, describe_dataset

QUICK = Protocol(head_epochs=0, epochs=1, batch_size=32, examples=48, validation_examples=16, evaluations=1)


def relabelled(data: Dataset, row: int) -> Dataset:
    """The same data with one label corrected, of a row that is not among the evenly spread 64."""
    labels = list(data["label"])
    labels[row] = (labels[row] + 1) % 2
    return (
        data.remove_columns("label").add_column("label", labels).cast(data.features).select_columns(data.column_names)
    )


def test_any_row_of_a_data_set_is_told_apart():
    rows = Dataset.from_dict({"text": [f"number {i}" for i in range(1000)], "label": [0, 1] * 500})
    then, now = describe_dataset(rows), describe_dataset(relabelled(rows, 501))
    assert then["fingerprint"] == now["fingerprint"] and then["content"] != now["content"]
    old = {"train": {name: then[name] for name in then if name != "content"}}
    assert old == as_told(old, {"train": now})
    assert as_told({"train": then}, {"train": now}) == {"train": now} != {"train": then}


def test_other_rows_are_prepared_anew(tmp_path, images):
    data, model = images.select(range(160)), tiny_image_model()
    changed = relabelled(data, 1)
    made = [prepare(one, tmp_path, model, None, find_columns(data)) for one in (data, changed, data, changed)]
    assert made[0] == made[2] != made[1] == made[3]


def test_what_changed_is_not_scored_as_before(tmp_path, image_model_folder, images):
    arm, module = tmp_path / "arm", tmp_path / "metric.py"
    shutil.copytree(image_model_folder, arm)
    module.write_text("# one\n")

    held_out = images.select(range(64, 160))

    def run(test=held_out):
        return compare(
            {"naive": image_model_folder, "arm": arm}, images.select(range(64)), tmp_path / "out", seeds=2,
            test_dataset=test, protocol=QUICK, learning_rates=(1e-3,),
        )  # fmt: skip

    first = run()
    with pytest.raises(TrajectoryError, match="another comparison \\(different test\\)"):
        run(relabelled(held_out, 2))
    config = arm / "config.json"
    kept = json.loads(config.read_text())
    config.write_text(json.dumps({**kept, "transformers_version": "1.0"}))  # decides nothing
    assert run().fine_tunings == first.fine_tunings
    config.write_text(json.dumps({**kept, "layer_norm_eps": 0.5}))
    with pytest.raises(TrajectoryError, match="configuration or preprocessing of arm arm"):
        run()
    record = tmp_path / "out" / "transfer.json"
    old = json.loads(record.read_text())
    for part in ("train", "test"):
        del old[part]["content"]
    record.write_text(json.dumps({name: old[name] for name in old if name not in ("beside", "metric_files", "asked")}))
    assert run().fine_tunings == first.fine_tunings  # of a former version, which did not tell
    assert depends_on({}, str(module)) != (then := depends_on({}, str(tmp_path / "none")))
    before = depends_on({}, str(module))
    module.write_text("# another\n")
    assert depends_on({}, str(module)).metric_files != before.metric_files and not then.metric_files
    (arm / "tokenizer.json").write_text("{}")
    assert depends_on({"a": arm}) != depends_on({"a": image_model_folder})


def experiment_of(folder, data, model, selection=None, **more):
    """A recipe over data and a network that lie in a folder, where they may be written anew."""
    for part, rows in {"train": data, "test": data, **({} if selection is None else {"selection": selection})}.items():
        (folder / "digits" / "data").mkdir(parents=True, exist_ok=True)
        rows.to_parquet(folder / "digits" / "data" / f"{part}-00000-of-00001.parquet")
    training = {"num_stages": 2, "num_train_epochs": 1, "per_device_train_batch_size": 32, "seed": 0}
    pretraining = {"dataset": "digits", "model": str(model), "training": training}
    if selection is not None:
        pretraining["selection_split"] = "selection"
    setting = {"pretraining": pretraining, "methods": ["linear_fit"], "steps": 1, **more}
    content = {"title": "t", "data_folder": str(folder), "sizes": {"toy": {"settings": {"one": setting}}}}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return load_recipe(path)


def test_other_data_or_weights_are_noticed_before_anything_is_trained(tmp_path, image_model_folder, images):
    out, rows, model = tmp_path / "out", images.select(range(64)), tmp_path / "model"
    shutil.copytree(image_model_folder, model)
    run_experiment(experiment_of(tmp_path, rows, model), out)
    [trained] = (out / "pretraining").iterdir()
    for again in range(3):
        if again:  # data are told apart without what was prepared of them, too
            shutil.rmtree(out / "cache")
        run_experiment(experiment_of(tmp_path, rows, model), out)
        with pytest.raises(TrajectoryError, match="begun with another train data and eval data than .* output_dir"):
            run_experiment(experiment_of(tmp_path, relabelled(rows, 1), model), out)
    tiny_image_model(seed=5).save_pretrained(model)
    with pytest.raises(TrajectoryError, match="begun with another model than there is now"):
        run_experiment(experiment_of(tmp_path, rows, model), out)
    shutil.rmtree(model)
    shutil.copytree(image_model_folder, model)
    (out / "settings" / "one" / "inputs.json").unlink()  # of a former version
    run_experiment(experiment_of(tmp_path, rows, model), out)
    assert [*(out / "pretraining").iterdir()] == [trained] and (out / "settings" / "one" / "inputs.json").exists()


def test_other_selection_data_are_noticed(tmp_path, image_model_folder, images):
    out, rows, chosen_on = tmp_path / "out", images.select(range(64)), images.select(range(64, 160))
    run_experiment(experiment_of(tmp_path, rows, image_model_folder, chosen_on, chosen=["best"]), out)
    with pytest.raises(TrajectoryError, match="begun with another selection data"):
        run_experiment(
            experiment_of(tmp_path, rows, image_model_folder, relabelled(chosen_on, 70), chosen=["best"]), out
        )
