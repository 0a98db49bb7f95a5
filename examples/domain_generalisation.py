"""Leave-one-domain-out: every start is fine-tuned on all domains but one and scored on the one that it has not seen.

    python examples/domain_generalisation.py --arms naive=runs/mine/stage-0 x3=runs/mine/enriched/x3 \\
        --dataset flwrlabs/pacs --domain_column domain --output_dir runs/domains

Without --dataset it makes one: scikit-learn's handwritten digits in three renderings, a third of them each: as they
are, as white on black turned round, and noisy; real digits, made domains. The transfer laboratory does the rest: the
same seeds for every start, learning rates chosen on held-out examples of the training domains.
"""

import statistics
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from datasets import Dataset
from PIL import Image
from transformers import HfArgumentParser

from know_hf.laboratory.comparison import compare
from know_hf.laboratory.protocol import Protocol
from know_hf.quickstart import digits
from know_hf.report import table
from know_hf.training.data import load_split


@dataclass
class ExampleArguments:
    """What to compare, and on which domains."""

    arms: list[str] = field(metadata={"help": "NAME=FOLDER …: the starts, the reference (naive) first."})
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


def rendered_digits(seed: int = 0) -> Dataset:
    """The digits, each in one of three renderings."""
    random = np.random.default_rng(seed)
    renderings = {
        "plain": lambda pixels: pixels,
        "turned": lambda pixels: 255 - np.rot90(pixels, 2),
        "noisy": lambda pixels: pixels * 0.7 + random.normal(40, 40, pixels.shape),
    }
    names = np.resize(list(renderings), len(data := digits(tuple(range(10))).shuffle(seed=seed)))

    def render(row: dict, i: int) -> dict:
        pixels = renderings[names[i]](np.asarray(row["image"], dtype=float))
        return {"image": Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), "domain": names[i]}

    return data.map(render, with_indices=True)


def main(arguments: list[str] | None = None):
    (example,) = HfArgumentParser(ExampleArguments).parse_args_into_dataclasses(arguments)
    arms = dict(pair.split("=", 1) for pair in example.arms)
    data = rendered_digits() if example.dataset is None else load_split(example.dataset)
    domains = np.asarray(data[example.domain_column])
    data = data.remove_columns(example.domain_column)
    protocol = Protocol(
        head_epochs=example.head_epochs, epochs=example.epochs, batch_size=example.batch_size,
        validation_examples=example.validation_examples,
    )  # fmt: skip
    results = {
        domain: compare(
            arms, data.select(np.flatnonzero(domains != domain)), Path(example.output_dir) / domain,
            test_dataset=data.select(np.flatnonzero(domains == domain)), protocol=protocol, seeds=example.seeds,
            learning_rates=example.learning_rates, image_size=example.image_size, processes=example.processes,
        )
        for domain in sorted(set(domains.tolist()))
    }  # fmt: skip

    def shown(scores: list[float]) -> str:
        return f"{statistics.mean(scores):.1f} ± {statistics.stdev(scores):.1f}"

    rows = [["start", *results, "average"]]
    for arm in arms:
        found = [result.best(arm) for result in results.values()]
        rows.append([arm, *map(shown, found), shown([statistics.mean(seed) for seed in zip(*found, strict=True)])])
    text = table(rows)
    (Path(example.output_dir) / "domains.md").write_text(f"# Accuracy on the domain left out, percent\n\n{text}\n")
    print(text)
    return results


if __name__ == "__main__":
    main()
