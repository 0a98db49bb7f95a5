"""Trainers of the libraries beside this one forget as well: TRL's, and those of sentence-transformers."""

from dataclasses import dataclass

import numpy as np
import pytest
from datasets import Dataset
from test_neighbours import SMALL
from transformers import TrainerCallback

from know_hf import ForgettingMixin, ForgettingSettings, enrich_trained


def forgetting(settings: type) -> type:
    """Another library's arguments with the fields of forgetting; a class that can be pickled beside checkpoints."""
    made = dataclass(type(f"Forgetting{settings.__name__}", (ForgettingSettings, settings), {"__module__": __name__}))
    globals()[made.__name__] = made
    return made


CHOICES = {"film a": ("yes", "no"), "very good": ("good yes", "bad")}


def small_texts(count: int = 16) -> Dataset:
    return Dataset.from_list([
        {"prompt": f"{prompt} ", "chosen": chosen, "rejected": rejected}
        for prompt, (chosen, rejected) in list(CHOICES.items()) * (count // 2)
    ])  # fmt: skip


@pytest.mark.slow
def test_rewards_are_forgotten_as_well(tmp_path, writer_folder):
    trl = pytest.importorskip("trl")
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    class Forgetting(ForgettingMixin, trl.RewardTrainer):
        pass

    model = AutoModelForSequenceClassification.from_pretrained(writer_folder, num_labels=1)
    trainer = Forgetting(
        model=model, args=forgetting(trl.RewardConfig)(str(tmp_path), bf16=False, use_cpu=True, **SMALL),
        train_dataset=small_texts(), processing_class=AutoTokenizer.from_pretrained(writer_folder),
    )  # fmt: skip
    trainer.train()
    made = enrich_trained(trainer, steps=1, choose="none", method="mean").checkpoints["x2"]
    assert AutoModelForSequenceClassification.from_pretrained(made).config.num_labels == 1


@pytest.mark.slow
def test_groups_of_answers_are_rewarded(tmp_path, writer_folder):
    trl = pytest.importorskip("trl")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    class Forgetting(ForgettingMixin, trl.GRPOTrainer):
        pass

    def length(completions, **_):
        return [float(len(one)) for one in completions]

    settings = {**SMALL, "per_device_train_batch_size": 4, "per_device_eval_batch_size": 4}
    settings |= {"bf16": False, "use_cpu": True, "num_generations": 2, "max_completion_length": 4}
    trainer = Forgetting(
        model=AutoModelForCausalLM.from_pretrained(writer_folder), reward_funcs=length,
        args=forgetting(trl.GRPOConfig)(str(tmp_path), **settings),
        train_dataset=small_texts().select_columns("prompt"),
        processing_class=AutoTokenizer.from_pretrained(writer_folder),
    )  # fmt: skip
    trainer.train()
    made = enrich_trained(trainer, steps=1, choose="none", method="mean").checkpoints["x2"]
    assert AutoModelForCausalLM.from_pretrained(made).num_parameters() > 0


@pytest.mark.slow
def test_cross_encoders_and_evaluators(tmp_path, text_model_folder):
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
    from sentence_transformers.sentence_transformer.evaluation import SentenceEvaluator

    class Forgetting(ForgettingMixin, CrossEncoderTrainer):
        pass

    class Share(SentenceEvaluator):
        """The mean score of one pair."""

        def __call__(self, model, output_path=None, epoch=-1, steps=-1):
            return {"mean_score": float(np.mean(model.predict([("a good film", "good")])))}

    model = CrossEncoder(str(text_model_folder), num_labels=1, device="cpu")
    pairs = Dataset.from_dict(
        {"one": ["a good film", "a bad film"] * 8, "other": ["good"] * 16, "label": [1.0, 0.0] * 8}
    )
    trainer = Forgetting(
        model=model, args=forgetting(CrossEncoderTrainingArguments)(str(tmp_path), use_cpu=True, **SMALL),
        train_dataset=pairs, eval_dataset=pairs.select(range(4)), loss=BinaryCrossEntropyLoss(model), evaluator=Share(),
    )  # fmt: skip
    trainer.train()
    result = enrich_trained(trainer, steps=1, choose="none", method="mean")
    assert all("eval_mean_score" in stage.metrics for stage in trainer.trajectory.record.stages)
    assert "eval_mean_score" in result.metrics["x2"]
    card = (result.checkpoints["x2"] / "README.md").read_text()
    assert "pipeline_tag: text-ranking" in card
    found = CrossEncoder(str(result.checkpoints["x2"]), device="cpu").predict([("a good film", "good")])
    assert abs(float(found[0]) - result.metrics["x2"]["eval_mean_score"]) < 1e-5


@pytest.mark.slow
def test_packed_texts_keep_their_length(tmp_path, writer_folder):
    trl = pytest.importorskip("trl")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    class Forgetting(ForgettingMixin, trl.SFTTrainer):
        pass

    settings = {
        **SMALL,
        "bf16": False,
        "use_cpu": True,
        "packing": True,
        "packing_strategy": "wrapped",
        "max_length": 8,
    }
    trainer = Forgetting(
        model=AutoModelForCausalLM.from_pretrained(writer_folder),
        args=forgetting(trl.SFTConfig)(str(tmp_path), **settings),
        train_dataset=Dataset.from_dict({"text": ["a good film", "very bad film yes"] * 32}),
        processing_class=AutoTokenizer.from_pretrained(writer_folder),
    )
    lengths = []

    class Watch(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            lengths.append([len(trainer.train_dataset[i]["input_ids"]) for i in range(len(trainer.train_dataset))])

    trainer.add_callback(Watch())
    trainer.train()
    counts = [stage.examples for stage in trainer.trajectory.record.stages]
    assert counts[0] < 64 and counts[1] == counts[0] // 2, "packed rows are what is halved"
    assert all(length == 8 for row in lengths for length in row[:-1])


@pytest.mark.slow
def test_only_the_assistant_s_turns_count(tmp_path, writer_folder):
    trl = pytest.importorskip("trl")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    class Forgetting(ForgettingMixin, trl.SFTTrainer):
        pass

    tokenizer = AutoTokenizer.from_pretrained(writer_folder)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }} {% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }} "
        "{% endgeneration %}{% else %}{{ m['content'] }} {% endif %}{% endfor %}"
    )
    turns = [{"role": "user", "content": "a good film"}, {"role": "assistant", "content": "yes very"}] * 2
    settings = {**SMALL, "bf16": False, "use_cpu": True, "assistant_only_loss": True}
    trainer = Forgetting(
        model=AutoModelForCausalLM.from_pretrained(writer_folder),
        args=forgetting(trl.SFTConfig)(str(tmp_path), **settings),
        train_dataset=Dataset.from_list([{"messages": turns}] * 32), processing_class=tokenizer,
    )  # fmt: skip
    counted = []
    step = trainer.training_step

    def watched(model, inputs, *args, **kwargs):
        counted.append(tokenizer.decode(inputs["labels"][0][inputs["labels"][0] >= 0]))
        return step(model, inputs, *args, **kwargs)

    trainer.training_step = watched
    trainer.train()
    assert len(counted) == 3 and set(counted) == {"yes very yes very"}
    made = enrich_trained(trainer, steps=1, choose="none", method="mean").checkpoints["x2"]
    assert "generation" in AutoTokenizer.from_pretrained(made).chat_template
