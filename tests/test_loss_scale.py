"""A loss counts once, however many batches are accumulated, also of models that do not heed the number of items."""

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, set_seed

from know_hf import ForgettingArguments, ForgettingTrainer

TEXTS = {"input_ids": [[2, 4 + i % 2, 6, 7 + i % 3, 3] for i in range(32)]}


def make(model, data, folder, batch: int, accumulated: int) -> ForgettingTrainer:
    settings = ForgettingArguments(
        str(folder), num_stages=2, train_stage_zero=True, num_train_epochs=1, per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulated, optim="sgd", learning_rate=0.1, max_grad_norm=0, use_cpu=True,
        disable_tqdm=True, save_strategy="no", logging_strategy="no", report_to=[],
    )  # fmt: skip
    return ForgettingTrainer(model=model, args=settings, train_dataset=data)


@pytest.mark.parametrize("kind", ["classifier", "writer"])
def test_accumulated_batches_are_one(tmp_path, text_model_folder, writer_folder, kind):
    loader, folder, labels = {  # BERT's classifier swallows the number of items, GPT-2 divides by it
        "classifier": (AutoModelForSequenceClassification, text_model_folder, [i % 2 for i in range(32)]),
        "writer": (AutoModelForCausalLM, writer_folder, TEXTS["input_ids"]),
    }[kind]
    data = Dataset.from_dict({**TEXTS, "labels": labels})
    ended = []
    for batch, accumulated in ((16, 1), (4, 4)):
        set_seed(0)
        model = loader.from_pretrained(folder).eval()
        for part in model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0  # what would be dropped differs between the two
        trainer = make(model, data, tmp_path / str(batch), batch, accumulated)
        trainer.train()
        ended.append({name: value.clone() for name, value in trainer.model.state_dict().items()})
    assert all(torch.allclose(ended[0][name], value, rtol=0, atol=1e-6) for name, value in ended[1].items())
    assert trainer.model_accepts_loss_kwargs == (kind == "writer")
