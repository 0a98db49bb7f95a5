"""Enriched weights for semantic segmentation: DeepLabV3+ on a MobileNetV2, with overlays of every step.

    python examples/enrich_segmentation.py
    accelerate launch examples/enrich_segmentation.py --dataset USER/IMAGES_AND_MASKS --output_dir runs/segmentation

The data set has an image column and a mask column, whose values are classes (255: no class). Without --dataset it
makes one: handwritten digits pasted onto photographs, real pictures with made masks (see make_data.py); as it is about
two minutes on two cores, and more is learnt with --examples 800 --image_size 96 --num_train_epochs 30. Forgets in four
stages with r = 0.33, predicts x3 and x9, scores mean IoU and mean class accuracy, and draws truth, baseline and steps
side by side (the paper's Figure 4). In the paper's Table 5 every start is then fine-tuned on other scenes:
recipes/table5.yaml. Every field of ForgettingArguments is a flag.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from make_data import labelled_items, scenes
from transformers import AutoModelForSemanticSegmentation, HfArgumentParser, PreTrainedModel, set_seed

from know_hf import ForgettingArguments, enrich_pretrained
from know_hf.models.building import build_network
from know_hf.report import report_markdown
from know_hf.tasks import find_columns
from know_hf.tasks.segmentation import class_maps
from know_hf.training.data import load_split, make_preprocessing


@dataclass
class ExampleArguments:
    """What to enrich, and with which data."""

    dataset: str | None = field(default=None, metadata={"help": "Hub id or folder; default: made of digits."})
    eval_split: str = field(default="test", metadata={"help": "Split to score every stage on."})
    model: str | None = field(default=None, metadata={"help": "Hub id or folder; default: MobileNetV2, from scratch."})
    image_size: int = field(default=64, metadata={"help": "Side in pixels."})
    depth: float = field(default=0.35, metadata={"help": "Width of a MobileNetV2 from scratch."})
    output_stride: int = field(
        default=8, metadata={"help": "Pixels of the image for one of the network's map: 8 or 16."}
    )
    examples: int = field(default=240, metadata={"help": "Made images to train on; a quarter as many to score on."})
    steps: int = field(default=2, metadata={"help": "Number of steps; 2 gives x3 and x9 at r = 0.33."})


def from_scratch(example: ExampleArguments, classes: list[str]) -> PreTrainedModel:
    """An untrained network."""
    sizes = {
        "depth_multiplier": example.depth,
        "image_size": example.image_size,
        "output_stride": example.output_stride,
    }
    described = {"model_type": "mobilenet_v2", "convolutions": "he_normal", "classifier_dropout_prob": 0.1, **sizes}
    return build_network(described, "image-segmentation", classes)


def draw(result, data, columns, image_size: int, file: Path, rows: int = 4) -> None:
    """Image, truth, baseline and every step side by side, classes in colours (the paper's Figure 4)."""
    from matplotlib.figure import Figure

    shown: dict[str, np.ndarray] = {}
    for name, folder in {"×1": result.trajectory.checkpoints[0].folder, **result.checkpoints}.items():
        model = AutoModelForSemanticSegmentation.from_pretrained(folder).eval()
        preprocessing = make_preprocessing(model, folder, columns, image_size=image_size)
        batch = preprocessing.collator([preprocessing.apply(data)[i] for i in range(rows)])
        with torch.no_grad():
            shown[name.replace("x", "×")] = class_maps(model(batch["pixel_values"]).logits, batch["labels"]).numpy()
    pixels = batch["pixel_values"].permute(0, 2, 3, 1).numpy()
    pixels = (pixels - pixels.min()) / np.ptp(pixels)
    panels = {"image": None, "truth": batch["labels"].numpy(), **shown}
    figure = Figure(figsize=(1.8 * len(panels), 1.9 * rows), layout="tight")
    for row, line in enumerate(figure.subplots(rows, len(panels), squeeze=False)):
        for axes, (title, found) in zip(line, panels.items(), strict=True):
            axes.set_title(title if row == 0 else "")
            axes.imshow(pixels[row])
            axes.axis("off")
            if found is not None:
                classes = np.ma.masked_where((found[row] == 0) | (found[row] == 255), found[row])
                axes.imshow(classes, cmap="tab20", vmin=0, vmax=20, alpha=0.75, interpolation="nearest")
    figure.savefig(file, dpi=120)


def main(arguments: list[str] | None = None):
    parser = HfArgumentParser((ExampleArguments, ForgettingArguments))
    parser.set_defaults(
        output_dir="runs/segmentation", sampling_ratio=0.33, num_stages=4, num_train_epochs=5, learning_rate=3e-3,
        per_device_train_batch_size=16, lr_scheduler_type="cosine", save_total_limit=1, self_check=True,
        ddp_find_unused_parameters=False, use_cpu=os.environ.get("ACCELERATE_USE_CPU") in ("1", "true"),
    )  # fmt: skip
    example, args = parser.parse_args_into_dataclasses(arguments)
    if example.dataset is None:
        counts = {"train": (example.examples, args.seed), "test": (max(example.examples // 4, 4), args.seed + 1)}
        train, test = (scenes(n, example.image_size, labelled_items(None, s), seed) for s, (n, seed) in counts.items())
    else:
        train, test = (load_split(example.dataset, split) for split in ("train", example.eval_split))
    columns = find_columns(train, task="image-segmentation")
    set_seed(args.seed)
    if example.model is None and args.train_stage_zero is None:
        args.train_stage_zero = True
    result = enrich_pretrained(
        example.model or from_scratch(example, columns.class_names), train, eval_dataset=test, args=args,
        steps=example.steps, task=columns.task, image_size=example.image_size,
        push_to_hub=args.hub_model_id is not None, hub_model_id=args.hub_model_id,
    )  # fmt: skip
    if args.process_index == 0:
        draw(result, test, columns, example.image_size, Path(args.output_dir) / "report" / "overlays.png")
        print(report_markdown(result))
    return result


if __name__ == "__main__":
    main()
