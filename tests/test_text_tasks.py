"""Tasks of texts beyond one class each: several classes, numbers, a class a word, texts to write, conversations."""

import json

import numpy as np
import pytest
import torch
from conftest import QUICK
from datasets import ClassLabel, Dataset, Features, List, Value
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
    set_seed,
)

from know_hf import enrich_pretrained
from know_hf.cli.main import main
from know_hf.forgetting.making import make_trainer
from know_hf.models.loading import load_model
from know_hf.tasks import TASKS, find_columns, get_task
from know_hf.tasks.several import holds_marks
from know_hf.training.data import check_part, load_split, make_preprocessing, open_parts

RUN = {**QUICK, "num_stages": 2, "steps": 1, "choose": "none"}
TEXTS = [f"{'not ' * (i % 2)}a {'good' if i % 3 else 'bad'} film" for i in range(32)]


def topics() -> Dataset:
    rows = {"text": TEXTS, "labels": [["praise"] if "good" in t else [] for t in TEXTS]}
    rows["labels"] = [
        [*own, "negated"] if "not" in text else own for own, text in zip(rows["labels"], TEXTS, strict=True)
    ]
    return Dataset.from_dict(rows, features=Features({"text": Value("string"), "labels": List(Value("string"))}))


def tagged() -> Dataset:
    tags = ClassLabel(names=["O", "MOOD", "THING"])
    rows = {
        "tokens": [text.split() for text in TEXTS],
        "ner_tags": [[{"good": 1, "bad": 1, "film": 2}.get(w, 0) for w in text.split()] for text in TEXTS],
    }
    return Dataset.from_dict(rows, features=Features({"tokens": List(Value("string")), "ner_tags": List(tags)}))


def rated() -> Dataset:
    rows = {"sentence1": TEXTS, "sentence2": TEXTS[::-1], "score": [round(0.1 * (i % 7), 1) for i in range(32)]}
    return Dataset.from_dict({"idx": list(range(32)), **rows})


def test_the_task_is_read_off_the_columns():
    found = find_columns(topics())
    assert (found.task, found.inputs, found.label) == ("multi-label-classification", ["text"], "labels")
    assert found.class_names == ["negated", "praise"]
    found = find_columns(rated())
    assert (found.task, found.inputs, found.label) == ("text-regression", ["sentence1", "sentence2"], "score")
    found = find_columns(tagged())
    assert (found.task, found.inputs, found.label) == ("token-classification", ["tokens"], "ner_tags")
    assert found.class_names == ["O", "MOOD", "THING"]
    talks = Dataset.from_dict({"messages": [[{"role": "user", "content": "good"}]]})
    assert find_columns(talks).task == "conversation" and find_columns(talks).inputs == ["messages"]
    pairs = Dataset.from_dict({"prompt": ["good"], "completion": ["film"]})
    assert find_columns(pairs).task == "prompt-completion" and find_columns(pairs).label == "completion"
    pairs = Dataset.from_dict({"text": ["good"], "target": ["film"]})
    assert find_columns(pairs).task == "text2text-generation" and find_columns(pairs).inputs == ["text"]


SHAPES = {
    "ShareGPT": {"conversations": [[{"from": "human", "value": "hi"}, {"from": "gpt", "value": "a film"}]] * 4},
    "Alpaca": {"instruction": ["rate"] * 4, "input": ["a film", ""] * 2, "output": ["good"] * 4},
    "WMT": {"id": ["1"] * 4, "translation": [{"de": "ein Film", "en": "a film"}] * 4},
}


@pytest.mark.parametrize(
    ("shape", "task", "first"),
    [
        ("ShareGPT", "conversation", [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a film"}]),
        ("Alpaca", "prompt-completion", "rate\n\na film\n\n"),
        ("WMT", "text2text-generation", "ein Film"),
    ],
)
def test_two_lines_turn_data_of_other_shapes(shape, task, first, tmp_path, monkeypatch):
    dataset = Dataset.from_dict(SHAPES[shape])
    with pytest.raises(ValueError, match=shape) as refused:
        find_columns(dataset)
    monkeypatch.chdir(tmp_path)
    told = {"dataset": dataset}
    exec(" ".join(str(refused.value).partition("--dataset: ")[2].split()), told)  # as the command line prints it
    made = load_split("data.jsonl")
    columns = find_columns(made)
    assert (columns.task, made[columns.inputs[0]][0]) == (task, first) and made.features == told["dataset"].features
    with pytest.raises(ValueError, match=f"Column .* not texts: .*{shape}|input_columns.*{shape}"):
        open_parts(
            {"data": dataset}, task="text-generation", inputs=None if shape == "Alpaca" else [[*dataset.features][-1]]
        )


def test_the_plan_says_how_data_are_read(text_model_folder, tmp_path, capsys):
    Dataset.from_dict(SHAPES["Alpaca"]).to_json(tmp_path / "alpaca.jsonl")
    with pytest.raises(SystemExit):
        main(["plan", str(text_model_folder), "--dataset", str(tmp_path / "alpaca.jsonl")])
    assert "shape of Alpaca" in capsys.readouterr().err
    Dataset.from_dict({"text": TEXTS, "label": [0, 1] * 16}).to_json(tmp_path / "data.jsonl")
    main(["plan", str(text_model_folder), "--dataset", str(tmp_path / "data.jsonl")])
    assert "Data: 32 rows, read for text-classification: inputs text, answers label." in capsys.readouterr().out


@pytest.mark.parametrize(
    "names",
    [("premise", "hypothesis"), ("sentence1", "sentence2"), ("question", "sentence"), ("question1", "question2")],
)
def test_pairs_are_known_by_name(names):
    rows = {"idx": [0, 1], "note": ["x", "y"], names[1]: ["a", "b"], names[0]: ["c", "d"], "label": [0, 1]}
    assert find_columns(Dataset.from_dict(rows)).inputs == list(names)
    assert find_columns(Dataset.from_dict(rows), inputs=["note"]).inputs == ["note"]


def test_whole_numbers_with_gaps_are_classes_and_fractions_are_none():
    gaps = Dataset.from_dict({"text": ["a", "b", "c"], "label": [1.0, None, 0.0]})
    assert find_columns(gaps.select([0, 2]).cast_column("label", Value("int64"))).task == "text-classification"
    with pytest.raises(ValueError, match="one class an example is expected"):
        find_columns(gaps)  # integers once drop_incomplete has dropped the row
    assert find_columns(Dataset.from_dict({"text": ["a", "b"], "label": [0.5, 1.0]})).task == "text-regression"


CASES = {
    "multi-label-classification": (topics, AutoModelForSequenceClassification, "f1", "text-classification"),
    "text-regression": (rated, AutoModelForSequenceClassification, "rmse", "text-classification"),
    "token-classification": (tagged, AutoModelForTokenClassification, "macro_f1", "token-classification"),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.further_slow
def test_from_rows_to_loadable_weights(name, text_model_folder, tmp_path):
    make, auto, score, hub_name = CASES[name]
    data = make()
    result = enrich_pretrained(
        str(text_model_folder), data.select(range(24)), tmp_path / "run", eval_dataset=data.select(range(24, 32)), **RUN
    )
    assert np.isfinite(result.metrics["x2"][f"eval_{score}"])
    record = result.trajectory.record
    assert record.model["task"] == name
    model = auto.from_pretrained(result.checkpoints["x2"])
    names = ["score"] if name == "text-regression" else find_columns(data).class_names
    assert list(model.config.id2label.values()) == names
    assert f"pipeline_tag: {hub_name}\n" in (result.checkpoints["x2"] / "README.md").read_text()
    # A trained head is kept, whatever the order of the data's classes.
    again = load_model(result.checkpoints["x2"], name, names[::-1])
    assert not again.new_head and again.class_names == names


def test_marks_and_words_of_several_classes_are_the_same(text_model_folder):
    data = topics()
    columns = find_columns(data)
    model = load_model(text_model_folder, columns.task, columns.class_names).model
    named = make_preprocessing(model, text_model_folder, columns)
    rows = named.apply(data)
    assert rows[:3]["labels"] == [[0, 0], [1, 1], [0, 1]], "negated, praise"
    batch = named.collator([rows[i] for i in range(3)])
    assert batch["labels"].dtype == torch.float32 and model(**batch).loss > 0
    marked = data.map(lambda row: {"labels": [float(name in row["labels"]) for name in columns.class_names]},
                      features=Features({"text": Value("string"), "labels": List(Value("float32"))}))  # fmt: skip
    columns = find_columns(marked)
    assert columns.class_names == ["0", "1"]
    assert make_preprocessing(model, text_model_folder, columns).apply(marked)[:]["labels"] == rows[:]["labels"]
    unknown = Dataset.from_dict({"text": ["a", "b"], "labels": [["praise"], ["praise", "other"]]})
    with pytest.raises(ValueError, match="row 1 holds 'other', which is no known class. Known classes: negated, pra"):
        check_part(unknown, find_columns(data), 2, "evaluation data")
    half = Dataset.from_dict({"text": ["a"], "labels": [[0.5, 1.0]]})
    with pytest.raises(ValueError, match="holds 0.5; a mark for a class is 0 or 1"):
        check_part(half, find_columns(marked), 2, "evaluation data")


def test_scores_of_several_classes_numbers_and_words():
    from sklearn.metrics import f1_score
    from transformers import EvalPrediction

    random = np.random.default_rng(0)
    found, marks = random.integers(0, 2, (2, 40, 3))
    scores = get_task("multi-label-classification").metrics(3)(EvalPrediction(found, marks))
    assert scores["f1"] == pytest.approx(f1_score(marks, found, average="micro"))
    assert scores["exact_match"] == pytest.approx((found == marks).all(1).mean())
    found, labels = random.normal(size=(2, 40))
    scores = get_task("text-regression").metrics(1)(EvalPrediction(found[:, None], labels))
    assert scores["rmse"] == pytest.approx(np.sqrt(((found - labels) ** 2).mean()))
    assert scores["pearson"] == pytest.approx(np.corrcoef(found, labels)[0, 1])
    found, labels = random.integers(0, 3, (2, 10, 6))
    labels[:, 4:] = -100
    scores = get_task("token-classification").metrics(3)(EvalPrediction(found, labels))
    counted = labels >= 0
    assert scores["macro_f1"] == pytest.approx(f1_score(labels[counted], found[counted], average="macro"))
    assert scores["token_accuracy"] == pytest.approx((labels == found)[counted].mean())
    keep = get_task("multi-label-classification").keep(torch.tensor([[-1.0, 2.0]]), None)
    assert keep.tolist() == [[0, 1]]


def test_a_word_s_class_is_at_its_first_token(text_model_folder):
    data = tagged().select(range(2))
    columns = find_columns(data)
    model = load_model(text_model_folder, columns.task, columns.class_names).model
    made = make_preprocessing(model, text_model_folder, columns, max_length=3)
    assert made.apply(data)[:]["labels"] == [[0, 1, 2], [0, 0, 1]]
    short = Dataset.from_dict({"tokens": [["a", "film"]], "ner_tags": [[0]]}, features=data.features)
    with pytest.raises(ValueError, match="row 0 has 2 words in column 'tokens' and 1 classes in 'ner_tags'"):
        make_preprocessing(model, text_model_folder, columns).apply(short)


def test_rows_with_more_words_than_classes_are_named_before_the_model_is_loaded(tmp_path):
    rows = tagged().to_dict()
    rows["ner_tags"][5], rows["ner_tags"][7] = rows["ner_tags"][5][1:], [*rows["ner_tags"][7], 0]
    data = Dataset.from_dict(rows, features=tagged().features)
    told = "training data have .* in 2 of 32 rows: row 5 has 4 words in column 'tokens' and 3 classes in 'ner_tags'"
    with pytest.raises(ValueError, match=told):
        enrich_pretrained("no-model", data, tmp_path / "run", **RUN)
    with pytest.raises(ValueError, match="evaluation data .* row 5 has 4 words"):
        check_part(data, find_columns(data), 3, "evaluation data")
    marks = Dataset.from_dict({"text": ["a", "b", "c"], "labels": [[1.0, 0.0], [0.0, 1.0], [1.0]]})
    with pytest.raises(ValueError, match="'labels' has marks for 2 classes in row 0 and for 1 in row 2"):
        find_columns(marks)


def test_numbers_that_are_none_are_refused(text_model_folder, tmp_path):
    rows = Dataset.from_dict({"text": TEXTS[:8], "label": [0.5, float("inf"), *[1.0] * 6]})
    with pytest.raises(ValueError, match="Label column 'label' of the training data holds inf in row 1"):
        make_trainer(str(text_model_folder), rows, tmp_path / "run", **{**QUICK, "num_stages": 2})


def test_texts_to_write(chat_tokenizer, tmp_path):
    set_seed(0)
    T5ForConditionalGeneration(T5Config(
        vocab_size=len(chat_tokenizer), d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=2,
    )).save_pretrained(tmp_path / "t5")  # fmt: skip
    chat_tokenizer.save_pretrained(tmp_path / "t5")
    rows = [{"text": text, "target": "yes" if "good" in text else "no"} for text in TEXTS]
    for name, part in (("train", rows[:24]), ("test", rows[24:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    main([
        "enrich", "--model", str(tmp_path / "t5"), "--dataset", str(tmp_path / "train.jsonl"), "--eval_dataset",
        str(tmp_path / "test.jsonl"), "--output-dir", str(tmp_path / "run"), "--choose", "none", "--num_stages", "2",
        "--max_steps", "2", "--report_to", "none", "--disable_tqdm", "true",
    ])  # fmt: skip
    record = json.loads((tmp_path / "run" / "trajectory.json").read_text())
    assert record["model"]["task"] == "text2text-generation"
    assert 0 <= record["stages"][0]["metrics"]["eval_masked_accuracy"] <= 1
    T5ForConditionalGeneration.from_pretrained(tmp_path / "run/enriched/x2")


def test_conversations_go_through_the_template(chat_tokenizer, writer_folder, tmp_path):
    data = Dataset.from_list([
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "yes"}]} for text in TEXTS
    ])  # fmt: skip
    model = GPT2LMHeadModel.from_pretrained(writer_folder)
    rows = make_preprocessing(model, writer_folder, find_columns(data)).apply(data)
    whole = chat_tokenizer("user a bad film [EOS] assistant yes [EOS]")["input_ids"]
    assert rows[0] == {"input_ids": whole, "attention_mask": [1] * len(whole), "labels": whole}
    result = enrich_pretrained(str(writer_folder), data, tmp_path / "run", eval_dataset=data.select(range(8)), **RUN)
    assert result.metrics["x2"]["eval_perplexity"] > 1
    assert AutoTokenizer.from_pretrained(result.checkpoints["x2"]).chat_template == chat_tokenizer.chat_template
    assert "pipeline_tag: text-generation" in (result.checkpoints["x2"] / "README.md").read_text()
    bare = AutoTokenizer.from_pretrained(writer_folder)
    bare.chat_template = None
    with pytest.raises(ValueError, match="has no chat template to write them with"):
        make_preprocessing(model, None, find_columns(data), processing_class=bare)


def test_only_completions_count(chat_tokenizer, writer_folder, tmp_path):
    model = GPT2LMHeadModel.from_pretrained(writer_folder)
    plain = Dataset.from_list([{"prompt": f"{text} ", "completion": "very good"} for text in TEXTS])
    made = make_preprocessing(model, writer_folder, find_columns(plain))
    row = made.apply(plain)[0]
    assert row["input_ids"] == chat_tokenizer("a bad film very good [EOS]")["input_ids"]
    assert row["labels"] == [-100] * 3 + chat_tokenizer("very good [EOS]")["input_ids"]
    talks = Dataset.from_list([
        {"prompt": [{"role": "user", "content": text}], "completion": [{"role": "assistant", "content": "no"}]}
        for text in TEXTS
    ])  # fmt: skip
    row = make_preprocessing(model, writer_folder, find_columns(talks)).apply(talks)[0]
    assert row["labels"] == [-100] * 6 + chat_tokenizer("no [EOS]")["input_ids"]
    with pytest.raises(ValueError, match="prompt of row 0 has 3 tokens.*within 3: raise max_length"):
        make_preprocessing(model, writer_folder, find_columns(plain), max_length=3).apply(plain)
    result = enrich_pretrained(str(writer_folder), plain, tmp_path / "run", eval_dataset=plain, **RUN)
    assert result.metrics["x2"]["eval_perplexity"] > 1 and "prompt-completion" in TASKS


@pytest.mark.parametrize(
    "labels, marks",
    [
        ([[1, 0], [0, 0], [0, 1]], True),
        ([[1, 0, 1], [0, 1, 0]], True),
        ([[0, 1], [1, 0]], False),  # may be classes, in whatever order
        ([[0], [1], [0, 1]], False),
        ([[2, 0], [0, 0]], False),
    ],
)
def test_whole_numbers_are_marks_where_they_can_be_nothing_else(labels, marks):
    data = Dataset.from_dict({"text": ["a"] * len(labels), "labels": labels})
    assert holds_marks(data, "labels") is marks


def test_marks_in_whole_numbers_are_trained_on(tmp_path, text_model_folder):
    rows = {"text": ["a good film", "a bad film"] * 8, "labels": [[1, 0, 1], [0, 1, 1]] * 8}
    result = enrich_pretrained(
        text_model_folder,
        Dataset.from_dict(rows),
        tmp_path / "run",
        choose="none",
        steps=1,
        **{**QUICK, "max_steps": 1},
    )
    assert result.trajectory.record.model["task"] == "multi-label-classification"


@pytest.mark.parametrize(
    "messages",
    [[], None, [{"role": "user", "content": "a film"}, {"role": "assistant", "content": None}]],
    ids=["no messages", "none", "nothing said"],
)
def test_a_conversation_in_which_nothing_is_said_is_a_gap(messages):
    whole = [{"role": "user", "content": "a film"}, {"role": "assistant", "content": "good"}]
    data = Dataset.from_list([{"messages": whole}, {"messages": messages}, {"messages": whole}])
    with pytest.raises(ValueError, match="training data miss 'messages' in 1 of 3 rows, the first is row 1"):
        open_parts({"training data": data})
    found, _ = open_parts({"training data": data}, drop_incomplete=True)
    assert [row["messages"] for row in found["training data"]] == [whole, whole]
