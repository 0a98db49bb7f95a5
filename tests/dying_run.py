"""A forgetting run for tests, on one or more processes, all of which are killed at one point: see test_dying.py."""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from conftest import QUICK, tiny_image_model
from test_trainer import Pixels
from transformers import TrainerCallback, default_data_collator

from know_hf import ForgettingArguments, ForgettingTrainer
from know_hf.forgetting import start as start_module
from know_hf.forgetting import trainer as trainer_module


class DieAt(TrainerCallback):
    """Kills at the beginning of a step's end, or at the end of a stage's training, once all processes are there."""

    def __init__(self, stage: str, where: str):
        self.stage, self.where = f"stage-{stage}", where

    def die(self, name: str, where: str) -> None:
        if (name, where) == (self.stage, self.where):
            if torch.distributed.is_initialized():
                torch.distributed.barrier()
            os.kill(os.getpid(), signal.SIGKILL)

    def on_step_end(self, args, state, control, **_):
        self.die(Path(args.output_dir).name, str(state.global_step))

    def on_train_end(self, args, state, control, **_):
        self.die(Path(args.output_dir).name, "end")


def main(folder: str, settings: str, stage: str = "", where: str = "") -> None:
    # Every process its own, where a test says so: what counts is the first one's.
    model = tiny_image_model(int(os.environ.get("DRAWN", 0)) * (1 + int(os.environ.get("RANK", 0))))
    model.timm_model.drop_rate = 0.2
    trainer = ForgettingTrainer(
        model=model,
        args=ForgettingArguments(
            folder, use_cpu=True, num_stages=3, train_stage_zero=True,
            **{
                **QUICK, "per_device_train_batch_size": 4, "save_strategy": "steps", "save_steps": 2,
                **json.loads(settings),
            },
        ),
        train_dataset=Pixels(60), eval_dataset=Pixels(20), data_collator=default_data_collator,
        callbacks=[DieAt(stage, where)],
    )  # fmt: skip
    publish = trainer_module.publish

    def dying(partial: Path, final: Path) -> None:
        place = "start" if stage == "start" else f"stage-{stage}"
        if (final.name, where) == (place, "publish"):  # only the main process is here; the launcher follows
            os.kill(os.getpid(), signal.SIGKILL)
        publish(partial, final)

    trainer_module.publish = start_module.publish = dying
    trainer.train()


if __name__ == "__main__":
    main(*sys.argv[1:])
