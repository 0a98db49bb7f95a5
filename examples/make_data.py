"""Small data sets for what the paper does beyond one data set's classes, made of real pictures.

    python examples/make_data.py
    python examples/make_data.py --kind segmentation --items ylecun/mnist --output_dir data/segmentation
    python examples/make_data.py --kind captions --items zalando-datasets/fashion_mnist --output_dir data/captions
    python examples/make_data.py --kind domains --output_dir data/domains
    python examples/make_data.py --kind text --items input.txt --output_dir data/text

Items are any data set of labelled grey pictures, by default scikit-learn's handwritten digits. `segmentation` pastes
up to three onto scikit-learn's two photographs, with a mask of item classes (0: background); `captions` puts two side
by side and says what is where; `domains` renders each in one of three ways: as it is, with its shades inverted and
turned round, or noisy; `text` only cuts a text file into lines. Writes train and test splits that load_dataset reads.
Masks, captions and domains are made, and so is what a model learns from them: enough to compare starts, not to publish
scores. Without arguments, digits in three renderings, in data/domains: seconds.
"""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as Pillow
from transformers import HfArgumentParser

from know_hf.quickstart import digits
from know_hf.tasks import find_columns
from know_hf.training.data import load_split

PATTERNS = ("a {} and a {}", "a {} beside a {}", "there is a {} left of a {}")


@dataclass
class Arguments:
    """What to make."""

    kind: Literal["segmentation", "captions", "domains", "text"] = field(
        default="domains", metadata={"help": "What to make."}
    )
    output_dir: str | None = field(default=None, metadata={"help": "Folder of the data set; default: data/KIND."})
    items: str | None = field(default=None, metadata={"help": "Hub id or folder, or a text file; default: digits."})
    size: int = field(default=96, metadata={"help": "Side of the scenes in pixels."})
    classes: int | None = field(default=None, metadata={"help": "Take items of the first classes only; default: all."})
    examples: int = field(default=800, metadata={"help": "Training examples; a quarter as many for the test split."})
    seed: int = field(default=0, metadata={"help": "Of everything that is drawn."})


Items = tuple[list[np.ndarray], list[int], list[str]]


def labelled_items(source: str | None, split: str, classes: int | None = None) -> Items:
    """Grey pictures, their classes, and the classes' names; the digits' two splits are their halves."""
    if source is None:
        halves = digits(tuple(range(10))).train_test_split(test_size=0.5, seed=0)
        data = halves[split]
    else:
        data = load_split(source, split)
        data = data.shuffle(seed=0).select(range(min(5000, len(data))))
    columns = find_columns(data)
    if classes is not None:
        data = data.select(np.flatnonzero(np.asarray(data[columns.label]) < classes))
    pictures = [np.asarray(picture.convert("L")) for picture in data[columns.inputs[0]]]
    return pictures, list(data[columns.label]), columns.class_names[:classes]


def scenes(count: int, size: int, items: Items, seed: int) -> Dataset:
    """Items on photographs in a colour of their own; the mask has an item's class plus one where its ink is."""
    from sklearn.datasets import load_sample_images

    random, photographs = np.random.default_rng(seed), load_sample_images().images
    pictures, classes, _ = items
    rows: dict[str, list] = {"image": [], "mask": []}
    for _ in range(count):
        photograph = photographs[random.integers(len(photographs))]
        top, left = (random.integers(0, side - size) for side in photograph.shape[:2])
        image, mask = photograph[top : top + size, left : left + size].copy(), np.zeros((size, size), np.uint8)
        for which in random.integers(0, len(pictures), size=random.integers(1, 4)):
            side = int(random.integers(size // 3, size * 2 // 3))
            ink = np.asarray(Pillow.fromarray(pictures[which]).resize((side, side), Pillow.Resampling.BICUBIC)) > 96
            y, x = random.integers(0, size - side, size=2)
            image[y : y + side, x : x + side][ink] = random.integers(0, 256, size=3)
            mask[y : y + side, x : x + side][ink] = classes[which] + 1
        rows["image"].append(Pillow.fromarray(image))
        rows["mask"].append(Pillow.fromarray(mask))
    return Dataset.from_dict(rows, features=Features({"image": Image(), "mask": Image()}))


def captioned_pairs(count: int, items: Items, seed: int) -> Dataset:
    """Two items side by side, and a caption that names them."""
    random, (pictures, classes, names) = np.random.default_rng(seed), items
    rows: dict[str, list] = {"image": [], "caption": []}
    for pair in random.integers(0, len(pictures), size=(count, 2)):
        rows["image"].append(Pillow.fromarray(np.concatenate([pictures[i] for i in pair], axis=1)).resize((32, 32)))
        pattern = PATTERNS[random.integers(len(PATTERNS))]
        rows["caption"].append(
            " ".join(pattern.format(*(names[classes[i]].lower().replace("/", "or") for i in pair)).split())
        )
    return Dataset.from_dict(rows, features=Features({"image": Image(), "caption": Value("string")}))


def domains(count: int, items: Items, seed: int) -> Dataset:
    """Items with their classes, each in one of three renderings, as many of each."""
    random, (pictures, classes, names) = np.random.default_rng(seed), items
    renderings = {
        "plain": lambda pixels: pixels,
        "turned": lambda pixels: 255 - np.rot90(pixels, 2),
        "noisy": lambda pixels: pixels * 0.7 + random.normal(40, 40, pixels.shape),
    }
    rows: dict[str, list] = {"image": [], "label": [], "domain": []}
    for i, which in enumerate(random.permutation(len(pictures))[:count]):
        domain = list(renderings)[i % len(renderings)]
        pixels = renderings[domain](pictures[which].astype(float))
        rows["image"].append(Pillow.fromarray(pixels.clip(0, 255).astype(np.uint8)))
        rows["label"].append(classes[which])
        rows["domain"].append(domain)
    features = Features({"image": Image(), "label": ClassLabel(names=names), "domain": Value("string")})
    return Dataset.from_dict(rows, features=features)


def lines(file: str | Path, split: str) -> Dataset:
    """The lines of a text file: the first nine tenths, or for the test split the rest."""
    found = Path(file).read_text(encoding="utf-8").splitlines()
    held_out = max(1, len(found) // 10)
    return Dataset.from_dict({"text": found[:-held_out] if split == "train" else found[-held_out:]})


def own_texts(split: str) -> Dataset:
    """Lines of this project's own texts, and which of them each is of; every fifth is for the test split."""
    root, rows = Path(__file__).parents[1], []
    for label, name in enumerate(("LICENSE", "README.md", "CONTRIBUTING.md")):
        found = [line.strip() for line in (root / name).read_text(encoding="utf-8").splitlines()]
        rows += [(line, label) for line in found if len(line.split()) > 5]
    taken = [row for i, row in enumerate(rows) if (i % 5 == 0) == (split == "test")]
    features = Features({"text": Value("string"), "label": ClassLabel(names=["licence", "readme", "contributing"])})
    return Dataset.from_dict({"text": [t for t, _ in taken], "label": [c for _, c in taken]}, features=features)


def main(arguments: list[str] | None = None) -> None:
    (given,) = HfArgumentParser(Arguments).parse_args_into_dataclasses(arguments)
    if given.kind == "text" and given.items is None:
        raise SystemExit("--kind text needs a text file: --items FILE")
    for split, count in (("train", given.examples), ("test", max(given.examples // 4, 4))):
        seed = given.seed + (split == "test")
        if given.kind == "text":
            made = lines(given.items, split)
        else:
            items = labelled_items(given.items, split, given.classes)
            make = {"captions": captioned_pairs, "domains": domains, "segmentation": partial(scenes, size=given.size)}
            made = make[given.kind](count, items=items, seed=seed)
        file = Path(given.output_dir or f"data/{given.kind}") / "data" / f"{split}-00000-of-00001.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        made.to_parquet(file)
        print(f"{file}: {len(made)} examples")


if __name__ == "__main__":
    main()
