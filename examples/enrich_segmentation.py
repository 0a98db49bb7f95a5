"""Enriched weights for semantic segmentation: DeepLabV3+ on a MobileNetV2, with overlays of every step.

    accelerate launch examples/enrich_segmentation.py --dataset USER/IMAGES_AND_MASKS --output_dir runs/segmentation

The data set has an image column and a mask column, whose values are classes (255: no class). Without --dataset it makes
one: scikit-learn's handwritten digits, pasted onto its two photographs; real images, made masks. Forgets with r = 0.33,
predicts x3 and x9, scores mean IoU and mean class accuracy, and draws truth, baseline and steps side by side.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, Features, Image
from PIL import Image as Pillow
from torch.nn import functional as F
from transformers import (
    AutoModelForSemanticSegmentation,
    HfArgumentParser,
    MobileNetV2Config,
    MobileNetV2ForSemanticSegmentation,
    set_seed,
)

from know_hf import ForgettingArguments, enrich_pretrained
from know_hf.data import load_split
from know_hf.metrics import load_metric
from know_hf.report import report_markdown


@dataclass
class ExampleArguments:
    """What to enrich, and with which data."""

    dataset: str | None = field(default=None, metadata={"help": "Hub id or folder; default: made of digits."})
    model: str | None = field(default=None, metadata={"help": "Hub id or folder; default: MobileNetV2, from scratch."})
    image_column: str = field(default="image", metadata={"help": "Column of the images."})
    mask_column: str = field(default="mask", metadata={"help": "Column of the masks."})
    num_labels: int = field(default=11, metadata={"help": "Number of classes, the background included."})
    image_size: int = field(default=64, metadata={"help": "Side in pixels."})
    examples: int = field(default=400, metadata={"help": "Made images to train on; a quarter as many to score on."})
    depth: float = field(default=0.35, metadata={"help": "Width of a MobileNetV2 from scratch."})
    steps: int = field(default=2, metadata={"help": "Number of steps; 2 gives x3 and x9 at r = 0.33."})
    push: str | None = field(default=None, metadata={"help": "Hub repository for the steps, as its revisions."})


def made_of_digits(count: int, side: int, seed: int) -> Dataset:
    """Digits pasted onto photographs, up to three an image; the mask has the digit plus one where its ink is."""
    from sklearn.datasets import load_digits, load_sample_images

    random, digits, photographs = np.random.default_rng(seed), load_digits(), load_sample_images().images
    rows: dict[str, list] = {"image": [], "mask": []}
    for _ in range(count):
        photograph = photographs[random.integers(len(photographs))]
        top, left = (random.integers(0, size - side) for size in photograph.shape[:2])
        image, mask = photograph[top : top + side, left : left + side].copy(), np.zeros((side, side), np.uint8)
        for which in random.integers(0, len(digits.images), size=random.integers(1, 4)):
            size = int(random.integers(side // 4, side // 2))
            ink = np.asarray(Pillow.fromarray((digits.images[which] * 15.9).astype(np.uint8)).resize((size, size)))
            y, x = random.integers(0, side - size, size=2)
            place = (slice(y, y + size), slice(x, x + size))
            image[place][ink > 96] = random.integers(0, 256, size=3)
            mask[place][ink > 96] = digits.target[which] + 1
        rows["image"].append(Pillow.fromarray(image))
        rows["mask"].append(Pillow.fromarray(mask))
    return Dataset.from_dict(rows, features=Features({"image": Image(), "mask": Image()}))


def prepared(data: Dataset, example: ExampleArguments) -> Dataset:
    """Pixels in -1 … 1 and classes, both square."""
    size = (example.image_size, example.image_size)

    def transform(batch: dict[str, list]) -> dict[str, list]:
        images = [np.asarray(i.convert("RGB").resize(size)) for i in batch[example.image_column]]
        masks = [np.array(m.resize(size, resample=Pillow.Resampling.NEAREST)) for m in batch[example.mask_column]]
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
        return {"pixel_values": list(pixels), "labels": [torch.from_numpy(mask).long() for mask in masks]}

    return data.with_transform(transform)


def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
    """Stacks examples."""
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def classes(scores: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Class of every pixel, from scores at a lower resolution."""
    return F.interpolate(torch.from_numpy(scores), size=size, mode="bilinear").argmax(1).numpy()


def scorer(num_labels: int):
    """A ``compute_metrics`` of both scores."""
    metrics = [load_metric(name) for name in ("mean_iou", "mean_class_accuracy")]

    def compute(prediction) -> dict[str, float]:
        found = classes(prediction.predictions, prediction.label_ids.shape[1:]).reshape(len(prediction.label_ids), -1)
        labels = prediction.label_ids.reshape(found.shape)
        scores: dict[str, float] = {}
        for metric in metrics:
            scores |= metric.compute(predictions=found, references=labels, num_labels=num_labels)
        return scores

    return compute


def draw(result, data: Dataset, file: Path, rows: int = 4) -> None:
    """Image, truth, baseline and every step side by side, classes in colours."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    batch = collate([data[i] for i in range(rows)])
    size, pixels = batch["labels"].shape[1:], ((batch["pixel_values"] + 1) / 2).permute(0, 2, 3, 1).numpy()
    columns = {"image": None, "truth": batch["labels"].numpy()}
    for name, folder in {"×1": result.trajectory.checkpoints[0].folder, **result.checkpoints}.items():
        model = AutoModelForSemanticSegmentation.from_pretrained(folder).eval()
        with torch.no_grad():
            columns[name.replace("x", "×")] = classes(model(batch["pixel_values"]).logits.numpy(), size)
    figure, axes = pyplot.subplots(rows, len(columns), figsize=(1.8 * len(columns), 1.8 * rows), squeeze=False)
    for axis, (title, found) in zip(axes.T, columns.items(), strict=True):
        axis[0].set_title(title)
        for row in range(rows):
            axis[row].imshow(pixels[row])
            axis[row].axis("off")
            if found is not None:
                shown = np.ma.masked_where((found[row] == 0) | (found[row] == 255), found[row])
                axis[row].imshow(shown, cmap="tab20", vmin=0, vmax=20, alpha=0.75, interpolation="nearest")
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def main(arguments: list[str] | None = None):
    parser = HfArgumentParser((ExampleArguments, ForgettingArguments))
    parser.set_defaults(
        output_dir="runs/segmentation", sampling_ratio=0.33, num_stages=4, num_train_epochs=20,
        per_device_train_batch_size=16,
        learning_rate=1e-3, lr_scheduler_type="cosine", save_total_limit=1, self_check=True,
        remove_unused_columns=False, ddp_find_unused_parameters=False,
        use_cpu=os.environ.get("ACCELERATE_USE_CPU") in ("1", "true"),
    )  # fmt: skip
    example, args = parser.parse_args_into_dataclasses(arguments)
    if example.dataset is None:
        counts = ((example.examples, args.seed), (max(example.examples // 4, 4), args.seed + 1))
        train, test = (made_of_digits(count, example.image_size, seed) for count, seed in counts)
    else:
        train, test = (load_split(example.dataset, split) for split in ("train", "validation"))
    set_seed(args.seed)
    if example.model is None:
        config = MobileNetV2Config(
            num_labels=example.num_labels, depth_multiplier=example.depth, image_size=example.image_size,
            semantic_loss_ignore_index=255, initializer_range=0.02,
        )  # fmt: skip
        model = MobileNetV2ForSemanticSegmentation(config)
        for module in model.modules():  # transformers draws from N(0, 0.02), which kills the signal of deep networks
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight, mode="fan_out")
    else:
        sizes = {"num_labels": example.num_labels, "ignore_mismatched_sizes": True}
        model = AutoModelForSemanticSegmentation.from_pretrained(example.model, **sizes)
    if args.train_stage_zero is None:
        args.train_stage_zero = True  # the head is new
    data = prepared(test, example)
    result = enrich_pretrained(
        model, prepared(train, example), eval_dataset=data, args=args, steps=example.steps, data_collator=collate,
        compute_metrics=scorer(example.num_labels), push_to_hub=example.push,
    )  # fmt: skip
    if args.process_index == 0:
        draw(result, data, Path(args.output_dir) / "report" / "overlays.png")
        print(report_markdown(result))
    return result


if __name__ == "__main__":
    main()
