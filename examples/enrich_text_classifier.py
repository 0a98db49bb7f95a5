"""Enriched weights of a text classifier, all of them or a LoRA adapter, from a few labelled sentences.

    python examples/enrich_text_classifier.py [--lora_rank 8]
    accelerate launch examples/enrich_text_classifier.py --model sentence-transformers/all-MiniLM-L6-v2 \\
        --dataset stanfordnlp/sst2 --examples 1000 --output_dir runs/sst2 [--lora_rank 8]

Without --dataset it shows the job in about a minute on two cores: a tiny BERT from scratch learns which of this
project's texts a line is of. With --lora_rank only the adapter and the head are trained, stored, predicted and pushed
(needs peft). Every field of ForgettingArguments is a flag.
"""

import os
import sys
from dataclasses import dataclass, field

from accelerate import PartialState
from make_data import own_texts
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    HfArgumentParser,
    set_seed,
)

from know_hf import ForgettingArguments, enrich_pretrained
from know_hf.report import report_markdown
from know_hf.tasks import find_columns
from know_hf.tasks.words import word_tokenizer
from know_hf.training.data import load_split

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


@dataclass
class ExampleArguments:
    """What to enrich, and with which data."""

    model: str | None = field(
        default=None, metadata={"help": "Hub id or folder; default: all-MiniLM-L6-v2, of the small data a tiny BERT."}
    )
    dataset: str | None = field(default=None, metadata={"help": "Hub id or folder; default: lines of these texts."})
    train_split: str = field(default="train", metadata={"help": "Split to forget on."})
    eval_split: str = field(default="validation", metadata={"help": "Split to score every stage on."})
    examples: int | None = field(default=None, metadata={"help": "Take so many training examples; default: all."})
    max_length: int = field(default=128, metadata={"help": "Longest text in tokens."})
    lora_rank: int | None = field(default=None, metadata={"help": "Train a LoRA adapter of this rank instead."})
    lora_targets: list[str] = field(default_factory=lambda: ["query", "value"], metadata={"help": "Layers it adapts."})
    steps: int = field(default=3, metadata={"help": "Number of steps; 3 gives x2, x4 and x8 at r = 0.5."})


def adapted(example: ExampleArguments, class_names: list[str], seed: int):
    """The model with a new head and a LoRA adapter."""
    set_seed(seed)
    base = AutoModelForSequenceClassification.from_pretrained(example.model or MINILM, num_labels=len(class_names))
    return with_adapter(base, example)


def with_adapter(base, example: ExampleArguments):
    """A model with a LoRA adapter."""
    from peft import LoraConfig, get_peft_model

    rank = example.lora_rank
    config = LoraConfig(task_type="SEQ_CLS", r=rank, lora_alpha=2 * rank, target_modules=example.lora_targets)
    return get_peft_model(base, config)


def tiny(data, seed: int):
    """A small BERT with initial values, and a tokenizer of the words that occur."""
    set_seed(seed)
    tokenizer, names = word_tokenizer(data["text"], longest=48), data.features["label"].names
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=64, pad_token_id=tokenizer.pad_token_id, num_labels=len(names),
        id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)},
    )  # fmt: skip
    return BertForSequenceClassification(config), tokenizer


def main(arguments: list[str] | None = None):
    parser = HfArgumentParser((ExampleArguments, ForgettingArguments))
    parser.set_defaults(
        output_dir="runs/text", num_train_epochs=3, per_device_train_batch_size=16, save_total_limit=1,
        self_check=True, ddp_find_unused_parameters=False,
        use_cpu=os.environ.get("ACCELERATE_USE_CPU") in ("1", "true"),
    )  # fmt: skip
    given = sys.argv[1:] if arguments is None else arguments
    if not {"--dataset", "--model"} & {word.partition("=")[0] for word in given}:
        parser.set_defaults(num_train_epochs=10, learning_rate=1e-3, train_stage_zero=True)  # it begins from nothing
    example, args = parser.parse_args_into_dataclasses(arguments)
    if example.dataset is None:
        train, test = own_texts("train"), own_texts("test")
    else:
        with PartialState().main_process_first():
            train, test = (load_split(example.dataset, split) for split in (example.train_split, example.eval_split))
    if example.examples is not None:
        train = train.shuffle(seed=args.seed).select(range(example.examples))
    model, tokenizer = example.model or MINILM, None
    if example.model is None and example.dataset is None:
        model, tokenizer = tiny(train, args.seed)
        model = model if example.lora_rank is None else with_adapter(model, example)
    elif example.lora_rank is not None:
        model = adapted(example, find_columns(train).class_names, args.seed)
    result = enrich_pretrained(
        model, train, eval_dataset=test, args=args, steps=example.steps, max_length=example.max_length,
        processing_class=tokenizer,
        push_to_hub=args.hub_model_id is not None, hub_model_id=args.hub_model_id,
    )  # fmt: skip
    if args.process_index == 0:
        print(report_markdown(result))
    return result


if __name__ == "__main__":
    main()
