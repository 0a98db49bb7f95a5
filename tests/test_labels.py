"""Labels that come from two sources are matched by name."""

import numpy as np
import pytest
from conftest import QUICK
from datasets import ClassLabel, Dataset, Features, Value
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from know_hf import enrich_pretrained
from know_hf.forgetting.making import make_trainer
from know_hf.laboratory.heads import classes_of_kept_heads
from know_hf.models.loading import load_model
from know_hf.tasks import Columns, find_columns
from know_hf.tasks.labels import label_lookup
from know_hf.training.data import check_part, make_preprocessing

RUN = {**QUICK, "num_stages": 2, "per_device_train_batch_size": 8}


def rows(labels, names=None, dtype=None) -> Dataset:
    """Good and bad films, labelled with the class of those names, with texts or with numbers."""
    feature = (
        ClassLabel(names=names) if names else Value(dtype or ("string" if isinstance(labels[0], str) else "int64"))
    )
    texts = [f"{'good' if i % 2 else 'bad'} film" for i in range(len(labels))]
    features = Features({"sentence": Value("string"), "label": feature})
    return Dataset.from_dict({"sentence": texts, "label": labels}, features=features)


def columns(names) -> Columns:
    return Columns("text-classification", ["sentence"], "label", names)


@pytest.fixture
def critic(text_model_folder, tmp_path):
    """A classifier of films, trained as far as its configuration says."""

    def make(names, **config):
        labels = {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}
        model = AutoModelForSequenceClassification.from_pretrained(text_model_folder, num_labels=len(names), **labels)
        model.config.update(config)
        folder = tmp_path / "-".join([*names, *map(str, config.values())])
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(text_model_folder).save_pretrained(folder)
        return folder

    return make


@pytest.mark.parametrize(
    ("data", "order", "lookup"),
    [
        (rows([0, 1], ["b", "c"]), ["a", "b", "c"], {0: 1, 1: 2}),
        (rows([0, 1], ["c", "a"]), ["a", "b", "c"], {0: 2, 1: 0}),
        (rows(["c", "a"]), ["a", "b", "c"], {"c": 2, "a": 0}),
        (rows([0, 1], ["Neg ", "POS"]), ["pos", "neg"], {0: 1, 1: 0}),
        (rows([0, 1, 2], ["7", "8", "9"]), [str(i) for i in range(10)], {0: 7, 1: 8, 2: 9}),
        (rows([2, 10]), ["0", "1", "10", "2"], {2: 3, 10: 2}),
        (rows([0, 1], ["a", "b"]), ["a", "b"], None),
        (rows([1, 0]), ["a", "b"], None),
        (rows([0, 1], ["a", "b"]), ["0", "1"], None),
        (rows([1, 2], ["0", "1", "2"]), ["1", "2", "3"], {1: 0, 2: 1}),
        (rows([0, 1], ["cafe\u0301", "bar"]), ["caf\u00e9", "bar"], {0: 0, 1: 1}),
        (rows(["crane", "dog"]), ["crane", "dog", "crane"], {"dog": 1}),
    ],
)
def test_names_decide_where_both_sides_have_them(data, order, lookup):
    assert label_lookup(data, columns(order)) == lookup


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            rows([0, 1, 1], ["b", "d"]),
            "2 of 3 rows hold no known class, the first is row 1 .'d'.*Known classes: a, b, c",
        ),
        (rows(["a", "x"]), "row 1 .'x'"),
        (rows([0, 3]), "row 1 .3.*Known classes: a, b, c"),
        (rows([1, -1, -1]), "2 of 3 rows are unlabelled, the first is row 1 .-1.*another split"),
        (rows([1, -1], ["a", "b"]), "unlabelled"),
        (rows([1, None]), "1 of 2 rows miss it, the first is row 1.*drop_incomplete"),
        (rows([0.5, 1.0], dtype="float32"), "float32 numbers .regression.., 0.5 in row 0"),
        (rows([0, 1]).map(lambda row: {"label": [row["label"], 1]}), "several labels an example, .0, 1. in row 0"),
        (rows([0, 1]).rename_column("label", "gold"), "no column 'label'; found sentence, gold"),
        (rows([0]).select([]), "are empty"),
    ],
)
def test_labels_that_cannot_be_right_are_named(data, message):
    with pytest.raises(ValueError, match=message):
        check_part(data, columns(["a", "b", "c"]), 3, "evaluation data")


def test_numbers_are_read_alike_in_every_split():
    """Whatever values a split happens to hold."""
    with pytest.raises(ValueError, match="hold no known class, the first is row 0 .0.*Known classes: 1, 2, 3"):
        check_part(rows([0, 1, 2]), columns(["1", "2", "3"]), 3, "training data")
    check_part(rows([1, 2]), columns(["1", "2", "3"]), 3, "evaluation data")
    with pytest.raises(ValueError, match="hold no known class"):
        check_part(rows([0, 2], ["1", "2", "3"]), columns(["0", "1", "2"]), 3, "evaluation data")


def test_names_of_numbered_classes(caplog):
    def names(labels):
        return find_columns(rows(labels)).class_names

    assert names([1, 5, 2, 3, 4]) == ["1", "2", "3", "4", "5"] and not caplog.text
    assert names([0, 1, 3]) == ["0", "1", "2", "3"] and "holds 3 of the numbers from 0 to 3" in caplog.text
    assert names([1998, 20240131, 7]) == ["7", "1998", "20240131"]
    assert names([str(i) for i in range(11)]) == [str(i) for i in range(11)], "10 does not follow 1"


def test_a_head_without_names(critic):
    folder = critic([f"LABEL_{i}" for i in range(3)])
    loaded = load_model(folder, "text-classification", ["2", "0", "1"])
    assert not loaded.new_head and loaded.class_names == ["0", "1", "2"]
    words = ["contradiction", "entailment", "neutral"]
    assert not load_model(folder, "text-classification", words).new_head, "the data number them so"
    assert load_model(folder, "text-classification", words, ordered=False).new_head, "the alphabet says nothing"


def test_only_the_order_is_left_is_said(caplog):
    check_part(rows([1, 0]), columns(["good", "bad"]), 2, "evaluation data")
    check_part(rows([0, 1], ["b", "c"]), columns(["a", "b", "c"]), 3, "evaluation data")
    assert [record.getMessage() for record in caplog.records] == [
        "The evaluation data name their classes 0, 1, the model's outputs are named good, bad: only their order is "
        "left to go by."
    ]


def test_an_evaluation_split_that_lacks_a_class(text_model_folder, tmp_path):
    train = rows([0, 1, 2, 1] * 4, ["a", "b", "c"])
    run = {"output_dir": tmp_path / "out", **RUN}
    trainer = make_trainer(str(text_model_folder), train, eval_dataset=rows([0, 1] * 4, ["b", "c"]), **run)
    assert [row["labels"] for row in trainer.eval_dataset] == [1, 2] * 4
    assert [row["labels"] for row in trainer.train_dataset] == [0, 1, 2, 1] * 4
    with pytest.raises(ValueError, match="evaluation data.*hold no known class"):
        make_trainer(str(text_model_folder), train, eval_dataset=rows([0, 1], ["c", "z"]), **run)


def test_a_head_keeps_its_order_and_what_the_data_lack(critic):
    folder = critic(["pos", "neg", "mixed"])
    loaded = load_model(folder, "text-classification", ["neg", "pos"])
    assert not loaded.new_head and loaded.class_names == ["pos", "neg", "mixed"] and loaded.model.config.num_labels == 3
    loaded = load_model(folder, "text-classification", ["neg", "other"])
    assert loaded.new_head and loaded.model.config.id2label == {0: "neg", 1: "other"}
    assert load_model(folder, "text-classification", ["0", "1"]).new_head, "numbers are no names"
    assert load_model(folder, "text-classification", ["0", "1", "2"]).new_head


def test_a_live_model_with_other_names_is_refused(critic):
    model = AutoModelForSequenceClassification.from_pretrained(critic(["pos", "neg"]))
    assert load_model(model, "text-classification", ["neg", "pos"]).class_names == ["pos", "neg"]
    with pytest.raises(ValueError, match="classes are pos, neg, the data's bad, good: which is which"):
        load_model(model, "text-classification", ["bad", "good"])
    nameless = AutoModelForSequenceClassification.from_pretrained(critic(["LABEL_0", "LABEL_1"]))
    load_model(nameless, "text-classification", ["bad", "good"])
    assert nameless.config.id2label == {0: "bad", 1: "good"}, "its checkpoints say what the outputs are"


@pytest.mark.parametrize("kind", ["regression", "multi_label_classification"])
def test_a_head_of_another_training_gets_the_tasks_loss(critic, kind):
    folder = critic(["pos", "neg"], problem_type=kind)
    loaded = load_model(folder, "text-classification", ["neg", "pos"])
    assert loaded.model.config.problem_type == "single_label_classification" and loaded.new_head
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    loaded = load_model(model, "text-classification", ["neg", "pos"])
    assert model.config.problem_type == "single_label_classification" and loaded.new_head


def test_text_classes_are_encoded_and_recorded(text_model_folder, tmp_path):
    data = rows(["poor", "great"] * 8)
    result = enrich_pretrained(str(text_model_folder), data, tmp_path / "out", eval_dataset=data, steps=1, **RUN)
    record = result.trajectory.record
    assert record.dataset["classes"] == ["great", "poor"]
    loaded = AutoModelForSequenceClassification.from_pretrained(result.checkpoints["x2"])
    assert loaded.config.id2label == {0: "great", 1: "poor"}
    assert loaded.config.problem_type == "single_label_classification"


def test_one_class_and_free_text_are_refused(text_model_folder, tmp_path):
    with pytest.raises(ValueError, match="holds one class only, 'great'"):
        make_trainer(str(text_model_folder), rows(["great"] * 8), tmp_path / "out", **RUN)
    free = rows([f"text {i}" for i in range(40)])
    with pytest.raises(ValueError, match="40 different texts in 40 rows: are these classes"):
        find_columns(free)


def test_kept_heads_decide_the_order(critic):
    arms = {"naive": critic(["pos", "neg", "mixed"]), "known": critic(["pos", "neg", "mixed"])}
    assert classes_of_kept_heads(arms, columns(["neg", "pos"])).class_names == ["pos", "neg", "mixed"]
    with pytest.raises(ValueError, match="heads to keep have 3 outputs.*the data have 2 classes .bad, good"):
        classes_of_kept_heads(arms, columns(["bad", "good"]))
    arms["known"] = critic(["neg", "pos", "mixed"])
    with pytest.raises(ValueError, match="'naive' and 'known' have heads of other classes"):
        classes_of_kept_heads(arms, columns(["neg", "pos"]))


def test_a_base_model_has_no_head_to_keep(text_model_folder):
    with pytest.raises(ValueError, match="has no head for text-classification to keep"):
        classes_of_kept_heads({"naive": text_model_folder}, columns(["neg", "pos"]))


def test_prepared_labels_follow_the_names(text_model_folder, tmp_path):
    """The same rows with other names are other data, also in the cache."""
    from know_hf.training.prepared import open_examples, prepare

    model = AutoModelForSequenceClassification.from_pretrained(text_model_folder)
    order = columns(["a", "b", "c"])
    found = []
    for names in (["a", "b", "c"], ["a", "c", "b"]):
        data = rows([0] * 8 + [1, 2], names)
        path = prepare(data, tmp_path, model, text_model_folder, order)
        found.append(open_examples(path).inputs["labels"][8:].tolist())
    assert found == [[1, 2], [2, 1]]
    rows_read = make_preprocessing(model, text_model_folder, order).apply(rows([0, 1], ["c", "a"]))
    assert np.array_equal(rows_read["labels"][:], [2, 0])


def test_data_that_the_caller_prepared(critic, tmp_path):
    """Trainer's own way: labels are compared by number, so they have to mean the same."""
    from transformers import default_data_collator

    from know_hf import ForgettingArguments, ForgettingTrainer

    model = AutoModelForSequenceClassification.from_pretrained(critic(["a", "b", "c"]))

    def tokens(labels, names=None):
        feature = ClassLabel(names=names) if names else Value("int64")
        columns = {"input_ids": [[4, 6]] * len(labels), "labels": labels}
        return Dataset.from_dict(columns).cast_column("labels", feature)

    def trainer(evaluation):
        args = ForgettingArguments(str(tmp_path / "out"), **RUN)
        train = tokens([0, 1, 2, 0] * 2, ["a", "b", "c"])
        return ForgettingTrainer(model, args, default_data_collator, train, evaluation)

    for evaluation, message in (
        (tokens([0, 1], ["b", "c"]), "eval_dataset numbers its classes b, c .*train_dataset a, b, c .*align_labels"),
        (tokens([1, -1]), "eval_dataset: 1 of 2 rows have a negative label in 'labels', the first is row 1"),
        ({"new": tokens([-1], ["a"])}, "eval_dataset new: 1 of 1 rows have a negative label"),
    ):
        with pytest.raises(ValueError, match=message):
            trainer(evaluation).train()
    assert not list(tmp_path.glob("out/stage-*"))
    trainer(tokens([0, 1], ["a", "b"])).train()


def test_numbers_from_one_are_no_places():
    data = Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 2, 1]})
    columns = find_columns(data)
    assert columns.class_names == ["1", "2"]
    assert label_lookup(data, columns) == {1: 0, 2: 1}, "a head of as many outputs may count them from 0"
