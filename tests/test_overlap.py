"""What is chosen on is neither trained on nor reported on, and what cannot be told apart is said."""

import pytest
import torch
from conftest import run_cli, tiny_image_model
from datasets import Dataset
from torch.utils.data import Subset, TensorDataset

from know_hf import enrich_pretrained
from know_hf.training.overlap import check_apart, overlap
from know_hf.training.set_aside import NEEDED
from know_hf.trajectory import rows
from know_hf.trajectory.rows import content_hash

SETTINGS = {"num_stages": 2, "num_train_epochs": 1, "per_device_train_batch_size": 16, "learning_rate": 5e-3,
            "train_stage_zero": True, "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "steps": 1,
            "fit_steps": 1}  # fmt: skip


def texts(*ranges: range) -> Dataset:
    return Dataset.from_dict({"text": [f"number {i}" for rows in ranges for i in rows]})


@pytest.mark.parametrize(
    ("some", "others", "shared", "large"),
    [
        (texts(range(40)), texts(range(40, 90)), 0, False),
        (texts(range(40)), texts(range(35, 90)), 5, False),
        (texts(range(40)), texts(range(10, 90)), 30, True),
        (texts(range(60)).shuffle(seed=0).select(range(9)), texts(range(60)).select([*range(59, -1, -1)]), 9, True),
    ],
)
def test_rows_are_counted_whatever_their_order(some, others, shared, large):
    found = overlap(some, others)
    assert (found.shared, found.of, found.large) == (shared, len(some), large)


def test_data_that_repeat_themselves_are_not_taken_for_the_same():
    few = Dataset.from_dict({"text": ["yes", "no", "perhaps"] * 20})
    found = overlap(few.select(range(30)), few.select(range(30, 60)))
    assert found.shared == 30 and not found.large
    assert overlap(few, few).large  # the very same object


def test_a_text_in_lines_counts_by_what_is_in_them():
    lines = Dataset.from_dict({"text": ["", "A.", *(f"some line {i}" for i in range(30))]})
    own = Dataset.from_dict({"text": ["", "", "", "A.", "A.", "another line that is long enough to count"]})
    assert overlap(own, lines).large
    assert not overlap(own, lines, by_size=True).large


def test_large_data_are_looked_at_in_part(monkeypatch):
    monkeypatch.setattr(rows, "MOST_ROWS", 100)
    found = overlap(texts(range(500, 550)), texts(range(1000)))
    assert found.large and 20 <= found.shared <= 50
    assert not overlap(texts(range(1000, 1050)), texts(range(1000))).large


def test_pictures_are_told_apart_by_their_bytes(images):
    assert overlap(images.select(range(20)), images.select(range(10, 160)), ["image"]).shared == 10
    assert overlap(images.select(range(20)), images.select(range(20, 160)), ["image"]).shared == 0


def test_parts_of_a_torch_data_set():
    whole = TensorDataset(torch.arange(50))
    assert overlap(Subset(whole, range(10)), Subset(whole, range(5, 50))).shared == 5
    assert overlap(Subset(whole, range(10)), whole).large


def test_every_row_counts_for_the_hash_of_data():
    assert content_hash(texts(range(1000))) == content_hash(texts(range(1000)))
    assert content_hash(texts(range(999), range(1000, 1001))) != content_hash(texts(range(1000)))
    assert content_hash(TensorDataset(torch.arange(3))) is None


def test_a_few_by_chance_are_a_remark():
    parts = {"evaluation data": texts(range(199, 250), range(300, 350))}
    said = check_apart(texts(range(200)), texts(range(195, 198), range(248, 299)), parts)
    assert said == [
        "Of the examples to choose on 3 of the 54 are training data, too.",
        "Of the examples to choose on 2 of the 54 are evaluation data, too.",
    ]


@pytest.mark.parametrize(
    ("selection", "evaluation", "match"),
    [
        (range(60, 120), None, r"^60 of the 60 examples to choose on .* are training data: .* selection_split 0\.2"),
        (
            range(120, 160),
            range(120, 160),
            r"^40 of the 40 examples to choose on .* are evaluation data \(40\): scores",
        ),
        (range(120, 160), range(120, 141), r"^21 of the 40 examples .* are evaluation data \(21\): scores"),
        (range(120, 160), range(150, 160), r"^10 of the 40 examples .* are evaluation data \(10\): scores"),
        (range(120, 123), None, f"^selection_split gives 3 examples to choose on, .*{NEEDED} at least are needed"),
    ],
)
def test_what_would_flatter_is_refused_before_training(images, tmp_path, selection, evaluation, match):
    part = None if evaluation is None else images.select(evaluation)
    with pytest.raises(ValueError, match=match):
        enrich_pretrained(
            tiny_image_model(), images.select(range(120)), tmp_path / "run", eval_dataset=part,
            selection_split=images.select(selection), **SETTINGS,
        )  # fmt: skip
    assert not (tmp_path / "run" / "stage-0").exists()


def test_scores_on_training_data_are_said_to_be(images, tmp_path):
    train = images.select(range(120))
    result = enrich_pretrained(tiny_image_model(), train, tmp_path, eval_dataset=train, choose="none", **SETTINGS)
    said = "Of the evaluation data 120 of the 120 examples are training data, too: scores on these"
    assert said in result.verdict and said in (result.checkpoints["x2"] / "README.md").read_text()


def test_the_split_that_is_chosen_on_is_not_scored_on(image_model_folder, image_data_folder, tmp_path):
    options = ["--model", image_model_folder, "--dataset", image_data_folder, "--num_train_epochs", 1,
               "--num_stages", 2, "--train_stage_zero", "True", "--also", "none", "--fit_steps", 1]  # fmt: skip
    done = run_cli("enrich", *options, "--output-dir", tmp_path / "a", "--selection_split", "test")
    assert "There are no evaluation data: the best is chosen on examples of test" in done.stderr
    assert "on the 32 examples that were set aside" in done.stdout and "evaluation data" not in done.stdout
    done = run_cli("enrich", *options, "--output-dir", tmp_path / "b", "--selection_split", "train[:25%]", check=False)
    assert done.returncode == 2 and "32 of the 32 examples to choose on (selection_split) are training" in done.stderr
    assert not (tmp_path / "b" / "stage-0").exists()


def test_a_split_may_be_named_where_the_data_are(image_model_folder, image_data_folder, tmp_path):
    result = enrich_pretrained(
        str(image_model_folder), str(image_data_folder), tmp_path, selection_split="test", **SETTINGS
    )
    assert result.choice.how == "given" and result.choice.examples == 32
