"""Arms that read the data in another way, cannot read them, or are scored on what they learnt."""

import json
import logging
import shutil

import pytest
import torch
from conftest import tiny_image_model
from datasets import ClassLabel, Dataset, Features, Value
from transformers import AutoModelForSequenceClassification, GPT2Config, GPT2ForSequenceClassification

from know_hf.laboratory.comparison import compare
from know_hf.laboratory.fine_tuning import FineTuning
from know_hf.laboratory.options import Protocol
from know_hf.laboratory.readers import _same_answers, reader_of
from know_hf.laboratory.unseen import check_unseen
from know_hf.tasks import Columns

ONE = Protocol(0, 1, 8, 24, 16, 1, new_head=False)
TEXTS = Columns("text-classification", ["sentence"], "label", ["negative", "positive"])


def renumbered(folder, words=("good", "bad")):
    """The same classifier under a vocabulary in which two words have changed their numbers."""
    file = folder / "tokenizer.json"
    described = json.loads(file.read_text())
    vocab, (one, other) = described["model"]["vocab"], words
    places = [vocab[one], vocab[other]]
    vocab[one], vocab[other] = reversed(places)
    file.write_text(json.dumps(described))
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        weight = model.get_input_embeddings().weight
        weight[places] = weight[places[::-1]].clone()
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory, text_model_folder):
    folder = tmp_path_factory.mktemp("classifiers")
    shutil.copytree(text_model_folder, folder / "one")
    labels = {"id2label": {0: "negative", 1: "positive"}, "label2id": {"negative": 0, "positive": 1}}
    model = AutoModelForSequenceClassification.from_pretrained(folder / "one", **labels)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / 2)
    model.save_pretrained(folder / "one")
    shutil.copytree(folder / "one", folder / "renumbered")
    renumbered(folder / "renumbered")
    return folder


@pytest.fixture
def counted(monkeypatch):
    """The arms that were fine-tuned."""
    trained, run = [], FineTuning.run
    monkeypatch.setattr(FineTuning, "run", lambda job: (trained.append(job.arm), run(job)))
    return trained


def test_every_arm_reads_with_its_own_tokenizer(tmp_path, classifiers, sentences):
    arms = {"naive": classifiers / "one", "renumbered": classifiers / "renumbered"}
    result = compare(arms, sentences.select(range(48)), tmp_path / "out", test_dataset=sentences.select(range(48, 64)),
                     protocol=ONE, learning_rates=(1e-4,), seeds=2)  # fmt: skip
    assert result.best("renumbered") == result.best("naive")
    for seed in range(2):
        curves = [result.fine_tunings[arm, 1e-4, seed]["curve"] for arm in arms]
        assert curves[0] == curves[1]


def test_the_same_weights_with_another_tokenizer_are_another_start(tmp_path, classifiers, sentences, counted):
    shutil.copytree(classifiers / "one", tmp_path / "other")
    shutil.copy(classifiers / "renumbered" / "tokenizer.json", tmp_path / "other")
    arms = {"naive": classifiers / "one", "again": classifiers / "one", "other": tmp_path / "other"}
    compare(arms, sentences.select(range(48)), tmp_path / "out", test_dataset=sentences.select(range(48, 64)),
            protocol=ONE, learning_rates=(1e-4,), seeds=2)  # fmt: skip
    assert sorted(counted) == ["naive", "naive", "other", "other"]


def test_without_a_tokenizer_an_arm_reads_as_the_reference(tmp_path, classifiers, sentences):
    shutil.copytree(classifiers / "one", tmp_path / "bare")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (tmp_path / "bare" / name).unlink(missing_ok=True)
    assert reader_of(tmp_path / "bare") is None
    result = compare({"naive": classifiers / "one", "bare": tmp_path / "bare"}, sentences.select(range(48)),
                     tmp_path / "out", test_dataset=sentences.select(range(48, 64)), protocol=ONE,
                     learning_rates=(1e-4,), seeds=2)  # fmt: skip
    assert result.best("bare") == result.best("naive")


def test_answers_are_the_same_however_rows_are_filled_up():
    short, long = torch.tensor([[4, 5], [6, -100]]), torch.tensor([[4, 5, -100], [6, -100, -100]])
    assert _same_answers(short, long) and not _same_answers(short, torch.tensor([[4, -100], [5, 6]]))
    assert not _same_answers(short, torch.tensor([[4, 7], [6, -100]])) and not _same_answers(short, short[:1])


def test_an_arm_that_cannot_be_used_is_named_before_anything_is_fine_tuned(tmp_path, classifiers, sentences, counted):
    tiny_image_model().save_pretrained(tmp_path / "pictures")
    unpadded = GPT2Config(vocab_size=10, n_positions=16, n_embd=8, n_layer=1, n_head=1)
    GPT2ForSequenceClassification(unpadded).save_pretrained(tmp_path / "unpadded")
    whys = {"pictures": "cannot read the data: No tokenizer", "unpadded": "padding token.*nothing has been fine-tuned"}
    for name, why in whys.items():
        with pytest.raises(ValueError, match=f"Arm '{name}' .*{why}"):
            compare({"naive": classifiers / "one", name: tmp_path / name}, sentences.select(range(48)),
                    tmp_path / "out", test_dataset=sentences.select(range(48, 64)), learning_rates=(1e-4,), seeds=2,
                    protocol=Protocol(0, 1, 8, 24, 16, 1))  # fmt: skip
    assert not counted and not (tmp_path / "out" / "transfer.json").exists()


def numbered_rows(rows):
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=["negative", "positive"])})
    made = {"sentence": [f"film {i}" for i in rows], "label": [i % 2 for i in rows]}
    return Dataset.from_dict(made, features=features)


def test_what_was_trained_on_is_no_test(tmp_path, classifiers, counted):
    with pytest.raises(ValueError, match="200 of the 200 test examples are training examples"):
        check_unseen(numbered_rows(range(300)), numbered_rows(range(200)), None, TEXTS, "mine")
    arms = {"naive": classifiers / "one", "renumbered": classifiers / "renumbered"}
    with pytest.raises(ValueError, match="The comparison: 60 of the 60 test examples .*test_split"):
        compare(arms, numbered_rows(range(60)), tmp_path / "out", test_dataset=numbered_rows(range(60)), protocol=ONE)
    assert not counted


def test_a_few_test_examples_that_were_trained_on_are_told(caplog):
    train, test = numbered_rows(range(300)), numbered_rows(range(290, 390))
    with caplog.at_level(logging.WARNING):
        (said,) = check_unseen(train, test, None, TEXTS, "mine")
    assert said == "mine: of the test examples 10 of the 100 are training examples, too." and said in caplog.text
    assert check_unseen(train, numbered_rows(range(300, 400)), None, TEXTS, "mine") == []
    (chosen,) = check_unseen(train, numbered_rows(range(300, 400)), numbered_rows(range(350, 400)), TEXTS, "mine")
    assert "50 of the 50 are test examples" in chosen
