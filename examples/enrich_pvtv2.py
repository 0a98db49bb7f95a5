"""Enriched ImageNet weights of a PVTv2 (or any other image classifier) from any image data set on the Hub or disk.

    python examples/enrich_pvtv2.py
    accelerate launch examples/enrich_pvtv2.py --dataset uoft-cs/cifar100 --output_dir runs/pvtv2

Without --dataset it shows the job in a minute or two on two cores: a tiny PVTv2 from scratch on scikit-learn's digits.
Forgets with the paper's ratio for this network, r = 0.33, and predicts x3 and x9. Runs on one or many processes and
machines, as `accelerate config` says, and continues where it was stopped. --model takes other networks of timm and
transformers (microsoft/resnet-18), --shots makes it few-shot, --hub_model_id USER/NAME pushes the steps. Every field of
ForgettingArguments is a flag.
"""

import os
from dataclasses import dataclass, field

from accelerate import PartialState
from transformers import HfArgumentParser, set_seed

from know_hf import ForgettingArguments, enrich_pretrained
from know_hf.models.building import timm_from_scratch
from know_hf.quickstart import digits
from know_hf.report import report_markdown
from know_hf.tasks import find_columns
from know_hf.training.data import load_split

#: A PVTv2 for small pictures and few cores.
TINY = {"depths": (1, 1, 1, 1), "embed_dims": (16, 32, 48, 64), "num_heads": (1, 1, 2, 2)}


@dataclass
class ExampleArguments:
    """What to enrich, and with which data."""

    dataset: str | None = field(default=None, metadata={"help": "Hub id or folder; default: scikit-learn's digits."})
    model: str | None = field(
        default=None,
        metadata={"help": "Hub id or folder, timm or transformers; default: a PVTv2."},
    )
    from_scratch: bool = field(default=False, metadata={"help": "Take the architecture only."})
    image_size: int | None = field(default=None, metadata={"help": "Side in pixels; default: the model's own."})
    label_column: str | None = field(default=None, metadata={"help": "Default: found by type."})
    train_split: str = field(default="train", metadata={"help": "Split to forget on."})
    eval_split: str = field(default="test", metadata={"help": "Split to score every stage on."})
    shots: int | None = field(default=None, metadata={"help": "Take so many training images of each class only."})
    steps: int = field(default=2, metadata={"help": "Number of steps; 2 gives x3 and x9 at r = 0.33."})


def few(data, shots: int, label: str | None, seed: int):
    """So many examples of every class, drawn at random."""
    label = label or find_columns(data).label
    data, taken, counts = data.shuffle(seed=seed), [], {}
    for row, value in enumerate(data[label]):
        counts[value] = counts.get(value, 0) + 1
        if counts[value] <= shots:
            taken.append(row)
    return data.select(taken)


def main(arguments: list[str] | None = None):
    parser = HfArgumentParser((ExampleArguments, ForgettingArguments))
    parser.set_defaults(
        output_dir="runs/pvtv2", sampling_ratio=0.33, num_train_epochs=20, per_device_train_batch_size=128,
        learning_rate=4e-4, lr_scheduler_type="cosine", save_total_limit=1, self_check=True,
        use_cpu=os.environ.get("ACCELERATE_USE_CPU") in ("1", "true"), ddp_find_unused_parameters=False,
    )  # fmt: skip
    example, args = parser.parse_args_into_dataclasses(arguments)
    model = example.model or "timm/pvt_v2_b0.in1k"
    if example.dataset is None:
        halves = digits(tuple(range(10))).train_test_split(test_size=0.3, seed=0)
        train, test = halves["train"], halves["test"]
        if example.model is None:
            set_seed(args.seed)
            model = timm_from_scratch("pvt_v2_b0", image_size=32, model_args=TINY, num_labels=10)
            args.train_stage_zero = True
            args.per_device_train_batch_size = min(args.per_device_train_batch_size, 32)
    else:
        with PartialState().main_process_first():
            train, test = (load_split(example.dataset, split) for split in (example.train_split, example.eval_split))
    if example.shots is not None:
        train = few(train, example.shots, example.label_column, args.seed)
    result = enrich_pretrained(
        model, train, eval_dataset=test, args=args, steps=example.steps, from_scratch=example.from_scratch,
        image_size=example.image_size, label_column=example.label_column,
        push_to_hub=args.hub_model_id is not None, hub_model_id=args.hub_model_id,
    )  # fmt: skip
    if args.process_index == 0:
        print(report_markdown(result))
        for name, folder in result.checkpoints.items():
            print(f"{name}: AutoModelForImageClassification.from_pretrained({str(folder)!r})")
    return result


if __name__ == "__main__":
    main()
