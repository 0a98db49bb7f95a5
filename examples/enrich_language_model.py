"""Enriched weights of a causal language model from a text file, with the perplexity of every stage and step.

    accelerate launch examples/enrich_language_model.py --text input.txt --output_dir runs/text

By default a small GPT-2 that reads characters, from scratch (its first training is stage 0); with --model any causal
language model of the Hub and its tokenizer. The last tenth of the text is for scoring. Every field of
ForgettingArguments is a flag.
"""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    HfArgumentParser,
    default_data_collator,
    set_seed,
)

from know_hf import ForgettingArguments, enrich_pretrained
from know_hf.report import table


@dataclass
class ExampleArguments:
    """What to enrich, and with which text."""

    text: str = field(metadata={"help": "A text file in UTF-8."})
    model: str | None = field(default=None, metadata={"help": "Hub id or folder; default: a small GPT-2 from scratch."})
    block: int = field(default=128, metadata={"help": "Tokens of an example."})
    layers: int = field(default=4, metadata={"help": "Of the small GPT-2."})
    width: int = field(default=128, metadata={"help": "Of the small GPT-2."})
    characters: int | None = field(default=None, metadata={"help": "Read only so many; default: all."})
    steps: int = field(default=3, metadata={"help": "Number of steps; 3 gives x2, x4 and x8 at r = 0.5."})
    push: str | None = field(default=None, metadata={"help": "Hub repository for the steps, as its revisions."})


def prepare(example: ExampleArguments, seed: int):
    """Model, its tokenizer (None: characters) and the tokens of the whole text."""
    text = Path(example.text).read_text(encoding="utf-8")[: example.characters]
    set_seed(seed)
    if example.model is not None:
        tokenizer = AutoTokenizer.from_pretrained(example.model)
        model = AutoModelForCausalLM.from_pretrained(example.model, dtype=torch.float32)
        return model, tokenizer, tokenizer(text, verbose=False)["input_ids"]
    alphabet = {character: i for i, character in enumerate(sorted(set(text)))}
    sizes = {"n_positions": example.block, "n_embd": example.width, "n_layer": example.layers, "n_head": 4}
    config = GPT2Config(vocab_size=len(alphabet), bos_token_id=0, eos_token_id=0, **sizes)
    return GPT2LMHeadModel(config), None, [alphabet[character] for character in text]


def blocks(tokens: list[int], size: int) -> Dataset:
    """Cuts tokens into examples of equal length; each predicts its own next tokens."""
    rows = [tokens[at : at + size] for at in range(0, len(tokens) - size + 1, size)]
    return Dataset.from_dict({"input_ids": rows, "labels": rows})


def main(arguments: list[str] | None = None):
    parser = HfArgumentParser((ExampleArguments, ForgettingArguments))
    parser.set_defaults(
        output_dir="runs/language", num_train_epochs=5, per_device_train_batch_size=16, learning_rate=1e-3,
        lr_scheduler_type="cosine", save_total_limit=1, self_check=True, prediction_loss_only=True,
        use_cpu=os.environ.get("ACCELERATE_USE_CPU") in ("1", "true"), ddp_find_unused_parameters=False,
    )  # fmt: skip
    example, args = parser.parse_args_into_dataclasses(arguments)
    model, tokenizer, tokens = prepare(example, args.seed)
    if example.model is None and args.train_stage_zero is None:
        args.train_stage_zero = True
    held_out = len(tokens) // 10
    result = enrich_pretrained(
        model, blocks(tokens[:-held_out], example.block), eval_dataset=blocks(tokens[-held_out:], example.block),
        args=args, steps=example.steps, data_collator=default_data_collator, processing_class=tokenizer,
        push_to_hub=example.push,
    )  # fmt: skip
    if args.process_index == 0:
        stages = {f"stage {s.index}": s.metrics for s in result.trajectory.record.stages}
        steps = {name: scores for name, scores in result.metrics.items() if name != "stage-0"}
        rows = [
            [name, f"{m['eval_loss']:.4f}", f"{math.exp(m['eval_loss']):.2f}"] for name, m in (stages | steps).items()
        ]
        print(table([["weights", "loss", "perplexity"], *rows]))
    return result


if __name__ == "__main__":
    main()
