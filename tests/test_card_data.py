"""The metadata of cards: what the Hub reads of them, by its own library's reading and the rules that it documents."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from conftest import QUICK
from huggingface_hub import DatasetCard, DatasetCardData, ModelCard, ModelCardData, metadata_load
from huggingface_hub.repocard_data import model_index_to_eval_results
from huggingface_hub.utils import validate_repo_id

from know_hf import Trajectory, enrich, enrich_pretrained
from know_hf.hub.cards import best_card, enriched_card, meta_card, plain_predictor_card, predictor_card
from know_hf.records import ENRICHMENT_FILE
from know_hf.trajectory.origin import base_of

ROOT = Path(__file__).parents[1]
PAPER = "2508.05059"
#: Of the Hub's lists, what may stand in ours.
LICENCES = {"apache-2.0", "mit", "other", "cc-by-4.0", "openrail", "bsd-3-clause"}
TASKS = {"image-classification", "text-classification", "image-segmentation", "image-to-text", "text-generation",
         "token-classification"}  # fmt: skip
RELATIONS = {"finetune", "adapter", "merge", "quantized"}


def checked(text: str, path: Path, dataset: bool = False) -> dict:
    """The metadata of a card, after everything that can be checked of it without the Hub."""
    path.write_text(text, encoding="utf-8")
    data = metadata_load(path)
    card = (DatasetCard if dataset else ModelCard)(text)  # itself checks the block and the model index
    kind = DatasetCardData if dataset else ModelCardData
    again = kind(**{k: v for k, v in card.data.to_dict().items() if k != "model-index"} if dataset else data.copy())
    assert yaml.safe_load(again.to_yaml()) == data  # what the library writes of what it read
    assert f"arxiv:{PAPER}" in data["tags"] and f"arxiv.org/abs/{PAPER}" in card.text
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9:.-]*", tag) for tag in data["tags"])
    assert len(set(data["tags"])) == len(data["tags"])
    bases = data.get("base_model") or []
    for name in [*([bases] if isinstance(bases, str) else bases), *data.get("datasets", []),
                 *data.get("source_datasets", [])]:  # fmt: skip
        validate_repo_id(name)
        assert name.count("/") == 1
    assert data.get("license", "mit") in LICENCES and data.get("pipeline_tag", next(iter(TASKS))) in TASKS
    assert data.get("base_model_relation", "finetune") in RELATIONS
    assert ("base_model_relation" in data) == ("base_model" in data)
    if "model-index" in data:
        name, results = model_index_to_eval_results(data["model-index"])
        assert name and results and all(r.metric_type and r.dataset_name and r.task_type for r in results)
    return data


@pytest.fixture(scope="module")
def made(image_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cards") / "enriched"
    enrich(image_run.trajectory, folder, steps=1)
    return image_run.trajectory, json.loads((folder / "x2" / ENRICHMENT_FILE).read_text())


def changed(trajectory: Trajectory, model: dict, dataset: dict) -> Trajectory:
    other = Trajectory.__new__(Trajectory)
    record = trajectory.record
    other.__dict__ = {
        **trajectory.__dict__,
        "record": replace(record, model={**record.model, **model}, dataset={**record.dataset, **dataset}),
    }
    return other


@pytest.mark.parametrize(
    ("model", "base", "relation"),
    [
        ({"id": "user/base", "local": False, "license": "mit"}, "user/base", "finetune"),
        ({"id": "my-folder", "local": True, "base_model": "user/base"}, "user/base", "finetune"),
        ({"id": "user/base", "local": False, "adapter": "LORA"}, "user/base", "adapter"),
        ({"id": "my-folder", "local": True, "base_model": "../../base"}, None, None),
        ({"id": "my-folder", "local": True}, None, None),
        ({"id": None, "local": False}, None, None),
    ],
)
def test_cards_of_checkpoints(made, tmp_path, model, base, relation):
    trajectory, enrichment = made
    spoken = changed(trajectory, {"license": None, **model}, {"id": "user/pictures"})
    enrichment = {**enrichment, "metrics": {"eval_accuracy": 0.5, "eval_loss": float("nan")}}
    gain = {"score": 0.5, "gain": 0.1, "low": 0.0, "high": 0.2, "chance": 0.04}
    chosen = {"words": "Take x2.", "rule": "The best.", "how": "aside", "metric": "accuracy", "candidate": "x2",
              "gains": {"x2": gain}, "examples": 100, "purpose": None}  # fmt: skip
    for text in (enriched_card(spoken, enrichment, "x2"), best_card(spoken, {**enrichment, "chosen": chosen})):
        data = checked(text, tmp_path / "README.md")
        assert (data.get("base_model"), data.get("base_model_relation")) == (base, relation)
        assert data.get("license") == model.get("license") and data["datasets"] == ["user/pictures"]
        assert [m["type"] for m in data["model-index"][0]["results"][0]["metrics"]] == ["accuracy"]
        if base and model["local"]:
            assert f"(a local folder, made of {base})" in text


@pytest.mark.slow
def test_bases_of_local_and_live_models(tmp_path, image_model_folder, images):
    folder = shutil.copytree(image_model_folder, tmp_path / "model")
    assert base_of(str(folder)) is None and base_of("user/model") is None and base_of("") is None
    config = json.loads((folder / "config.json").read_text())
    for named, base in (("user/older", "user/older"), ("/home/me/model", None), ("bert", None), ("../x", None)):
        (folder / "config.json").write_text(json.dumps({**config, "_name_or_path": named}))
        assert base_of(str(folder)) == base
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "user/adapted"}')
    assert base_of(str(folder)) == "user/adapted"
    (folder / "adapter_config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config))
    for said, base in (("user/base", "user/base"), ("[user/base]", "user/base"), ("[user/a, user/b]", None)):
        (folder / "README.md").write_text(f"---\nlicense: mit\nbase_model: {said}\n---\n# Mine\n")
        assert base_of(str(folder)) == base
    (folder / "README.md").write_text("---\nlicense: mit\nbase_model: user/base\n---\n# Mine\n")

    result = enrich_pretrained(str(folder), images, tmp_path / "run", steps=1, choose="none", **QUICK)
    data = metadata_load(result.checkpoints["x2"] / "README.md")
    assert (data["base_model"], data["license"]) == ("user/base", "mit")
    # A record from before bases were noted is still that of the same run.
    record = json.loads((tmp_path / "run" / "trajectory.json").read_text())
    assert record["model"].pop("base_model") == "user/base"
    (tmp_path / "run" / "trajectory.json").write_text(json.dumps(record))
    enrich_pretrained(str(folder), images, tmp_path / "run", steps=1, choose="none", **QUICK)


def test_bases_of_given_checkpoints(trajectory, tmp_path):
    folders = [shutil.copytree(trajectory.root / stage.folder, tmp_path / stage.folder)
               for stage in trajectory.record.stages[:5]]  # fmt: skip
    (folders[0] / "README.md").write_text("---\nlicense: mit\nbase_model: user/base\n---\n# Mine\n")
    kinds = {name: p.kind for name, p in trajectory.parameters.items() if p.kind in ("conv", "fc", "bias")}
    given = Trajectory.from_checkpoints(folders, kinds=kinds, sampling_ratio=0.5)
    made = enrich(given, tmp_path / "out", steps=1).checkpoints["x2"]
    data = checked((made / "README.md").read_text(), tmp_path / "README.md")
    assert (data["base_model"], data["license"], data["base_model_relation"]) == ("user/base", "mit", "finetune")


def test_cards_of_data_and_predictors(collected, tmp_path):
    notes = [
        {**note, "settings": {**note["settings"], "data_set": ("user/b", "user/a", "local")[i % 3]}}
        for i, note in enumerate(collected.trials)
    ]
    data = checked(meta_card(notes, 0, 7, 1000, 1.0, {}), tmp_path / "README.md", dataset=True)
    named = {note["settings"]["data_set"] for note in notes} - {"local"}
    assert data["source_datasets"] == sorted(named) and data["configs"] and data["pretty_name"]
    config = {"history_length": 5, "kinds": ["conv"], "inputs": "values", "conditions": []}
    result = {
        "config": config, "split": {"train": [1], "choice": [2], "report": [3]},
        "epochs": {"conv": {"epoch": 1, "best_epoch": 0}}, "held_out": {"architectures": ["a"], "data": ["b"]},
        "settings": {"functional": {"epochs": 0}},
    }  # fmt: skip
    for inputs in ("values", "differences"):
        result["config"] = {**config, "inputs": inputs}
        checked(predictor_card(result, 9425, "| a |\n|---|\n| **0.5** |"), tmp_path / "README.md")
    checked(plain_predictor_card(config), tmp_path / "README.md")


def test_cards_that_are_published(tmp_path):
    bundled = sorted((ROOT / "know_hf" / "known" / "weights").glob("*/README.md"))
    assert len(bundled) == 4
    for path in bundled:
        data = checked(path.read_text(), tmp_path / "README.md")
        assert data["license"] == "apache-2.0" and "uoft-cs/cifar10" in data["datasets"]
    checked((ROOT / "hub_cards" / "enriched-example.md").read_text(), tmp_path / "README.md")
    data = checked((ROOT / "hub_cards" / "meta-data-example.md").read_text(), tmp_path / "README.md", dataset=True)
    assert data["license"] == "apache-2.0" and len(data["source_datasets"]) == 3
