"""BatchNorm statistics from data that are read once, whatever their order and number."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from know_hf.training.batch_norm import Batches, estimate_batch_norm


class Counted(Dataset):
    """Sorted examples that count how often they are read."""

    def __init__(self, size: int) -> None:
        self.values, self.read = torch.linspace(-1, 3, size), 0

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        self.read += 1
        return {"values": self.values[index].repeat(2)}


class Writing(nn.Module):
    """Writes into what it is given, as some models do."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.norm(values.mul_(2))


def trainer_of(size: int) -> SimpleNamespace:
    args = SimpleNamespace(
        train_batch_size=4, eval_batch_size=size, seed=0, dataloader_num_workers=0, disable_tqdm=True,
        remove_unused_columns=True,
    )  # fmt: skip
    return SimpleNamespace(
        model=Writing(), args=args, data_collator=torch.utils.data.default_collate, is_world_process_zero=lambda: True
    )


@pytest.mark.parametrize(("examples", "size"), [(33, 8), (5, 8), (2, 64), (64, 1)])
def test_every_example_counts_in_batches_of_one_size(examples, size):
    trainer, data = trainer_of(size), Counted(examples)
    sizes = [len(batch["values"]) for batch in Batches(trainer, data)]
    assert sum(sizes) == examples and max(sizes) - min(sizes) <= 1 and max(sizes) <= max(size, 4)


@pytest.mark.parametrize(("most", "passes"), [(1 << 20, 1), (100, 3)])
def test_what_fits_is_read_once_and_gives_the_same(most, passes):
    trainer, data = trainer_of(8), Counted(40)
    batches, found = Batches(trainer, data, most), []
    for _ in range(3):
        trainer.model.norm.running_mean.fill_(7)
        estimate_batch_norm(trainer, batches)
        found.append([trainer.model.norm.running_mean.clone(), trainer.model.norm.running_var.clone()])
    assert data.read == passes * 40
    assert all(torch.equal(a, b) for again in found[1:] for a, b in zip(found[0], again, strict=True))
    assert found[0][0].tolist() == pytest.approx([2.0, 2.0], abs=1e-4)
    estimate_batch_norm(trainer, Counted(40))
    assert torch.equal(trainer.model.norm.running_var, found[0][1])


def test_a_pass_that_was_broken_off_keeps_nothing():
    batches = Batches(trainer_of(8), Counted(40))
    for _ in batches:
        break
    assert sum(len(batch["values"]) for batch in batches) == 40
