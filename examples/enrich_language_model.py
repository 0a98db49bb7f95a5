"""Enriched weights of a causal language model from a text file, with the perplexity of every stage and step.

    python examples/enrich_language_model.py
    accelerate launch examples/enrich_language_model.py --text input.txt --output_dir runs/text

By default a small GPT-2 that reads characters, from scratch (its first training is stage 0); with --model any causal
language model of the Hub and its tokenizer. Without --text it reads this project's licence, in about two minutes on
two cores: enough to see the job, not to learn English. The last tenth of the text's lines is for scoring. Every field
of ForgettingArguments is a flag.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from make_data import lines
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    HfArgumentParser,
    PreTrainedTokenizerFast,
    set_seed,
)

from know_hf import ForgettingArguments, enrich_pretrained
from know_hf.report import report_markdown

LICENCE = Path(__file__).parents[1] / "LICENSE"


@dataclass
class ExampleArguments:
    """What to enrich, and with which text."""

    text: str = field(default=str(LICENCE), metadata={"help": "A text file in UTF-8; default: this project's licence."})
    model: str | None = field(default=None, metadata={"help": "Hub id or folder; default: a small GPT-2 from scratch."})
    block: int = field(default=128, metadata={"help": "Tokens of an example."})
    layers: int = field(default=4, metadata={"help": "Of the small GPT-2."})
    width: int = field(default=128, metadata={"help": "Of the small GPT-2."})
    lines: int | None = field(default=None, metadata={"help": "Read only so many training lines; default: all."})
    steps: int = field(default=3, metadata={"help": "Number of steps; 3 gives x2, x4 and x8 at r = 0.5."})


def reader_of_characters(text: str, block: int) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are the characters that occur."""
    alphabet = {token: i for i, token in enumerate(["[UNK]", *sorted({*text, "\n"})])}
    tokenizer = Tokenizer(models.WordLevel(alphabet, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", model_max_length=block)


def main(arguments: list[str] | None = None):
    parser = HfArgumentParser((ExampleArguments, ForgettingArguments))
    parser.set_defaults(
        output_dir="runs/language", num_train_epochs=3, per_device_train_batch_size=16, learning_rate=1e-3,
        lr_scheduler_type="cosine", save_total_limit=1, self_check=True, ddp_find_unused_parameters=False,
        use_cpu=os.environ.get("ACCELERATE_USE_CPU") in ("1", "true"),
    )  # fmt: skip
    example, args = parser.parse_args_into_dataclasses(arguments)
    train, test = (lines(example.text, split) for split in ("train", "test"))
    if example.lines is not None:
        train = train.select(range(example.lines))
    set_seed(args.seed)
    if example.model is None:
        tokenizer = reader_of_characters(Path(example.text).read_text(encoding="utf-8"), example.block)
        sizes = {"n_positions": example.block, "n_embd": example.width, "n_layer": example.layers, "n_head": 4}
        # No token ends a text: line breaks are characters like others.
        model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=None, **sizes))
        if args.train_stage_zero is None:
            args.train_stage_zero = True
    else:
        tokenizer = AutoTokenizer.from_pretrained(example.model)
        model = AutoModelForCausalLM.from_pretrained(example.model, dtype=torch.float32)
    result = enrich_pretrained(
        model, train, eval_dataset=test, args=args, steps=example.steps, task="text-generation",
        max_length=example.block, processing_class=tokenizer,
        push_to_hub=args.hub_model_id is not None, hub_model_id=args.hub_model_id,
    )  # fmt: skip
    if args.process_index == 0:
        print(report_markdown(result))
    return result


if __name__ == "__main__":
    main()
