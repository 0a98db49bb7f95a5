"""The batches of a fit: those that its seed and the number of the step say, whoever asks for them, and when."""

import inspect
from typing import Any

import datasets
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import Trainer, set_seed


class Batches:
    """Batches of a data set through a trainer's own collator.

    Which examples a step sees, and how they vary, depends on the seed and on its number alone: a fit that is continued
    sees what it would have seen. A batch is made of micro-batches of the trainer's size for one device, however many
    processes share them, so that the loss is one and the same.

    Args:
        trainer: Its collator, batch size and columns are used.
        dataset: The examples.
        seed: Of which examples, and of their augmentation.
    """

    def __init__(self, trainer: Trainer, dataset: Any, seed: int) -> None:
        self.trainer, self.seed = trainer, seed
        args, model = trainer.args, trainer.model
        self.rows = dataset
        if isinstance(dataset, datasets.Dataset) and args.remove_unused_columns:
            accepted = [*inspect.signature(model.forward).parameters, "label", "label_ids", *(args.label_names or [])]
            self.rows = dataset.select_columns([name for name in dataset.column_names if name in accepted])
        self.size = min(args.per_device_train_batch_size, len(self.rows))
        self.count = max(1, args.world_size * args.gradient_accumulation_steps)

    def micro_batches(self, step: int) -> list[tuple[int, list[int]]]:
        """Number and rows of this process's micro-batches of a step."""
        # Each epoch is another order of all rows, so that none is seen twice before all are seen once.
        first, drawn = step * self.size * self.count, []
        for position in range(first, first + self.size * self.count):
            epoch, place = divmod(position, len(self.rows))
            drawn.append(self._order(epoch)[place])
        parts = [drawn[at : at + self.size] for at in range(0, len(drawn), self.size)]
        process, processes = self.trainer.args.process_index, self.trainer.args.world_size
        return list(enumerate(parts))[process::processes]

    def _order(self, epoch: int) -> list[int]:
        if getattr(self, "_epoch", None) != epoch:
            generator = torch.Generator().manual_seed(self.seed + 7919 * epoch)
            self._epoch, self._rows = epoch, torch.randperm(len(self.rows), generator=generator).tolist()
        return self._rows

    def make(self, step: int, number: int, rows: list[int]) -> dict[str, Any]:
        """A micro-batch on the model's device, varied as its step and number say."""
        set_seed((self.seed + 104729 * step + number) % 2**32)
        if hasattr(self.rows, "__getitems__"):
            items = self.rows.__getitems__(rows)
        else:
            items = [self.rows[row] for row in rows]
        return self.trainer._prepare_inputs(self.trainer.data_collator(items))


def calm(model: nn.Module) -> None:
    """Puts a model in the mode of a fit: no dropout, BatchNorm by the statistics of the batch.

    Running statistics belong to the weights that they were gathered with, and the weights change at every step.
    """
    model.eval()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.train()
