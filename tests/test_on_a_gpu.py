"""The script for a machine with a GPU, at toy size on the processor: what it writes, and that it keeps its time."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # the script sets it, too
    import on_a_gpu

    return on_a_gpu


def toy(out, *parts):
    return ["--out", str(out), "--device", "cpu", "--size", "toy", "--parts", *parts]


@pytest.mark.slow
def test_figures_come_as_files(tmp_path, script, capsys):
    assert script.main(toy(tmp_path, "kernel", "step", "plan")) == 0
    kernel, step, plan = (json.loads((tmp_path / f"{part}.json").read_text()) for part in ("kernel", "step", "plan"))
    rows = [row for row in kernel["rows"] if row["precision"] == "float32"]
    assert [row["weights"] for row in rows] == [20_000]
    assert rows[0]["error"] <= 1e-5 and rows[0]["within_1e-5"] and 0 < rows[0]["seconds_per_weight_and_step"] < 1e-3
    assert kernel["device"] == "cpu" and "torch" in kernel["versions"]
    assert [row["path"] for row in step["rows"]] == ["ordinary", "fast"]
    assert all(row["ratio"] > 0 and 0 < row["in_steps"] <= 1 for row in step["rows"])
    assert plan["weights"] > 1000 and plan["expected_seconds"] > 0 and plan["seconds"] > 0
    assert not list(tmp_path.glob("*.part.json"))
    assert script.main(toy(tmp_path, "kernel", "plan")) == 0
    assert capsys.readouterr().out.count("done before") == 2


def test_what_fails_or_has_no_time_is_said(tmp_path, script, monkeypatch, capsys):
    def fails(work):
        raise OSError("no card")

    monkeypatch.setitem(script.PARTS, "kernel", fails)
    monkeypatch.setitem(script.PARTS, "plan", lambda work: {"seconds": 1.0})
    assert script.main(toy(tmp_path, "kernel", "plan")) == 1
    assert json.loads((tmp_path / "kernel.json").read_text())["failed"] == "OSError: no card"
    assert "failed" not in json.loads((tmp_path / "plan.json").read_text())
    assert script.main([*toy(tmp_path, "experiment"), "--limit-s", "0"]) == 0
    assert "experiment: left out" in capsys.readouterr().out and not (tmp_path / "experiment.json").exists()
    monkeypatch.setattr(script, "RECIPE", tmp_path / "regime.yaml")
    assert script.main(toy(tmp_path, "experiment")) == 0
    assert "there is no regime.yaml" in json.loads((tmp_path / "experiment.json").read_text())["left_out"]


def test_an_experiment_that_is_cut_leaves_what_it_has(tmp_path, script, monkeypatch):
    (tmp_path / "bin").write_text("import sys, time; print('begun', sys.argv[1:]); time.sleep(60)")
    runs = tmp_path / "out" / "experiment" / "settings" / "one" / "runs"
    runs.mkdir(parents=True)
    (runs / "naive--0.0004--0.json").write_text(json.dumps(
        {"arm": "naive", "rate": 4e-4, "seed": 0, "test": 0.5, "validation": 0.4, "curve": [], "seconds": 2.0}
    ))  # fmt: skip
    recipe = tmp_path / "regime.yaml"
    recipe.write_text((ROOT / "examples" / "recipes" / "figure3.yaml").read_text())
    monkeypatch.setattr(script, "RECIPE", recipe)
    monkeypatch.setattr(script, "GRACE", 1)
    monkeypatch.setitem(script.SIZES["toy"], "recipe", None)
    begun = script.subprocess.Popen

    def sleeper(command, **kwargs):
        return begun([sys.executable, str(tmp_path / "bin"), *command[3:]], **kwargs)

    monkeypatch.setattr(script.subprocess, "Popen", sleeper)
    out = tmp_path / "out"
    assert script.main([*toy(out, "experiment"), "--limit-s", "3", "--predictors", "official=there"]) == 0
    found = json.loads((out / "experiment.json").read_text())
    assert found["cut"] and found["scores"] == [
        {"arm": "naive", "rate": 4e-4, "seed": 0, "test": 0.5, "seconds": 2.0}
    ]  # fmt: skip


def test_packed_images_become_the_data_of_a_recipe(tmp_path, script):
    blobs = []
    for level in (10, 200):
        made = io.BytesIO()
        Image.new("RGB", (32, 32), (level, level, level)).save(made, "JPEG")
        blobs.append(np.frombuffer(made.getvalue(), np.uint8))
    (tmp_path / ".cifar100").mkdir()
    np.savez(
        tmp_path / ".cifar100" / "train.npz", bytes=np.concatenate(blobs), ends=np.cumsum([len(b) for b in blobs]),
        labels=np.array([7, 99], np.int16),
    )  # fmt: skip
    script.unpack(tmp_path, tmp_path / "data")
    data = load_dataset(str(tmp_path / "data" / "cifar100"), split="train")
    assert data["fine_label"][:] == [7, 99]
    assert [row["img"].getpixel((3, 3))[0] for row in data] == pytest.approx([10, 200], abs=2)
    assert not (tmp_path / "data" / "cifar10").exists()
