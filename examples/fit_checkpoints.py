"""The best point that the checkpoints of an ordinary training span, beside their mean and the last one.

    python examples/fit_checkpoints.py [--output_dir runs/fitted] [--seeds 0 1 2]

No forgetting: a small network learns scikit-learn's digits with plain Trainer, which saves every epoch; of its last
five checkpoints `fit` finds the best point on a part of the data set aside, and `enrich` writes it. About a minute.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoModelForImageClassification, set_seed

from know_hf import Trajectory, enrich
from know_hf.enrichment.finishing import Finisher
from know_hf.fitting.fit import fit
from know_hf.forgetting.evaluation import evaluate_all
from know_hf.forgetting.making import make_trainer
from know_hf.forgetting.weights import load_weights
from know_hf.models.building import timm_from_scratch
from know_hf.quickstart import digits
from know_hf.tables import table
from know_hf.trajectory import resolve_kinds


def checkpoints_of(folder: Path, parts: dict[str, Any], seed: int, epochs: int) -> tuple[Any, list[Path]]:
    """A trainer, and the last five checkpoints of an ordinary training, newest first."""
    set_seed(seed)
    model = timm_from_scratch(
        "resnet10t", image_size=16, model_args={"channels": [16, 32, 64, 128], "stem_width": 16, "in_chans": 1},
        mean=(0.3,), std=(0.38,), num_labels=10,
    )  # fmt: skip
    # A trainer of stage 0 alone is an ordinary one; Trainer's own checkpoints are what is read below.
    trainer = make_trainer(
        model, parts["train"], folder, eval_dataset=parts["test"], selection_split=150, seed=seed,
        num_train_epochs=epochs, per_device_train_batch_size=32, per_device_eval_batch_size=256, learning_rate=2e-3,
        save_strategy="epoch", save_total_limit=5, report_to="none", logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    super(type(trainer).__mro__[1], trainer).train()  # Trainer's
    saved = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    return trainer, saved[:5]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/fitted"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args(arguments)
    scores: dict[str, list[float]] = {}
    for seed in options.seeds:
        folder = options.output_dir / str(seed)
        parts = digits(tuple(range(10))).train_test_split(test_size=0.4, seed=seed)
        trainer, saved = checkpoints_of(folder, dict(parts), seed, options.epochs)
        model = AutoModelForImageClassification.from_pretrained(saved[0])
        trajectory = Trajectory.from_checkpoints(saved, model=model, sampling_ratio=0.5)
        predicted, _ = resolve_kinds(trajectory.parameters)
        found = fit(trainer, trajectory, predicted, trainer.set_aside.dataset, folder / "fitted.json")
        made = {"last": saved[0]}
        for method, own in (("mean", None), ("fitted", {"coefficients": found.table})):
            result = enrich(trajectory, folder / method, steps=1, method=method, parameters=own)
            made[method] = next(iter(result.checkpoints.values()))
            Finisher(trainer, trainer.train_dataset, renew=True, score=False)(made[method])
        for name, place in made.items():
            load_weights(trainer.model, place)
            scores.setdefault(name, []).append(100 * evaluate_all(trainer)["eval_accuracy"])
    rows = [[name, f"{np.mean(own):.2f} ± {np.std(own, ddof=1) if len(own) > 1 else 0:.2f}"]
            for name, own in scores.items()]  # fmt: skip
    print(table([["weights", f"accuracy on the test part, {len(options.seeds)} seeds"], *rows]))


if __name__ == "__main__":
    main()
