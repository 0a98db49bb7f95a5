"""BatchNorm statistics of predicted weights, estimated anew: predicted weights give other activations."""

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, Dataset

from know_hf.checkpoints.patch import CheckpointPatch
from know_hf.progress import progress_bar

if TYPE_CHECKING:
    import datasets
    from transformers import Trainer


class FromBatch(nn.Module):
    """Feeds a dictionary batch to a model by keyword, on the model's device: what ``update_bn`` does not do."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, torch.Tensor]) -> Any:
        """Runs the model on the tensors of a batch."""
        device = next(self.model.parameters()).device
        return self.model(**{name: value.to(device) for name, value in batch.items() if torch.is_tensor(value)})


def has_batch_norm(model: nn.Module) -> bool:
    """Whether a model keeps running BatchNorm statistics."""
    return any(isinstance(m, _BatchNorm) and m.running_mean is not None for m in model.modules())


def estimate_batch_norm(trainer: "Trainer", dataset: "Dataset | datasets.Dataset") -> None:
    """Re-estimates the BatchNorm statistics of the trainer's model over a data set, in place.

    Under several processes each does all of it, so that all end with the same statistics.

    Args:
        trainer: Holds the model; its collator and batch size are used.
        dataset: The data to run through the model once, in shuffled order.

    Source: ``torch.optim.swa_utils.update_bn``.
    """
    import datasets

    model, args = trainer.model, trainer.args
    rows: Any = dataset
    if isinstance(dataset, datasets.Dataset) and args.remove_unused_columns:
        accepted = [*inspect.signature(model.forward).parameters, "label", "label_ids", *(args.label_names or [])]
        rows = dataset.select_columns([name for name in dataset.column_names if name in accepted])
    loader = DataLoader(
        rows,
        batch_size=args.train_batch_size,
        collate_fn=trainer.data_collator,
        # Sorted data would bias the variances; a lone last example would weigh as much as a whole batch.
        shuffle=True,
        generator=torch.Generator().manual_seed(args.seed),
        drop_last=len(rows) > args.train_batch_size,
        num_workers=args.dataloader_num_workers,
    )
    hidden = args.disable_tqdm or not trainer.is_world_process_zero()
    update_bn(progress_bar(loader, desc="BatchNorm statistics", leave=False, disable=hidden), FromBatch(model))


def write_batch_norm(model: nn.Module, folder: Path) -> None:
    """Writes a model's BatchNorm statistics into a checkpoint folder; no other byte changes."""
    with CheckpointPatch(folder) as patch:
        for path, module in model.named_modules():
            if isinstance(module, _BatchNorm) and module.running_mean is not None:
                for name, buffer in module.named_buffers(recurse=False):
                    patch.write(f"{path}.{name}" if path else name, 0, buffer.detach().reshape(-1).cpu())
