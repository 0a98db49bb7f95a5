"""The whole job on real data that ships with a dependency: scikit-learn's handwritten digits."""

import logging
import os
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image
from transformers import set_seed

from know_hf.choice.words import RENEWED
from know_hf.enrichment.result import EnrichmentResult
from know_hf.forgetting.arguments import ForgettingArguments
from know_hf.forgetting.making import make_trainer
from know_hf.forgetting.trainer import ForgettingTrainer
from know_hf.installing import missing
from know_hf.known.threads import one_thread
from know_hf.laboratory import fine_tuning
from know_hf.laboratory.comparison import compare
from know_hf.laboratory.protocol import Protocol
from know_hf.laboratory.result import ComparisonResult
from know_hf.models.building import timm_from_scratch
from know_hf.pretrained import enrich_trained
from know_hf.report.comparison import comparison_markdown
from know_hf.report.story import verdicts, write_story
from know_hf.store import check_output, inside
from know_hf.training.workers import Workers

PRETRAINING_CLASSES, NEW_CLASSES = tuple(range(7)), (7, 8, 9)
EPOCHS = 8  # of pre-training and of each stage
LEARNING_RATES = (1e-3, 3e-3, 1e-2)
PROTOCOL = Protocol(
    head_epochs=10, epochs=30, batch_size=15, examples=15, validation_examples=60, evaluations=3,
    head_learning_rate=None,
)  # fmt: skip

logger = logging.getLogger(__name__)


def quickstart(
    output_dir: str | Path = "know-quickstart", *, seeds: int = 5, trainer_class: type = ForgettingTrainer
) -> ComparisonResult:
    """Pre-trains, forgets, predicts ×2 ×4 ×8, and fine-tunes every candidate on other classes.

    A small timm ResNet learns seven digits, forgets and is retrodicted; each candidate is then fine-tuned with a new
    head on fifteen examples of the three other digits, with paired seeds and a grid of learning rates. Prints and
    stores what comes out, gain or not.

    Args:
        output_dir: Folder of the run; running again continues.
        seeds: Number of fine-tuning repetitions.
        trainer_class: As for [`enrich_pretrained`].

    Returns:
        The comparison of all candidates and controls.

    Raises:
        FileExistsError: If ``output_dir`` is a file.
        ImportError: If scikit-learn is not installed.
        PermissionError: If it cannot be written to.
        TrajectoryError: If the folder holds another run.
        ValueError: If ``seeds`` is less than 2.

    Example:
        >>> from know_hf.quickstart import quickstart
        >>> quickstart("know-quickstart")  # doctest: +SKIP
    """
    if seeds < 2:
        raise ValueError(f"seeds is {seeds}; a spread needs at least 2.")
    output_dir = Path(output_dir)
    check_output(output_dir)
    compared_in = inside(output_dir, "transfer")
    new_digits = digits(NEW_CLASSES).train_test_split(test_size=0.5, seed=0)
    with Workers(min(2, os.cpu_count() or 1)) as workers:
        workers.start(fine_tuning.__name__)  # what they import takes them as long as this one trains
        result, arms = _forget_and_predict(output_dir, trainer_class)
        logger.info("3 of 3: fine-tuning every start on %d examples of the digits 7-9.", PROTOCOL.examples)
        compared = compare(
            arms, new_digits["train"], compared_in, test_dataset=new_digits["test"], protocol=PROTOCOL,
            learning_rates=LEARNING_RATES, seeds=seeds, workers=workers,
        )  # fmt: skip
    print((output_dir / "report" / "report.md").read_text())
    print(f"Fine-tuning on {PROTOCOL.examples} examples of the digits 7, 8 and 9:\n\n{comparison_markdown(compared)}")
    purpose = f"the digits 7, 8 and 9, with {PROTOCOL.examples} examples"
    page = write_story(output_dir, "The quickstart: digits forgotten and retrodicted", result, compared, purpose)
    print(f"Checkpoints: {', '.join(str(folder) for folder in result.checkpoints.values())}\n")
    for words in verdicts(result, compared, purpose):
        print(f"{words}\n")
    print(f"All of it in three pictures: {page.resolve().as_uri()}")
    return compared


def _forget_and_predict(output_dir: Path, trainer_class: type) -> tuple[EnrichmentResult, dict[str, Path]]:
    """What was predicted and chosen, and the starts to compare, naive first."""
    known_digits = digits(PRETRAINING_CLASSES).train_test_split(test_size=0.25, seed=0)
    set_seed(0)
    model = timm_from_scratch(
        "resnet10t",
        image_size=16,
        model_args={"channels": [16, 32, 64, 128], "stem_width": 16, "in_chans": 1},
        mean=(0.3,),
        std=(0.38,),
        num_labels=len(PRETRAINING_CLASSES),
    )
    args = ForgettingArguments(
        str(output_dir),
        train_stage_zero=True,
        self_check=True,
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=256,
        learning_rate=2e-3,
        lr_scheduler_type="cosine",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=False,
        dataloader_pin_memory=False,
    )
    logger.info("1 of 3: pre-training on %d images of the digits 0-6, then forgetting.", len(known_digits["train"]))
    trainer = make_trainer(
        model, known_digits["train"], args=args, eval_dataset=known_digits["test"], trainer_class=trainer_class,
        selection_split="auto",
    )  # fmt: skip
    with one_thread():  # operations of so small a network wait longer for other threads than they work
        trainer.train()
        logger.info("2 of 3: predicting, and choosing among what was predicted.")
        naive = enrich_trained(trainer, method="naive", steps=1, self_check=False, choose="none")
        shrunk = enrich_trained(trainer, method="shrink", self_check=False, choose="none")
        result = enrich_trained(trainer)  # last, so that the report is KNOWN's
    arms = {"naive": next(iter(naive.checkpoints.values()))}
    longest, folder = list(shrunk.checkpoints.items())[-1]
    arms[f"shrink to {longest}'s norms"] = folder
    arms |= {f"KNOWN {name}": folder for name, folder in result.checkpoints.items()}
    if result.choice is not None and result.choice.candidate not in ("stage-0", RENEWED, *result.checkpoints):
        arms["best"] = result.choice.folder
    return result, arms


def digits(classes: tuple[int, ...]) -> Dataset:
    """scikit-learn's 8×8 grey-level digits of some classes.

    Args:
        classes: The digits, in the order of their labels.

    Returns:
        Images and labels, which are counted from 0.

    Raises:
        ImportError: If scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise missing("The quickstart's digits need", "scikit-learn", "quickstart") from error
    from PIL import Image as PILImage

    data = load_digits()
    chosen = np.isin(data.target, classes)
    pixels = (data.images[chosen] * (255 / 16)).astype(np.uint8)
    labels = [classes.index(label) for label in data.target[chosen]]
    features = Features({"image": Image(), "label": ClassLabel(names=[str(c) for c in classes])})
    return Dataset.from_dict({"image": [PILImage.fromarray(p) for p in pixels], "label": labels}, features=features)
