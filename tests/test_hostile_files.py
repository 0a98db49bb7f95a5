"""Every file of plain data that is read, made hostile in thousands of ways: read, or refused in words that name it."""

import json
import random
import struct
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml
from hostile import hostile_bytes, raised_by_us
from safetensors.torch import save_file
from transformers.utils import logging

from know_hf import KnownConfig, Trajectory, TrajectoryError
from know_hf.cli.commands import COMMANDS
from know_hf.enrichment.folders import step_names
from know_hf.enrichment.writer import read_enrichment
from know_hf.forgetting.options import training_options
from know_hf.hub.push import find_uploads
from know_hf.laboratory.landscape import Landscape
from know_hf.laboratory.outcome import ExperimentResult
from know_hf.laboratory.recipe import load_recipe
from know_hf.laboratory.result import ComparisonResult
from know_hf.meta.data_set import MetaDataSet
from know_hf.models.adapters import base_of
from know_hf.models.skeleton import skeleton
from know_hf.report.run import read_self_check
from know_hf.retrodiction.predictors import load_predictor_stages
from know_hf.settings import conform, read_recipe
from know_hf.training.checks import check_model
from know_hf.trajectory import Checkpoint

RECIPES = Path(__file__).parents[1] / "examples" / "recipes"
STATISTICS = {"fc": {"relative_change": 0.1, "norm_ratio": 1.0, "weights": 12}}
ENRICHED = {"method": "known", "step": 1, "metrics": {"eval_accuracy": 0.5}, "baseline": None, "statistics": STATISTICS}
CHECKED = {"method": "known", "ratios": {"fc": 0.9}, "scores": {}}
RUN = {"model": "m", "dataset": "d", "output_dir": "o", "steps": 2, "method": ["known", "mean"], "kinds": {"*": "fc"},
       "learning_rate": 1e-3, "num_stages": 5, "bf16": True, "parameters": {"a": [1, 2]}}  # fmt: skip
NOTE = {"settings": {"architecture": "vgg", "data_set": "first", "examples": 300, "sampling_ratio": 0.5, "width": 8,
                     "learning_rate": 1e-3, "batch_size": 32, "epochs": 2}, "scores": [0.5, 0.4], "parameters": 9,
        "sha256": "0" * 64}  # fmt: skip
COMPARED = {"arms": {"naive": {}}, "protocol": {"metric": None}, "columns": {"task": "image-classification"}}
FINE_TUNED = {"arm": "naive", "rate": 1e-3, "seed": 0, "test": 0.5, "validation": 0.5, "curve": [[1.0, 0.5]],
              "seconds": 1.0, "training": 0.5}  # fmt: skip
GRID = {"x": [0.0, 1.0], "y": [0.0], "scores": [[0.5, 0.6]]}
MODEL = {"model_type": "bert", "architectures": ["BertForSequenceClassification"], "hidden_size": 16, "num_labels": 2,
         "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 10,
         "max_position_embeddings": 16, "id2label": {"0": "bad", "1": "good"}}  # fmt: skip
ADAPTER = {"peft_type": "LORA", "base_model_name_or_path": "base", "task_type": "SEQ_CLS", "r": 4}
PREDICTOR = {**KnownConfig().to_diff_dict(), "hidden_size": 64, "kinds": ["fc"], "history_length": 5}
MODULES = [{"idx": 0, "name": "0", "path": "1_Pooling", "type": "x"}]
HEADER = {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
          "b": {"dtype": "F16", "shape": [3], "data_offsets": [16, 22]}}  # fmt: skip
INDEX = {"metadata": {"total_size": 8}, "weight_map": {"a": "one.safetensors"}}


def read_record(folder: Path) -> None:
    trajectory = Trajectory.load(folder)
    len(trajectory), repr(trajectory), step_names(trajectory.record.sampling_ratio, 3)


def read_checkpoint(folder: Path) -> None:
    checkpoint = Checkpoint(folder)
    for name in checkpoint.tensors:
        checkpoint.read(name)


def read_run(folder: Path) -> None:
    recipe = read_recipe(folder / "run.yaml")
    conform(recipe, {**training_options(), **COMMANDS["enrich"].options}, folder / "run.yaml")


def read_skeleton(folder: Path) -> None:
    check_model(str(folder))
    skeleton(folder)


def read_experiment(folder: Path) -> None:
    with pytest.raises(TrajectoryError) as refused:  # of another folder than was ever run, the rest is missing
        ExperimentResult.load(folder)
    if "setting.json is missing" not in str(refused.value):
        raise refused.value


def as_header(content) -> bytes:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text + bytes(22)


def read_push(folder: Path) -> None:
    find_uploads(folder)


#: Name → file, what it holds, what reads its folder, and its share of the cases.
KINDS = {
    "record": ("trajectory.json", None, read_record, 8),
    "header": ("model.safetensors", HEADER, read_checkpoint, 6),
    "index": ("model.safetensors.index.json", INDEX, read_checkpoint, 6),
    "recipe of a run": ("run.yaml", RUN, read_run, 5),
    "recipe of an experiment": ("e.yaml", None, lambda folder: load_recipe(folder / "e.yaml"), 5),
    "recorded experiment": ("recipe.json", None, read_experiment, 4),
    "enrichment": ("enrichment.json", ENRICHED, read_enrichment, 6),
    "self-check": ("self_check.json", CHECKED, read_self_check, 4),
    "model": ("config.json", MODEL, read_skeleton, 2),
    "adapter": ("adapter_config.json", ADAPTER, base_of, 4),
    "modules": ("modules.json", MODULES, read_push, 4),
    "pushed model": ("config.json", MODEL, read_push, 4),
    "predictor": ("config.json", PREDICTOR,
                  load_predictor_stages, 2),  # fmt: skip
    "note of a trial": ("trials/trial-1.json", NOTE, lambda folder: MetaDataSet(folder).trials, 4),
    "comparison": ("transfer.json", COMPARED, ComparisonResult.load, 4),
    "fine-tuning": ("runs/a.json", FINE_TUNED, ComparisonResult.load, 4),
    "landscape": ("landscape.json", GRID, lambda folder: Landscape.load(folder / "landscape.json"), 4),
}  # fmt: skip


def furnish(folder: Path, name: str) -> None:
    """What lies beside the hostile file."""
    if name == "index":
        save_file({"a": torch.ones(2)}, folder / "one.safetensors")
    elif name == "modules":
        (folder / "config.json").write_text("{}")
    elif name == "note of a trial":
        (folder / "data").mkdir()
        (folder / "data" / "trial-1.parquet").write_bytes(b"")
    elif name == "comparison":
        (folder / "runs").mkdir()
        (folder / "runs" / "a.json").write_text(json.dumps(FINE_TUNED))
    elif name == "fine-tuning":
        (folder / "transfer.json").write_text(json.dumps(COMPARED))


def try_all(cases: int, seed: int, image_run, root: Path) -> dict[str, int]:
    """Tries at least so many hostile files; returns how many of each kind."""
    own = {
        "record": json.loads((image_run.trajectory.root / "trajectory.json").read_text()),
        "recipe of an experiment": yaml.safe_load((RECIPES / "figure3.yaml").read_text()),
        "recorded experiment": {"recipe": json.loads(json.dumps(asdict(load_recipe(RECIPES / "figure3.yaml"))))},
    }
    weights = sum(share for *_, share in KINDS.values())
    tried, faults = {}, []
    for name, (file, template, read, share) in KINDS.items():
        draw, template = random.Random(f"{seed} {name}"), own.get(name, template)
        folder = root / name.replace(" ", "-")
        (folder / file).parent.mkdir(parents=True)
        furnish(folder, name)
        tried[name] = -(-cases * share // weights)
        for _ in range(tried[name]):
            content = hostile_bytes(draw, template, yaml.safe_dump if file.endswith(".yaml") and draw.random() < 0.5
                                    else json.dumps)  # fmt: skip
            (folder / file).write_bytes(as_header(content) if name == "header" else content)
            begun = time.perf_counter()
            try:
                read(folder)
            except Exception as error:
                if not raised_by_us(error) or str(folder) not in str(error):
                    faults.append((name, repr(error)[:300], content[:300]))
            if time.perf_counter() - begun > 10:
                faults.append((name, "took long", content[:300]))
    shown = "\n".join(sorted({str(fault) for fault in faults})[:20])
    assert not faults, f"{len(faults)} of {sum(tried.values())}: {shown}"
    return tried


@pytest.fixture(autouse=True)
def quiet():
    """As the command line has it: transformers says much about configurations like these."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity(before)


def test_any_file_is_read_or_refused(image_run, tmp_path):
    try_all(300, 0, image_run, tmp_path)


@pytest.mark.slow
def test_ten_thousand_files_are_read_or_refused(image_run, tmp_path, capsys):
    tried = try_all(12_000, 1, image_run, tmp_path)
    with capsys.disabled():
        print("\nhostile files:", ", ".join(f"{count} × {name}" for name, count in tried.items()))
    assert sum(tried.values()) >= 12_000
