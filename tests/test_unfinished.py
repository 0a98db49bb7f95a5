"""Comparisons that were killed, and called again in other ways: call and report say the same, and what is missing."""

import json

import pytest

from know_hf.laboratory import comparison
from know_hf.laboratory.asked import Asked
from know_hf.laboratory.protocol import Protocol
from know_hf.laboratory.result import ComparisonResult
from know_hf.report.comparison import comparison_markdown, verdict, write_comparison_report
from know_hf.trajectory import TrajectoryError

QUICK = Protocol(head_epochs=0, epochs=1, batch_size=32, examples=48, validation_examples=16, evaluations=1)
RATES = [0.001, 0.01]


def recorded(folder, spared=(), seeds=4, asked=True):
    """A comparison of three arms; those that are spared ran at the rate that the reference chose."""
    (folder / "runs").mkdir()
    arms = ["naive", "one", "two"]
    plan = {"arms": arms, "learning_rates": RATES, "one_rate": list(spared), "seeds": seeds}
    content = {"arms": {name: [name] for name in arms}, "columns": {"task": "image-classification"},
               "protocol": {"metric": None}, **({"asked": plan} if asked else {})}  # fmt: skip
    (folder / "transfer.json").write_text(json.dumps(content))
    for i, arm in enumerate(arms):
        for rate in [0.01] if arm in spared else RATES:
            for seed in range(seeds):
                run = {"arm": arm, "rate": rate, "seed": seed, "test": 0.5 + i / 10 + seed / 100, "seconds": 2.0,
                       "validation": 0.5 + rate, "training": 1.0, "curve": [[1.0, 0.5]]}  # fmt: skip
                (folder / "runs" / f"{arm}--{rate:g}--{seed}.json").write_text(json.dumps(run))


def delete(folder, *patterns):
    for pattern in patterns:
        for path in (folder / "runs").glob(pattern):
            path.unlink()


@pytest.mark.parametrize("asked", [True, False], ids=["recorded", "of a former version"])
def test_a_killed_comparison_says_so_and_compares_what_is_whole(tmp_path, asked):
    recorded(tmp_path, asked=asked)
    assert not ComparisonResult.load(tmp_path).unfinished
    delete(tmp_path, "one--0.01--1.json", "two--*--1.json")
    result = ComparisonResult.load(tmp_path)
    assert list(result.arms) == ["naive", "one", "two"] and result.seeds == 3
    assert all(result.rates(arm) == RATES for arm in result.arms)
    assert result.scores("two", 0.01) == pytest.approx([70, 72, 73])  # the pairs stay together
    said = "Unfinished: 3 of 24 fine-tunings are missing"
    assert comparison_markdown(result).split("\n\n")[1].startswith(said)
    assert verdict(result).startswith(said) and "3 of 4" in verdict(result)
    assert said in (write_comparison_report(result) / "index.html").read_text()
    delete(tmp_path, "one--0.01--[23].json")
    with pytest.raises(TrajectoryError, match="5 of 24 fine-tunings are missing.* before two seeds are done"):
        ComparisonResult.load(tmp_path)


@pytest.mark.parametrize("asked", [True, False], ids=["recorded", "of a former version"])
def test_arms_at_the_rate_of_the_reference_wait_until_the_grid_is_done(tmp_path, asked):
    recorded(tmp_path, spared=["two"], asked=asked)
    whole = ComparisonResult.load(tmp_path)
    assert not whole.unfinished and whole.rates("two") == [0.01]
    delete(tmp_path, "two--*--3.json")
    result = ComparisonResult.load(tmp_path)
    assert list(result.arms) == ["naive", "one"] and result.seeds == 4
    assert "1 of 20 fine-tunings" in result.unfinished and "Not compared yet: two." in result.unfinished
    delete(tmp_path, "one--0.001--0.json")
    result = ComparisonResult.load(tmp_path)
    assert list(result.arms) == ["naive", "one"] and result.seeds == 3


def test_an_arm_without_any_run_does_not_vanish(tmp_path):
    recorded(tmp_path)
    delete(tmp_path, "two--*")
    with pytest.raises(TrajectoryError, match="8 of 24 fine-tunings are missing"):
        ComparisonResult.load(tmp_path)


def test_what_was_asked_must_be_of_the_comparison(tmp_path):
    recorded(tmp_path)
    content = json.loads((tmp_path / "transfer.json").read_text())
    plan = content["asked"]
    for wrong in ({**plan, "arms": ["other"]}, {**plan, "seeds": 0}, {**plan, "one_rate": plan["arms"]}, {}, []):
        (tmp_path / "transfer.json").write_text(json.dumps({**content, "asked": wrong}))
        with pytest.raises(TrajectoryError, match="is damaged: .*choose another output_dir"):
            ComparisonResult.load(tmp_path)
    assert Asked(["a"], [1.0], [], 10**12).whole_seeds({("a", 1.0, 5)}) == [5]  # no walk over all of them


def test_a_report_is_of_the_latest_call(tmp_path, image_model_folder, images):
    def compare(*names, rates=(1e-3,)):
        return comparison.compare(
            dict.fromkeys(names, image_model_folder), images.select(range(96)), tmp_path, protocol=QUICK, seeds=2,
            test_dataset=images.select(range(96, 160)), learning_rates=rates,
        )  # fmt: skip

    for names, rates in ((["A", "B"], [1e-3]), (["B", "A"], [2e-3, 1e-3, 0.001]), (["A", "C"], [1e-3])):
        called = compare(*names, rates=rates)
        assert called.learning_rates == sorted(set(rates))  # a rate that is named twice is one
        read = ComparisonResult.load(tmp_path)
        assert read.reference == names[0] and read.controls == [names[0]]
        assert comparison_markdown(read) == comparison_markdown(called)
    assert list(json.loads((tmp_path / "transfer.json").read_text())["starts"]) == ["A", "C", "B"]
