"""BatchNorm statistics of predicted weights, estimated anew: predicted weights give other activations."""

import inspect
import math
from collections.abc import Iterator
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


#: Bytes of batches that are kept at most.
MOST = 1 << 28


class FromBatch(nn.Module):
    """Feeds a dictionary batch to a model by keyword, on the model's device: what ``update_bn`` does not do."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, torch.Tensor]) -> Any:
        """Runs the model on the tensors of a batch."""
        device = next(self.model.parameters()).device
        # Copies: some models write into what they are given, and a batch may be wanted again.
        tensors = {name: value for name, value in batch.items() if torch.is_tensor(value)}
        return self.model(**{name: value.to(device, copy=True) for name, value in tensors.items()})


def has_batch_norm(model: nn.Module) -> bool:
    """Whether a model keeps running BatchNorm statistics."""
    return any(isinstance(m, _BatchNorm) and m.running_mean is not None for m in model.modules())


class Batches:
    """A data set in a shuffled order, batch by batch; what fits is read once, however often it is gone through.

    Batches are as large as those of training or, where these are larger, of evaluation, and of equal size: sorted data
    would bias the variances, and a lone last example would weigh as much as a whole batch.

    Args:
        trainer: Its collator, batch sizes and seed are used.
        dataset: The examples.
        most: Bytes of tensors that are kept at most; of more nothing is.
    """

    def __init__(self, trainer: "Trainer", dataset: "Dataset | datasets.Dataset", most: int = MOST) -> None:
        self.trainer, self.dataset, self.most = trainer, dataset, most
        self._kept: list[dict[str, Any]] | None = None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        args, size = self.trainer.args, 0
        kept: list[dict[str, Any]] = []
        hidden = args.disable_tqdm or not self.trainer.is_world_process_zero()
        source = self._loader() if self._kept is None else self._kept
        for batch in progress_bar(source, desc="BatchNorm statistics", leave=False, disable=hidden):
            if self._kept is None:
                size += sum(value.nbytes for value in batch.values() if torch.is_tensor(value))
                if size <= self.most:
                    kept.append(batch)
                else:
                    kept.clear()
            yield batch
        if size and size <= self.most:
            self._kept = kept

    def _loader(self) -> DataLoader:
        import datasets

        args, rows = self.trainer.args, self.dataset
        if isinstance(rows, datasets.Dataset) and args.remove_unused_columns:
            taken = inspect.signature(self.trainer.model.forward).parameters
            accepted = [*taken, "label", "label_ids", *(args.label_names or [])]
            rows = rows.select_columns([name for name in rows.column_names if name in accepted])
        count = len(rows)  # type: ignore[arg-type]
        order = torch.randperm(count, generator=torch.Generator().manual_seed(args.seed))
        number = math.ceil(count / max(args.train_batch_size, args.eval_batch_size))
        sampler = [part.tolist() for part in order.tensor_split(number)] if count else []
        return DataLoader(
            rows,
            batch_sampler=sampler,
            collate_fn=self.trainer.data_collator,
            num_workers=args.dataloader_num_workers,
        )


def estimate_batch_norm(trainer: "Trainer", data: "Batches | Dataset | datasets.Dataset") -> None:
    """Re-estimates the BatchNorm statistics of the trainer's model over a data set, in place.

    Under several processes each does all of it, so that all end with the same statistics.

    Args:
        trainer: Holds the model; its collator and batch size are used.
        data: The data to run through the model once, in shuffled order; [`Batches`] where it is to be often.

    Source: ``torch.optim.swa_utils.update_bn``.
    """
    update_bn(data if isinstance(data, Batches) else Batches(trainer, data), FromBatch(trainer.model))


def write_batch_norm(model: nn.Module, folder: Path) -> None:
    """Writes a model's BatchNorm statistics into a checkpoint folder; no other byte changes."""
    with CheckpointPatch(folder) as patch:
        for path, module in model.named_modules():
            if isinstance(module, _BatchNorm) and module.running_mean is not None:
                for name, buffer in module.named_buffers(recurse=False):
                    patch.write(f"{path}.{name}" if path else name, 0, buffer.detach().reshape(-1).cpu())
