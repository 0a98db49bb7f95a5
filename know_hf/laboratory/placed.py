"""Examples that lie on the device where a network is trained: images as bytes, gathered and varied there in batches."""

import logging
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from know_hf.training.examples import Examples, as_it_is, varied

logger = logging.getLogger(__name__)

#: Values of a byte.
LEVELS = 256
#: Images that are encoded at a time.
_BLOCK = 4096
#: Data sets that are kept on a device: training and held-out data, those of Θ^0 and those downstream.
_KEPT = 6
_kept: "OrderedDict[tuple[int, str], tuple[dict[str, Tensor], Placed]]" = OrderedDict()


def encode(pixels: Tensor, device: torch.device) -> tuple[Tensor, Tensor] | None:
    """Writes images as bytes where that loses nothing: where a channel has at most 256 different values.

    Images of files have, however a model's preprocessing scaled and shifted them.

    Args:
        pixels: ``(n, c, h, w)`` float32.
        device: Where to put the bytes.

    Returns:
        ``(n, c, h, w)`` uint8 and the values that bytes stand for, ``(c, 256)`` float32, on the device; None where
        there are more values.

    Example:
        >>> import torch
        >>> from know_hf.laboratory.placed import encode
        >>> pixels = torch.tensor([[[[0.5, -1.0]]]])
        >>> codes, values = encode(pixels, torch.device("cpu"))
        >>> codes.tolist(), values[0, codes.long()].tolist() == pixels.tolist()
        ([[[[1, 0]]]], True)
    """
    codes = torch.empty(pixels.shape, dtype=torch.uint8, device=device)
    tables = []
    for channel in range(pixels.shape[1]):
        table = _encode_channel(pixels[:, channel], codes[:, channel])
        if table is None:
            return None
        tables.append(table)
    return codes, torch.stack(tables)


def _encode_channel(pixels: Tensor, codes: Tensor) -> Tensor | None:
    """Fills in the bytes of one channel; returns their values, or None if there are too many."""
    found = torch.empty(0, device=codes.device)
    first = 0
    while first < len(pixels):
        values = pixels[first : first + _BLOCK].to(codes.device).contiguous()
        if not len(found):
            found = torch.unique(values)
        places = torch.searchsorted(found, values).clamp_(max=len(found) - 1)
        unknown = values[found[places] != values]
        if len(unknown):
            found = torch.unique(torch.cat((found, unknown)))
            first = 0  # the bytes written so far may stand for other values now
        else:
            codes[first : first + _BLOCK] = places.to(torch.uint8)
            first += _BLOCK
        if len(found) > LEVELS:
            return None
    return torch.cat((found, found[-1:].expand(LEVELS - len(found))))


class Placed:
    """All rows of [`Examples`](know_hf.training.examples), on a device.

    Args:
        examples: Any view of them.
        device: Where to put them.
        channels_last: Whether images come in that memory order.
    """

    def __init__(self, examples: Examples, device: torch.device, channels_last: bool) -> None:
        self.device, self.channels_last = device, channels_last
        pixels, self.mean = examples.inputs["pixel_values"], None
        if examples.centred is not None:
            pixels, mean = examples.centred
            self.mean = mean.to(device)
        encoded = encode(pixels, device)
        self.codes: Tensor = pixels.to(device) if encoded is None else encoded[0]
        self.values: Tensor | None = None if encoded is None else encoded[1]
        if encoded is None:
            logger.info(
                "The images have more than %d values a channel: they lie on %s as %s.", LEVELS, device, pixels.dtype
            )
        self.others = {name: rows.to(device) for name, rows in examples.inputs.items() if name != "pixel_values"}
        channels = pixels.shape[1]
        #: Where each channel's values begin.
        self.begins = torch.arange(channels, dtype=torch.int32, device=device).view(1, channels, 1, 1) * LEVELS

    def gather(self, rows: Tensor) -> dict[str, Tensor]:
        """The examples of some rows, ``(n,)`` int64 on the device, as they are."""
        pixels = self.codes[rows]
        if self.values is not None:
            places = pixels.to(torch.int32).add_(self.begins)
            pixels = self.values.view(-1).index_select(0, places.view(-1)).view(places.shape)
        if self.mean is not None:
            pixels = pixels - self.mean
        return {"pixel_values": pixels, **{name: values[rows] for name, values in self.others.items()}}

    def ordered(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same batch in the memory order that is asked for."""
        if not self.channels_last:
            return batch
        return {**batch, "pixel_values": batch["pixel_values"].contiguous(memory_format=torch.channels_last)}


def place(examples: Examples, device: torch.device, channels_last: bool = False) -> Placed:
    """Puts examples on a device, unless any view of them lies there already.

    Raises:
        ValueError: If they do not fit there.
    """
    key = id(examples.inputs), f"{device} {channels_last}"
    if key in _kept:
        _kept.move_to_end(key)
        return _kept[key][1]
    while len(_kept) >= _KEPT:
        _kept.popitem(last=False)
    try:
        made = Placed(examples, device, channels_last)
    except torch.OutOfMemoryError:
        _kept.clear()  # others, that may not be needed any more
        try:
            made = Placed(examples, device, channels_last)
        except torch.OutOfMemoryError as error:
            needed = sum(values.nbytes for values in examples.inputs.values()) / 2**30
            raise ValueError(
                f"{len(examples)} examples ({needed:.1f} GiB as they are) do not fit on {device} beside the network: "
                "set fast: false, which reads them batch by batch."
            ) from error
    _kept[key] = examples.inputs, made  # the inputs are kept, so that no others get their number
    return made


class OnDevice(Dataset):
    """What a trainer sees of a data set, read from a device.

    Args:
        dataset: [`Examples`](know_hf.training.examples) or nested subsets of them.
        device: Where they are to lie.
        channels_last: As for [`Placed`].

    Raises:
        TypeError: If it is neither.
    """

    def __init__(self, dataset: Any, device: torch.device, channels_last: bool = False) -> None:
        self.examples, rows = rows_of(dataset)
        self.rows = rows.to(device)
        self.placed = place(self.examples, device, channels_last)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: values[0] for name, values in self.__getitems__([index]).items()}

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        """Gathers a whole batch at once."""
        return next(self.batches([indices]))

    def batches(self, batches: list[list[int]]) -> Iterator[dict[str, Tensor]]:
        """Gathers batches one after the other; their order is sent to the device in one piece."""
        device = self.placed.device
        order = torch.tensor([index for batch in batches for index in batch], dtype=torch.int64)
        rows = self.rows[order.to(device, non_blocking=True)]
        numbers = self.examples.numbers
        numbers = None if numbers is None else numbers.to(device, non_blocking=True)
        for chosen in rows.split([len(batch) for batch in batches]):
            own = None if numbers is None else numbers[:, chosen]
            yield self.placed.ordered(varied(self.placed.gather(chosen), self.examples.augmentation, own))


def rows_of(dataset: Any) -> tuple[Examples, Tensor]:
    """The [`Examples`](know_hf.training.examples) behind nested subsets, and which of all rows they are.

    Raises:
        TypeError: If there are none.
    """
    if isinstance(dataset, Examples):
        return dataset, dataset.rows
    if isinstance(dataset, Subset):
        examples, rows = rows_of(dataset.dataset)
        return examples, rows[torch.as_tensor(dataset.indices)]
    raise TypeError(f"{type(dataset).__name__} holds no prepared examples that could lie on the device.")


class Direct(DataLoader):
    """The batches that a trainer's own loader makes, in the same order, from examples on the device.

    Args:
        loader: The other one, as accelerate prepared it, whose samplers give the order; it reads nothing.
        dataset: Its data, on the device.
    """

    def __init__(self, loader: Any, dataset: OnDevice) -> None:
        super().__init__(dataset, batch_sampler=loader.batch_sampler, collate_fn=as_it_is)
        self.ordinary, self.placed = loader, dataset

    def __iter__(self) -> Iterator[dict[str, Tensor]]:  # type: ignore[override]  # no process, no queue
        torch.empty((), dtype=torch.int64).random_()  # as every DataLoader: whatever draws next draws the same
        self.ordinary.begin()  # accelerate asks it where it stands, to weigh the last batch by its size
        order: Any = self.batch_sampler
        batches = [list(batch) for batch in order]
        for number, batch in enumerate(self.placed.batches(batches), 1):
            self.ordinary.end_of_dataloader = number == len(batches)
            yield batch
        self.ordinary.end()

    def set_epoch(self, epoch: int) -> None:
        """Tells the samplers which epoch it is."""
        self.ordinary.set_epoch(epoch)
