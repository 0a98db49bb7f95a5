"""A finished run is given other examples to choose on, or others to score on: nothing is trained again for it."""

import pytest
from conftest import tiny_image_model

from know_hf import enrich_pretrained
from know_hf.forgetting.making import make_trainer
from know_hf.trajectory import TrajectoryError, TrajectoryRecord

SETTINGS = {"num_stages": 2, "num_train_epochs": 1, "per_device_train_batch_size": 16, "learning_rate": 5e-3,
            "train_stage_zero": True, "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "steps": 1,
            "fit_steps": 1}  # fmt: skip


@pytest.mark.parametrize("before", [{"choose": "none"}, {}])  # nothing asked for, or too few for it
def test_examples_to_choose_on_may_be_given_afterwards(images, tmp_path, before):
    train = images.select(range(50))
    first = enrich_pretrained(tiny_image_model(), train, tmp_path, **before, **SETTINGS)
    assert first.best is None
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.glob("stage-*/*.safetensors")}
    for rows in (range(100, 130), range(100, 160)):
        found = enrich_pretrained(tiny_image_model(), train, tmp_path, selection_split=images.select(rows), **SETTINGS)
        assert found.choice.how == "given" and found.choice.examples == len(rows) and found.best.is_dir()
    assert len(stamps) == 2 and {path: path.stat().st_mtime_ns for path in stamps} == stamps
    with pytest.raises(TrajectoryError, match="no examples were set aside then, and 25 .* of the training data were"):
        enrich_pretrained(tiny_image_model(), train, tmp_path, selection_split=25, **SETTINGS)
    with pytest.raises(TrajectoryError, match="holds another run: dataset"):
        enrich_pretrained(
            tiny_image_model(), images.select(range(1, 51)), tmp_path, selection_split=images.select(rows), **SETTINGS
        )


def scores(result):
    return [stage.metrics for stage in result.trajectory.record.stages], result.metrics, result.choice.scores


def test_other_evaluation_data_are_scored_on_and_never_mixed(images, tmp_path):
    train, own = images.select(range(80)), {**SETTINGS, "selection_split": images.select(range(80, 110))}
    parts = images.select(range(110, 140)), images.select(range(130, 160))  # as many of them

    def run(folder, part, **options):
        return enrich_pretrained(tiny_image_model(), train, tmp_path / folder, eval_dataset=part, **own, **options)

    first = run("a", parts[0], self_check=True)
    weights = {path: path.read_bytes() for path in (tmp_path / "a").rglob("*.safetensors")}
    other = run("a", parts[1], self_check=True)
    fresh = run("b", parts[1], self_check=True)
    assert scores(other) == scores(fresh) != scores(first)
    assert other.verdict == fresh.verdict and other.self_check == fresh.self_check
    assert {path: path.read_bytes() for path in weights} == weights
    for name in ("enriched/x2", "enriched/best"):
        for file in ("README.md", "enrichment.json"):
            assert (tmp_path / "a" / name / file).read_bytes() == (tmp_path / "b" / name / file).read_bytes()
    again = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("enrichment.json")}
    none = run("a", None, self_check=True)
    assert "No evaluation data were given this time" in none.verdict and "of the 30 evaluation" in none.verdict
    assert scores(none) == scores(other)
    run("a", parts[1], self_check=True)
    assert {path: path.stat().st_mtime_ns for path in again} == again


def test_a_choice_made_without_evaluation_data_has_no_others_scores(images, tmp_path):
    own = {**SETTINGS, "learning_rate": 1e-7, "selection_split": images.select(range(80, 110))}  # Θ⁰ is chosen

    def run(part, **options):
        return enrich_pretrained(
            tiny_image_model(), images.select(range(80)), tmp_path, eval_dataset=part, **own, **options
        )

    run(images.select(range(110, 140)))
    assert run(None, unscaled=True).choice.scores
    found = run(images.select(range(130, 160)), unscaled=True)
    assert found.choice.candidate == "stage-0" and found.choice.scores == found.metrics["stage-0"]


def test_a_run_without_scores_gets_them_later(images, tmp_path):
    train, own = images.select(range(80)), {**SETTINGS, "selection_split": images.select(range(80, 110))}
    first = enrich_pretrained(tiny_image_model(), train, tmp_path, **own)
    assert not first.metrics and not first.choice.scores
    result = enrich_pretrained(tiny_image_model(), train, tmp_path, eval_dataset=images.select(range(110, 160)), **own)
    stages, metrics, chosen = scores(result)
    assert all(stages) and {"stage-0", "x2"} <= metrics.keys() and chosen


def test_another_way_to_compute_scores_makes_them_again(images, tmp_path):
    train, own = images.select(range(80)), {**SETTINGS, "choose": "none", "eval_dataset": images.select(range(80, 160))}
    enrich_pretrained(tiny_image_model(), train, tmp_path, **own)
    result = enrich_pretrained(
        tiny_image_model(), train, tmp_path, compute_metrics=lambda given: {"rows": float(len(given.label_ids))}, **own
    )
    assert [one["eval_rows"] for one in result.metrics.values()] == [80.0] * len(result.metrics)


def test_half_a_run_is_continued_with_one_evaluation(images, tmp_path):
    parts = images.select(range(80, 120)), images.select(range(120, 160))

    def trainer(folder, part):
        return make_trainer(
            tiny_image_model(), images.select(range(80)), tmp_path / folder, eval_dataset=part, num_stages=3,
            num_train_epochs=1, per_device_train_batch_size=16, train_stage_zero=True, report_to="none",
            save_strategy="no",
        )  # fmt: skip

    def stop(stage):
        if stage.index == 1:
            raise KeyboardInterrupt

    half = trainer("a", parts[0])
    half.on_stage_end = stop
    with pytest.raises(KeyboardInterrupt):
        half.train()
    found = []
    for folder in ("a", "b"):
        trainer(folder, parts[1]).train()
        files = sorted((tmp_path / folder).glob("stage-*/*.safetensors"))
        record = TrajectoryRecord.load(tmp_path / folder)
        found.append(([file.read_bytes() for file in files], [stage.metrics for stage in record.stages]))
    assert found[0] == found[1]


def test_evaluation_data_that_steered_the_training_are_not_exchanged(images, tmp_path):
    own = {**SETTINGS, "save_strategy": "epoch", "eval_strategy": "epoch", "load_best_model_at_end": True,
           "choose": "none"}  # fmt: skip
    train = images.select(range(80))
    enrich_pretrained(tiny_image_model(), train, tmp_path, eval_dataset=images.select(range(80, 120)), **own)
    with pytest.raises(TrajectoryError, match=r"other evaluation data \(examples: 40 and now 30\), by which"):
        enrich_pretrained(tiny_image_model(), train, tmp_path, eval_dataset=images.select(range(130, 160)), **own)
