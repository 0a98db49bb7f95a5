"""The choice of a checkpoint: what a run ends with."""

import errno
import json
import shutil

import pytest
import torch
from conftest import tiny_image_model
from datasets import Dataset
from transformers import AutoModelForImageClassification

from know_hf import enrich_pretrained
from know_hf.choice.candidates import expected_candidates
from know_hf.choice.options import Choosing
from know_hf.choice.rule import LEVEL, start_of
from know_hf.choice.words import RENEWED
from know_hf.enrichment.options import Prediction
from know_hf.enrichment.resolved import resolve
from know_hf.enrichment.writer import PartialFolder
from know_hf.forgetting.making import make_trainer
from know_hf.hub.files import find_uploads
from know_hf.hub.push import push
from know_hf.trajectory import Checkpoint, TrajectoryError, TrajectoryRecord

pytestmark = pytest.mark.usefixtures("with_turns")
SETTINGS = {"num_stages": 3, "num_train_epochs": 2, "per_device_train_batch_size": 16, "learning_rate": 5e-3,
            "train_stage_zero": True, "save_strategy": "no", "report_to": "none", "disable_tqdm": True}  # fmt: skip


@pytest.fixture(scope="module")
def pictures(images) -> Dataset:
    return images.shuffle(seed=0)


@pytest.fixture(scope="module")
def run(tmp_path_factory, pictures):
    """A run whose stage 0 has hardly begun to learn."""
    output = tmp_path_factory.mktemp("choice") / "run"
    return enrich_pretrained(
        tiny_image_model(), pictures.select(range(120)), output, eval_dataset=pictures.select(range(120, 160)),
        selection_split=40, also=["equal_compute"], fit_on="both", keep_candidates=True, **SETTINGS,
    )  # fmt: skip


@pytest.mark.slow
def test_the_best_is_a_plain_folder_of_one_candidate(run):
    choice = run.choice
    assert run.best == run.output_dir / "enriched" / "best" == choice.folder
    AutoModelForImageClassification.from_pretrained(run.best)
    best, source = Checkpoint(run.best), Checkpoint(choice.candidates[choice.candidate])
    assert all(torch.equal(best.read(name), source.read(name)) for name in best.tensors)
    assert {"stage-0", "stage-1", "x2", "mean", "fitted", "damped", "fitted-held-out", "equal_compute",
            "stage-0-renewed"} <= set(choice.gains)  # fmt: skip
    assert run.verdict.startswith(choice.words)
    assert f"| {choice.candidate} (chosen) |" in (run.best / "README.md").read_text()
    assert choice.deciding.shown(choice.gains[choice.candidate].score) in (run.report / "report.md").read_text()


def test_the_result_is_the_best_on_the_examples_set_aside(run):
    gains, chosen = run.choice.gains, run.choice.candidate
    start = start_of(gains, "stage-0", RENEWED)
    allowed = [name for name, gain in gains.items() if gain.chance <= LEVEL and gain.gain > gains[start].gain]
    assert chosen == (max(allowed, key=lambda name: gains[name].gain) if allowed else start)
    assert run.choice.examples == 20  # the other half was fitted to


def test_nothing_set_aside_was_trained_on(run):
    record = TrajectoryRecord.load(run.output_dir)
    assert record.dataset["set_aside"] == {"how": "set aside", "examples": 40} and record.dataset["examples"] == 80


def test_only_the_best_goes_to_main(run):
    _, uploads = find_uploads(run.output_dir)
    assert [(upload.folder.name, upload.revision) for upload in uploads] == [
        ("best", "main"), ("x2", "x2"), ("x4", "x4"), ("x8", "x8")
    ]  # fmt: skip
    assert not [name for upload in uploads for name in upload.files if "choice" in name]


def test_the_best_is_main_on_the_hub(hub, run):
    push(run.output_dir, "tester/chosen")
    weights = hub.model("tester/chosen").files("main")["model.safetensors"]
    assert weights == (run.best / "model.safetensors").read_bytes()
    assert set(hub.model("tester/chosen").branches) == {"main", "x2", "x4", "x8"}
    card = hub.model("tester/chosen").files("main")["README.md"].decode()
    assert "`main` is `best`" in card and 'from_pretrained("tester/chosen")' in card
    url = run.push_to_hub("tester/again")
    assert url.endswith("tester/again") and hub.model("tester/again").files("main")["model.safetensors"] == weights


def again(run, pictures, output, **options):
    return enrich_pretrained(
        tiny_image_model(), pictures.select(range(120)), output, eval_dataset=pictures.select(range(120, 160)),
        selection_split=40, also=["equal_compute"], fit_on="both", keep_candidates=True, **SETTINGS, **options,
    )  # fmt: skip


def test_a_finished_choice_is_not_made_again(run, pictures):
    before = {path: path.stat().st_mtime_ns for path in run.output_dir.rglob("*.json") if path.parent.name != "report"}
    result = again(run, pictures, run.output_dir)
    assert result.choice.words == run.choice.words
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_choice_that_was_interrupted_ends_alike(run, pictures, tmp_path, monkeypatch):
    shutil.copytree(run.output_dir, tmp_path / "run")
    for name in ("enriched/best", "choice"):
        shutil.rmtree(tmp_path / "run" / name)
    commit, left = PartialFolder.commit, [2]

    def failing(self):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        commit(self)

    monkeypatch.setattr(PartialFolder, "commit", failing)
    with pytest.raises(KeyboardInterrupt):
        again(run, pictures, tmp_path / "run")
    monkeypatch.undo()
    again(run, pictures, tmp_path / "run")
    for name in ("enriched/best/model.safetensors", "choice/choice.json", "choice/fitted.json"):
        assert (tmp_path / "run" / name).read_bytes() == (run.output_dir / name).read_bytes(), name


def test_another_choice_is_made_anew(run, pictures, tmp_path):
    shutil.copytree(run.output_dir, tmp_path / "run")
    options = {**SETTINGS, "selection_split": 40}
    result = enrich_pretrained(tiny_image_model(), pictures.select(range(120)), tmp_path / "run",
                               eval_dataset=pictures.select(range(120, 160)), **options)  # fmt: skip
    assert result.choice.examples == 40 and "fitted-held-out" not in result.choice.gains
    assert set(result.choice.candidates) == {"stage-0", "stage-1", "stage-2", "x2", "x4", "x8"}  # others are gone


def test_a_choice_with_other_options_replaces_what_was_kept(run, pictures, tmp_path):
    shutil.copytree(run.output_dir, tmp_path / "run")
    result = again(run, pictures, tmp_path / "run", fit_steps=2, fit_groups="kind")
    before, after = (
        json.loads((folder / "choice" / "fitted.json").read_text())["coefficients"]
        for folder in (run.output_dir, tmp_path / "run")
    )
    assert before != after and len({tuple(row) for row in after.values()}) <= 3
    assert {"fitted", "damped"} <= set(result.choice.candidates)


def test_a_fit_that_goes_astray_is_no_candidate(run, pictures, tmp_path, monkeypatch, caplog):
    shutil.copytree(run.output_dir, tmp_path / "run")

    def astray(*args, **options):
        raise TrajectoryError("Fitting went astray")

    monkeypatch.setattr("know_hf.choice.candidates.fit", astray)
    result = again(run, pictures, tmp_path / "run", fit_steps=3)
    assert "fitted" not in result.choice.gains and "fitted is no candidate: Fitting went astray" in caplog.text
    assert "mean" in result.choice.gains


@pytest.mark.slow
def test_what_somebody_put_in_the_place_of_a_candidate_is_theirs(pictures, tmp_path):
    own = {**SETTINGS, "num_train_epochs": 1, "selection_split": 40}
    train = pictures.select(range(120))
    enrich_pretrained(tiny_image_model(), train, tmp_path, **own)
    (tmp_path / "choice" / "mean").mkdir()
    (tmp_path / "choice" / "mean" / "mine.txt").write_text("mine")
    (tmp_path / "choice" / "fitted.json").write_text("{ damaged")
    enrich_pretrained(tiny_image_model(), train, tmp_path, **own)
    assert (tmp_path / "choice" / "mean" / "mine.txt").read_text() == "mine"
    with pytest.raises(FileExistsError, match="was not written by know-hf"):
        enrich_pretrained(tiny_image_model(), train, tmp_path, unscaled=True, **own)
    assert (tmp_path / "choice" / "mean" / "mine.txt").read_text() == "mine"
    shutil.rmtree(tmp_path / "choice" / "mean")
    assert (
        "fitted-unscaled" in enrich_pretrained(tiny_image_model(), train, tmp_path, unscaled=True, **own).choice.gains
    )


def test_as_many_candidates_as_expected(run, pictures, tmp_path):
    options = {"also": ["equal_compute"], "fit_on": "both"}
    trainer = make_trainer(
        tiny_image_model(), pictures.select(range(120)), tmp_path, selection_split=40, **SETTINGS
    )  # fmt: skip
    expected = expected_candidates(trainer, resolve(Prediction(), 3, 0.5), Choosing(**options))
    assert expected == len(run.choice.gains) - 1  # BatchNorm's new statistics alone are no start for other data


def test_a_full_disk_is_said_and_loses_nothing(pictures, tmp_path, monkeypatch):
    def full(self, *arguments):
        raise OSError(errno.ENOSPC, "No space left on device", str(self.final))

    own = {**SETTINGS, "num_train_epochs": 1, "selection_split": 40}
    with monkeypatch.context() as patch:
        commit = PartialFolder.commit
        patch.setattr(PartialFolder, "commit", lambda self: (full if self.final.name == "best" else commit)(self))
        with pytest.raises(OSError, match="the disk is full; nothing was left half-written. Free space and run again"):
            enrich_pretrained(tiny_image_model(), pictures.select(range(120)), tmp_path, **own)
    assert not (tmp_path / "enriched" / "best").exists()
    assert enrich_pretrained(tiny_image_model(), pictures.select(range(120)), tmp_path, **own).best.is_dir()
