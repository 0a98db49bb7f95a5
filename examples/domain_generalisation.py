"""Leave-one-domain-out for starts that are there: each is fine-tuned on all domains but one, and scored on that one.

    python examples/domain_generalisation.py
    python examples/domain_generalisation.py --arms naive=runs/mine/stage-0 x3=runs/mine/enriched/x3 \\
        --dataset flwrlabs/pacs --domain_column domain --output_dir runs/domains

The paper's Table 3, from the pre-training of its PVTv2 to the table, is recipes/table3.yaml. Without --arms it makes
two, a tiny ResNet that has learnt the digits 0 to 4 and what is predicted of it, and compares them briefly: about a
minute on two cores. Without --dataset it makes one: scikit-learn's handwritten digits in three renderings (see
make_data.py); real digits, made domains. The laboratory does the rest: the same seeds for every start, learning rates
chosen on held-out examples of the training domains.
"""

import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from datasets import concatenate_datasets
from make_data import domains, labelled_items
from transformers import HfArgumentParser, set_seed

from know_hf import enrich_pretrained
from know_hf.laboratory.comparison import compare
from know_hf.laboratory.protocol import Protocol
from know_hf.models.building import build_network
from know_hf.quickstart import digits
from know_hf.report import table
from know_hf.report.comparison import NO_SCORE
from know_hf.training.data import load_split
from know_hf.training.held_out import hold_out

RESNET = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}


@dataclass
class ExampleArguments:
    """What to compare, and on which domains."""

    arms: list[str] = field(
        default_factory=list, metadata={"help": "NAME=FOLDER …: the starts, naive first; default: two are made."}
    )
    dataset: str | None = field(default=None, metadata={"help": "Hub id or folder; default: digits in renderings."})
    domain_column: str = field(default="domain", metadata={"help": "Column that says which domain an example is of."})
    output_dir: str = field(default="runs/domains", metadata={"help": "Folder of the comparisons."})
    image_size: int | None = field(default=None, metadata={"help": "Side in pixels; default: the model's own."})
    learning_rates: list[float] = field(default_factory=lambda: [4e-4, 1e-3, 2.5e-3], metadata={"help": "Grid."})
    seeds: int = field(default=3, metadata={"help": "Fine-tunings of every start on every domain and rate."})
    head_epochs: float = field(default=10, metadata={"help": "Epochs with only head and norms trained."})
    epochs: float = field(default=80, metadata={"help": "Epochs with everything trained."})
    batch_size: int = field(default=32, metadata={"help": "Examples a step."})
    validation_examples: int = field(default=100, metadata={"help": "Of the training domains, to choose rates on."})
    processes: int = field(default=1, metadata={"help": "Fine-tunings side by side."})


def make_starts(folder: Path) -> dict[str, str]:
    """A network that has learnt five digits and what is predicted of its forgetting, the latter as a start, too."""
    set_seed(0)
    model = build_network(RESNET, "image-classification", [str(digit) for digit in range(5)])
    result = enrich_pretrained(
        model, digits(tuple(range(5))), str(folder), steps=1, image_size=16, train_stage_zero=True, choose="none",
        num_train_epochs=3, per_device_train_batch_size=32, learning_rate=2e-3, save_strategy="no", report_to="none",
        disable_tqdm=True,
    )  # fmt: skip
    return {"naive": str(result.trajectory.checkpoints[0].folder), "x2": str(result.checkpoints["x2"])}


def main(arguments: list[str] | None = None):
    parser = HfArgumentParser(ExampleArguments)
    if not any(word.startswith("--arms") for word in (sys.argv[1:] if arguments is None else arguments)):
        parser.set_defaults(learning_rates=[1e-3, 3e-3], seeds=2, head_epochs=1, epochs=4)
    (example,) = parser.parse_args_into_dataclasses(arguments)
    arms = dict(pair.split("=", 1) for pair in example.arms) or make_starts(Path(example.output_dir) / "starts")
    if example.dataset is None:
        halves = [labelled_items(None, split) for split in ("train", "test")]
        data = concatenate_datasets([domains(len(half[0]), half, seed) for seed, half in enumerate(halves)])
    else:
        data = load_split(example.dataset)
    protocol = Protocol(
        head_epochs=example.head_epochs, epochs=example.epochs, batch_size=example.batch_size,
        validation_examples=example.validation_examples,
    )  # fmt: skip
    results = {}
    for domain in np.unique(data[example.domain_column][:]).tolist():
        parts = hold_out({"train": data, "test": data}, {example.domain_column: domain})
        results[domain] = compare(
            arms, parts["train"], Path(example.output_dir) / domain, test_dataset=parts["test"], protocol=protocol,
            seeds=example.seeds, learning_rates=example.learning_rates, image_size=example.image_size,
            processes=example.processes,
        )  # fmt: skip

    def shown(scores: list[float]) -> str:
        return f"{statistics.mean(scores):.1f} ± {statistics.stdev(scores):.1f}"

    rows = [["start", *results, "average"]]
    for arm in arms:
        if any(arm in result.lost for result in results.values()):
            cells = [NO_SCORE if arm in result.lost else shown(result.best(arm)) for result in results.values()]
            rows.append([arm, *cells, ""])
            continue
        found = [result.best(arm) for result in results.values()]
        rows.append([arm, *map(shown, found), shown([statistics.mean(seed) for seed in zip(*found, strict=True)])])
    text = table(rows)
    (Path(example.output_dir) / "domains.md").write_text(f"# Accuracy on the domain left out, percent\n\n{text}\n")
    print(text)
    return results


if __name__ == "__main__":
    main()
