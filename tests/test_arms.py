"""Arms: what they are comes from what made them and from records, never from how they are called."""

import json

import pytest

from know_hf import enrich
from know_hf.cli.main import main
from know_hf.laboratory.arms import Arm, make_arm, make_arms, read_arms
from know_hf.laboratory.comparison import compare, with_controls
from know_hf.laboratory.protocol import Protocol
from know_hf.laboratory.result import ComparisonResult
from know_hf.records import check_file_names
from know_hf.report.comparison import curve_arms, verdict_rows
from know_hf.report.plots import BLUE, GREY, ORANGE, colour
from know_hf.trajectory import TrajectoryError

QUICK = Protocol(head_epochs=0, epochs=1, batch_size=32, examples=48, validation_examples=16, evaluations=1)


def colours(result) -> dict[str, str]:
    return {name: colour(name, result) for name in result.arms}


def test_names_say_nothing(image_model_folder, images, tmp_path):
    """Starts that are called like predictions and controls are starts, whatever was predicted is that."""
    names = ["known x2", "shrink 0.5", "naive", "mean", "incremental"]
    result = compare(
        dict.fromkeys(names, image_model_folder), images.select(range(96)), tmp_path,
        test_dataset=images.select(range(96, 160)), protocol=QUICK, learning_rates=(1e-3,), seeds=2,
    )  # fmt: skip
    for read in (result, ComparisonResult.load(tmp_path)):
        assert read.reference == "known x2" and read.controls == ["known x2"]
        assert [arm.role for arm in read.arms.values()] == ["naive", *["start"] * 4]
        assert colours(read) == {"known x2": GREY, **dict.fromkeys(names[1:], BLUE)}
    # A later call may add arms, of which one says itself what it is.
    own = {name: image_model_folder for name in names[:1]} | {"mine": Arm("mine", image_model_folder, "control")}
    again = compare(
        own, images.select(range(96)), tmp_path, test_dataset=images.select(range(96, 160)), protocol=QUICK,
        learning_rates=(1e-3,), seeds=2,
    )  # fmt: skip
    assert again.controls == ["known x2", "mine"]
    starts = json.loads((tmp_path / "transfer.json").read_text())["starts"]
    assert list(starts) == [names[0], "mine", *names[1:]] and starts["mine"]["role"] == "control"
    assert ComparisonResult.load(tmp_path).controls == ["known x2", "mine"]


def test_a_predicted_folder_says_what_it_is(trajectory, tmp_path):
    made = enrich(trajectory, tmp_path, method=["known", "shrink", "mean", "naive"], steps=2).checkpoints
    arms = make_arms({"first": made["naive/x2"], "A": made["known/x4"], "B": made["shrink/x2"], "C": made["mean/x2"]})
    assert [arm.role for arm in arms.values()] == ["naive", "method", "control", "control"]
    assert arms["A"].is_known and (arms["A"].step, arms["A"].scale, arms["A"].prediction) == (2, 4.0, "known")
    assert make_arm("A", made["known/x4"], prediction="mine").prediction == "mine"
    (made["known/x4"] / "enrichment.json").write_text("{}")
    with pytest.raises(TrajectoryError, match="Arm 'A': .*enrichment.json"):
        make_arm("A", made["known/x4"])


def test_an_arm_without_a_checkpoint_is_refused(image_model_folder, images, tmp_path):
    starts = {"naive": image_model_folder, "mine": Arm("mine", role="control")}
    with pytest.raises(ValueError, match="Arm 'mine' names no checkpoint"):
        compare(starts, images, tmp_path / "out", test_dataset=images, protocol=QUICK, learning_rates=(1e-3,), seeds=2)
    assert not (tmp_path / "out").exists()


def test_names_that_mean_an_arm():
    fixed = Arm("shrink 0.5", None, "control", "shrink", "shrink 0.5", 1)
    step = Arm("shrink x2", None, "control", "shrink", "shrink", 1)
    mine = Arm("mine x2", None, "method", "known", "mine", 1)
    assert fixed.is_among(["shrink"]) and step.is_among(["shrink"]) and mine.is_among(["known"])
    assert step.is_among(["shrink x"]) and not fixed.is_among(["shrink x"])
    assert fixed.is_among(["shrink 0.5"]) and mine.is_among(["mine"]) and mine.is_among(["mine x2"])
    assert not mine.is_among(["min", "known x", "shrink"]) and not Arm("naive").is_among(["known"])


def old_comparison(folder, *names: str) -> ComparisonResult:
    """A comparison as former versions recorded it."""
    (folder / "runs").mkdir()
    content = {"arms": {name: ["ab"] for name in names}, "columns": {"task": "image-classification"},
               "protocol": {"metric": None}}  # fmt: skip
    (folder / "transfer.json").write_text(json.dumps(content))
    for i, name in enumerate(names):
        for seed in (0, 1):
            run = {"arm": name, "rate": 0.001, "seed": seed, "test": 0.5 + i / 10 + seed / 100, "validation": 0.5,
                   "seconds": 2.0, "training": 1.0, "curve": [[1.0, 0.5]]}  # fmt: skip
            (folder / "runs" / f"{i}--0.001--{seed}.json").write_text(json.dumps(run))
    return ComparisonResult.load(folder)


def test_records_of_former_versions_went_by_names(tmp_path):
    result = old_comparison(tmp_path, "naive", "KNOWN x2", "linear_fit/x2", "shrink to x2's norms", "mean")
    assert result.controls == ["naive", "shrink to x2's norms", "mean"] and result.best_control == "mean"
    assert list(colours(result).values()) == [GREY, ORANGE, BLUE, GREY, GREY]
    assert curve_arms(result)[:3] == ["naive", "mean", "KNOWN x2"]
    assert [row[0] for row in verdict_rows(result)[1:]] == list(result.arms)
    arms = read_arms(tmp_path, {"arms": dict.fromkeys(["known x2", "known x4", "shrink 0.5", "equal_compute"])}, "")
    assert [(arm.prediction, arm.step) for arm in arms.values()] == [
        ("known", 1), ("known", 2), ("shrink 0.5", 1), ("equal_compute", 1)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "what", [3, {"a": 3}, {"a": {"role": "king"}}, {"a": {}}, {"a": {"role": "start", "step": 1.5}}]
)
def test_damaged_records_are_refused(tmp_path, what):
    with pytest.raises(TrajectoryError, match="transfer.json is damaged: .*choose another"):
        read_arms(tmp_path / "transfer.json", {"arms": {"a": []}, "starts": what}, "choose another")


def test_intervals_need_scipy_before_anything_is_read(monkeypatch, image_model_folder, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "scipy", None)
    with pytest.raises(ImportError, match=r'Comparisons need scipy: pip install "scipy.*\.\[transfer\]"'):
        compare(dict.fromkeys("ab", image_model_folder), "nowhere", tmp_path)


def test_arms_that_are_called_controls_are_such(tmp_path):
    arms = {name: Arm(name, tmp_path) for name in ("naive", "mine", "shrunk")}
    assert [arm.role for arm in with_controls(arms, ["shrunk"]).values()] == ["start", "start", "control"]
    with pytest.raises(ValueError, match="controls names 'shrink', which no arm is called; .*There are naive, mine"):
        with_controls(arms, ["shrink"])


def test_a_name_too_long_for_a_file_is_refused():
    with pytest.raises(ValueError, match="is too long a name; use at most 150 bytes"):
        check_file_names(["naive", "x" * 300], "The arms")


@pytest.mark.parametrize("name", ["naive", "mean/x2"])
def test_an_arm_called_as_a_predicted_one_is_refused(image_run, image_model_folder, tmp_path, capsys, name):
    with pytest.raises(SystemExit):
        main(["compare", "--trajectory", str(image_run.trajectory.root), "--method", "mean", "--steps", "1",
              "--arms", f"{name}={image_model_folder}", "--dataset", "nowhere",
              "--output-dir", str(tmp_path / "out")])  # fmt: skip
    said = " ".join(capsys.readouterr().err.split())
    assert f"--arms {name}={image_model_folder} and the " in said and "rename that of --arms" in said
    assert not (tmp_path / "out").exists()
