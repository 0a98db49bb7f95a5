"""Examples to report scores on that are taken from the training data."""

from collections import Counter

import pytest
from datasets import ClassLabel, Dataset, Features, Value, concatenate_datasets

from know_hf.cli.main import main
from know_hf.forgetting.making import make_trainer
from know_hf.training.evaluation_part import absent, lacking, split_off
from know_hf.training.options import DataOptions
from know_hf.trajectory import TrajectoryRecord

NAMES = ["bad", "good", "middling"]


def sorted_rows(counts=(60, 40, 20)) -> Dataset:
    rows = {"text": [], "label": []}
    for label, count in enumerate(counts):
        rows["text"] += [f"a {NAMES[label]} film {i}" for i in range(count)]
        rows["label"] += [label] * count
    return Dataset.from_dict(rows, features=Features({"text": Value("string"), "label": ClassLabel(names=NAMES)}))


@pytest.mark.parametrize("share", [0.25, 30])
def test_a_share_takes_of_every_class_alike(share):
    rest, part = split_off(sorted_rows(), share, 0, DataOptions())
    assert Counter(part["label"][:]) == {0: 15, 1: 10, 2: 5} and len(rest) == 90
    assert not set(rest["text"][:]) & set(part["text"][:])
    again = split_off(sorted_rows(), share, 0, DataOptions())[1]
    assert again["text"][:] == part["text"][:] != split_off(sorted_rows(), share, 1, DataOptions())[1]["text"][:]
    with pytest.raises(ValueError, match="eval_split=5 would set 5 of 120 .*or do without \\(eval_split none\\)"):
        split_off(sorted_rows(), 5, 0, DataOptions())


def test_rows_without_classes_are_taken_by_chance():
    texts = Dataset.from_dict({"text": [f"line {i}" for i in range(100)]})
    rest, part = split_off(texts, 0.3, 0, DataOptions())
    assert len(rest) == 70 and len(part) == 30


def test_chance_leaves_small_classes_out_and_no_large_ones():
    assert absent([0] * 50 + [1] * 50, [0] * 25) == (1, 0.5)
    assert absent([0] * 97 + [1] * 3, [0] * 25) is None and absent([0, 1] * 50, [0, 1]) is None


def test_data_of_other_classes_are_remarked_on(tmp_path, text_model_folder, caplog):
    good = sorted_rows((0, 40, 0))
    make_trainer(str(text_model_folder), sorted_rows(), tmp_path / "run", num_stages=2, eval_dataset=good)
    assert "The evaluation data hold no example of 'bad', which are 50 % of the training data" in caplog.text
    caplog.clear()
    make_trainer(str(text_model_folder), sorted_rows(), tmp_path / "other", num_stages=2, eval_dataset=sorted_rows())
    assert "hold no example" not in caplog.text


def test_rows_without_a_label_are_no_class():
    data = sorted_rows()
    gaps = Dataset.from_dict({"text": ["x"] * 80, "label": [None] * 40 + [-1] * 40}, features=data.features)
    assert lacking(concatenate_datasets([data, gaps]), data, "label") is None
    assert lacking(concatenate_datasets([data, gaps]), sorted_rows((0, 60, 20)), "label") == ("bad", 0.5)


def flags(folder, data, model, *more):
    return ["forget", "--model", str(model), "--dataset", str(data), "--output-dir", str(folder), "--num_stages", "2",
            "--max_steps", "1", "--per_device_train_batch_size", "8", "--report_to", "none", *more]  # fmt: skip


def test_from_the_command_line(tmp_path, text_model_folder, capsys):
    sorted_rows().to_parquet(tmp_path / "rows.parquet")
    whole = flags(tmp_path / "run", tmp_path / "rows.parquet", text_model_folder, "--eval_split", "0.25")
    main(whole)
    record = TrajectoryRecord.load(tmp_path / "run")
    assert record.stages[0].examples == 90 and "eval_accuracy" in record.stages[0].metrics
    (tmp_path / "recipe.yaml").write_text((tmp_path / "run/run.yaml").read_text())
    main(["forget", "--config", str(tmp_path / "recipe.yaml"), "--output-dir", str(tmp_path / "again")])
    assert TrajectoryRecord.load(tmp_path / "again").dataset == record.dataset
    capsys.readouterr()
    sliced = ("--train_split", "train[:80%]", "--eval_split", "train[80%:]")
    with pytest.raises(SystemExit):
        main(flags(tmp_path / "other", tmp_path / "rows.parquet", text_model_folder, *sliced))
    told = capsys.readouterr().err
    assert "train[80%:], hold no example of 'bad', which are 62% of the training data: the rows are sorted" in told
    assert "eval_split 0.2" in told and not (tmp_path / "other").exists()
