"""Comparisons and experiments that die at any point, are damaged, or have arms of like names."""

import json
import os
import resource

import pyarrow as pa
import pytest
from conftest import link
from deaths import Death, dying, stamps, tree

from know_hf.laboratory import comparison
from know_hf.laboratory.arms import PredictedArms
from know_hf.laboratory.protocol import Protocol
from know_hf.laboratory.recipe import load_recipe
from know_hf.laboratory.result import ComparisonResult
from know_hf.meta.shards import write_table
from know_hf.report.comparison import write_comparison_report
from know_hf.trajectory import TrajectoryError

QUICK = Protocol(head_epochs=0, epochs=1, batch_size=32, examples=48, validation_examples=16, evaluations=1)


@pytest.fixture
def compare(image_model_folder, images):
    """Fine-tunes twice each from two starts, which are one, under given names."""

    def run(folder, *names, arms=None, rates=(1e-3,)):
        arms = arms or dict.fromkeys(names or ("naive", "same"), image_model_folder)
        return comparison.compare(
            arms, images.select(range(96)), folder, test_dataset=images.select(range(96, 160)), protocol=QUICK,
            learning_rates=rates, seeds=2,
        )  # fmt: skip

    return run


def scores(result) -> dict:
    return {key: (run["test"], run["validation"], run["curve"]) for key, run in result.fine_tunings.items()}


@pytest.mark.parametrize("share", [4, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"])
def test_a_death_at_any_operation_changes_no_score(compare, tmp_path, monkeypatch, share):
    with dying(monkeypatch, tmp_path) as deaths:
        whole = compare(tmp_path / "whole")
    every = range(1, deaths.count + 1)
    assert deaths.count > 15
    for at in every if share == 1 else every[3 :: len(every) // share]:
        with pytest.raises(Death), dying(monkeypatch, tmp_path / str(at), at):
            compare(tmp_path / str(at))
        again = compare(tmp_path / str(at))
        assert scores(again) == scores(whole), at
        assert tree(tmp_path / str(at)).keys() == tree(tmp_path / "whole").keys(), at


def test_damaged_results_are_made_again(compare, tmp_path):
    whole = compare(tmp_path)
    first, second, *_ = sorted((tmp_path / "runs").iterdir())
    good = json.loads(first.read_text())
    other = json.loads(second.read_text())
    for damage in ("", first.read_text()[:40], "[" * 100_000, "[]", json.dumps({**good, "test": None}),
                   json.dumps({**good, "test": float("nan")}), json.dumps(other)):  # fmt: skip
        first.write_text(damage)
        if damage != json.dumps(other):
            with pytest.raises(TrajectoryError, match=f"{first.name} .*delete it and run the comparison again"):
                ComparisonResult.load(tmp_path)
        assert scores(compare(tmp_path)) == scores(whole)
    for text in ("", "{}", '{"arms": 3}'):
        (tmp_path / "transfer.json").write_text(text)
        with pytest.raises(TrajectoryError, match="transfer.json .*choose another output_dir"):
            compare(tmp_path)


def test_names_that_would_share_a_file_are_refused(compare, tmp_path):
    with pytest.raises(ValueError, match="arms 'a b' and 'a_b' would share the file 'a_b'; rename one"):
        compare(tmp_path, "a b", "a_b")
    with pytest.raises(ValueError, match="'KNOWN' and 'known' would share"):
        compare(tmp_path, "naive", "KNOWN", "known")
    assert not tmp_path.joinpath("runs").exists()
    compare(tmp_path, "naive", "a b")
    with pytest.raises(ValueError, match="the arms 'a b' and 'a/b' would share"):  # one that joins later
        compare(tmp_path, "naive", "a/b")


def test_rates_that_are_nearly_the_same_are_two(compare, tmp_path):
    rates = (0.00123456789, 0.00123456788)
    result = compare(tmp_path, rates=rates)
    assert len(result.fine_tunings) == 8 and len(list((tmp_path / "runs").iterdir())) == 8
    assert ComparisonResult.load(tmp_path).learning_rates == sorted(rates)


def test_recipes_with_names_alike_are_refused(tmp_path):
    pretraining = {"dataset": "d", "model": "m"}
    for settings, match in (
        ({"a b": {}, "a_b": {}}, "settings 'a b' and 'a_b' would share the file 'a_b'"),
        ({"one": {"steps": float("inf")}}, "one: steps must be a whole number, found inf"),
        ({"one": {"read_stages": "two"}}, "one: read_stages must be a whole number, found 'two'"),
        ({"one": {"controls": [3]}}, r"one: controls\[0\] must be text, found 3"),
        ({"one": {"learning_rates": ["fast"]}}, r"one: learning_rates\[0\] must be a number, found 'fast'"),
        ({"one": {"pretraining": {**pretraining, "training": 3}}}, "training must be name: value pairs, found 3"),
        ({7: {}}, "the name 7 is not text"),
    ):
        content = {name: {"pretraining": pretraining, **values} for name, values in settings.items()}
        path = tmp_path / "recipe.yaml"
        text = json.dumps({"title": "t", "sizes": {"s": {"settings": content}}}).replace("Infinity", ".inf")
        path.write_text(text.replace('"7"', "7"))
        with pytest.raises(ValueError, match=match):
            load_recipe(path)


def test_nothing_is_written_to_what_is_given(compare, image_run, image_model_folder, tmp_path):
    root = image_run.trajectory.root
    before = stamps(root, image_model_folder)
    made = PredictedArms(root, ["known", "mean"], 2).write(tmp_path / "arms")
    arms = {"naive": image_model_folder, "stage": root / "stage-0", "known": made["known/x2"]}
    write_comparison_report(compare(tmp_path / "out", arms=arms))
    assert stamps(root, image_model_folder) == before
    for folder in (image_model_folder, root / "stage-0" / "transfer"):
        with pytest.raises(FileExistsError, match="is, or lies in, the input"):
            compare(folder, arms=arms)
    assert stamps(root, image_model_folder) == before


@pytest.fixture
def full_disk():
    """Files can hold no more than a few bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, before[1]))

    yield fill
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disks_are_said_and_nothing_stays(compare, tmp_path, full_disk):
    table = pa.table({"a": [os.urandom(9) for _ in range(900)]})
    full_disk()
    with pytest.raises(OSError, match="too large|File too large"):
        write_table(tmp_path / "data" / "x.parquet", table)
    with pytest.raises(OSError, match="cannot be written: File too large"):
        compare(tmp_path / "out")
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".partial", ".parquet", ".safetensors")]


@pytest.mark.parametrize("name", ["runs", "scratch", "cache", ".know-hf.lock"])
def test_nothing_goes_through_a_link_in_a_comparison(compare, tmp_path, precious, name):
    link(tmp_path / "out" / name, precious / "mine.txt" if name.endswith("lock") else precious)
    with pytest.raises(ValueError, match=f"{name} is a link, through which nothing is written"):
        compare(tmp_path / "out")
    assert os.listdir(tmp_path / "out") == [name]
    (tmp_path / "out" / name).unlink()


def test_starts_are_not_predicted_through_a_link(image_run, tmp_path, precious):
    link(tmp_path / "arms" / "known", precious)
    with pytest.raises(ValueError, match="known is a link"):
        PredictedArms(image_run.trajectory.root, ["known"], 1).write(tmp_path / "arms")
