"""One checkpoint folder, read from its headers: where every tensor lies, and blocks of it on demand."""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import parse_local_safetensors_file_metadata
from safetensors import SafetensorError, safe_open
from torch import Tensor

from know_hf.reading import read_fields
from know_hf.records import TrajectoryError

#: Storage types whose values torch can hold. Tensors of the others (F4, F6_E2M3 …) are copied as the bytes they are.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
}
#: Storage types whose values a retrodiction can be computed for.
PREDICTABLE = ("F64", "F32", "F16", "BF16")
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")


_SAVE_AGAIN = "Load it with from_pretrained and save it again with save_pretrained."


@dataclass(frozen=True)
class TensorSpec:
    """Where a tensor lies: file, storage type, shape, absolute byte offset and number of bytes.

    The bytes are the header's own statement, checked by safetensors: some types take less than a byte a value, and
    there will be more types.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    @property
    def numel(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of a value, of a type that torch can hold."""
        return DTYPES[self.dtype].itemsize


class Checkpoint:
    """A plain ``from_pretrained`` folder of safetensors, sharded or not, opened without loading it.

    Args:
        folder: Folder that holds ``model.safetensors``, its sharded form or ``adapter_model.safetensors``.

    Raises:
        TrajectoryError: If the folder is missing, holds no safetensors, or a file is damaged.

    Example:
        >>> from know_hf.trajectory import Checkpoint
        >>> Checkpoint("path/to/model").tensors["classifier.weight"].shape  # doctest: +SKIP
        (10, 512)
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise TrajectoryError(f"Checkpoint folder {self.folder} does not exist.")

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.folder)!r})"

    @cached_property
    def weight_file(self) -> Path:
        """The single file or the index, as ``from_pretrained`` would choose.

        Raises:
            TrajectoryError: If there is neither.
        """
        for name in WEIGHT_FILES:
            if (self.folder / name).is_file():
                return self.folder / name
        others = sorted(p.name for p in self.folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".h5"))
        hint = (
            f"it has {', '.join(others)}; load it with from_pretrained and save_pretrained it as safetensors."
            if others
            else "expected model.safetensors or model.safetensors.index.json."
        )
        raise TrajectoryError(f"{self.folder} holds no safetensors weights: {hint}")

    @cached_property
    def tensors(self) -> dict[str, TensorSpec]:
        """Every stored tensor by name, from the headers alone.

        Raises:
            TrajectoryError: If a file is missing or damaged, or index and files contradict each other.
        """
        if self.weight_file.suffix == ".safetensors":
            return self._tensors_of(self.weight_file)
        places = self._index()
        specs: dict[str, TensorSpec] = {}
        for shard in sorted(set(places.values())):
            for name, spec in self._tensors_of(self.folder / shard).items():
                if name in specs:
                    raise TrajectoryError(
                        f"{self.folder}: tensor {name!r} lies both in {specs[name].file.name} and in {shard}, and "
                        f"loaders disagree on which counts. {_SAVE_AGAIN}"
                    )
                specs[name] = spec
        for name, shard in places.items():
            if name not in specs or specs[name].file.name != shard:
                raise TrajectoryError(
                    f"{self.weight_file} is damaged: it says that tensor {name!r} lies in {shard}, where it is not. "
                    f"{_SAVE_AGAIN}"
                )
        return specs

    def _index(self) -> dict[str, str]:
        """Name → file of every tensor, as the index of a sharded checkpoint says."""
        try:
            places = read_fields(self.weight_file, {"weight_map": dict[str, str]})["weight_map"]
            outside = [file for file in places.values() if Path(file).name != file]
            missing = sorted({file for file in places.values() if not (self.folder / file).is_file()})
        except (OSError, ValueError) as error:
            raise TrajectoryError(f"{self.weight_file} is damaged: {error}") from error
        if inside := [file for file in outside if not Path(file).is_absolute() and ".." not in Path(file).parts]:
            raise TrajectoryError(
                f"{self.weight_file} lists shards in sub-folders ({inside[0]:.80}), which are not read. {_SAVE_AGAIN}"
            )
        if outside:
            raise TrajectoryError(f"{self.weight_file} points outside its folder: {outside[0][:80]!r}.")
        if missing:
            raise TrajectoryError(
                f"{self.folder} lacks {len(missing)} of the {len(set(places.values()))} files that "
                f"{self.weight_file.name} lists, e.g. {missing[0][:80]!r}; restore them."
            )
        return places

    def _tensors_of(self, path: Path) -> dict[str, TensorSpec]:
        data_start = check_file(path)
        try:
            header = parse_local_safetensors_file_metadata(path)
        except Exception as error:  # the library raises many types for one thing: an unreadable header
            raise TrajectoryError(f"{path} is damaged: {error}") from error
        return {
            name: TensorSpec(path, info.dtype, tuple(info.shape), data_start + first, last - first)
            for name, info in header.tensors.items()
            for first, last in [info.data_offsets]
        }

    @property
    def nbytes(self) -> int:
        """Size of the weight files in bytes."""
        return sum(path.stat().st_size for path in self.files)

    @property
    def files(self) -> list[Path]:
        """The safetensors files, in a fixed order."""
        return sorted({spec.file for spec in self.tensors.values()})

    def read(self, name: str, start: int = 0, stop: int | None = None, into: Tensor | None = None) -> Tensor:
        """Reads values ``start … stop`` of a flattened tensor, ``(stop - start,)`` in its storage type.

        Args:
            name: Name of the tensor.
            start: First value.
            stop: Value after the last, or None for all the rest.
            into: Contiguous memory for them, of that length and type.

        Raises:
            TrajectoryError: If the file ends early, or torch has no type for the values.
        """
        spec = self.tensors[name]
        if spec.dtype not in DTYPES:
            raise TrajectoryError(f"Tensor {name!r} is of type {spec.dtype}, which can only be copied.")
        stop = spec.numel if stop is None else min(stop, spec.numel)
        buffer = torch.empty(stop - start, dtype=DTYPES[spec.dtype]) if into is None else into
        self._fill(bytes_of(buffer), name, start * spec.itemsize)
        return buffer

    def read_bytes(self, name: str, start: int, stop: int) -> bytearray:
        """Reads bytes ``start … stop`` of a tensor of any storage type; fewer where it ends before.

        Raises:
            TrajectoryError: If the file ends early.
        """
        buffer = bytearray(max(min(stop, self.tensors[name].nbytes) - start, 0))
        self._fill(memoryview(buffer), name, start)
        return buffer

    def _fill(self, view: memoryview, name: str, start: int) -> None:
        spec, done = self.tensors[name], 0
        # Plain reads instead of a mapping: the pages of S files would otherwise count as this process's memory.
        with open(spec.file, "rb", buffering=0) as file:
            file.seek(spec.offset + start)
            while done < len(view):
                count = file.readinto(view[done:])
                if not count:
                    raise TrajectoryError(f"{spec.file} ends inside tensor {name!r}: it is truncated.")
                done += count


def bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU, byte by byte."""
    array: Any = tensor.view(torch.uint8).numpy()
    return memoryview(array)


def all_finite(values: Tensor) -> bool:
    """Whether there is no NaN and no infinity among floating-point values of any shape."""
    # Either makes the sum one, which takes a pass over memory where looking at each value takes many.
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())


def check_file(path: Path) -> int:
    """Lets safetensors itself validate a file; returns where its data start.

    Raises:
        TrajectoryError: If it is damaged.
    """
    try:
        with safe_open(path, framework="numpy"):  # which maps files larger than memory, too
            pass
        with open(path, "rb") as file:
            return 8 + int.from_bytes(file.read(8), "little")
    except (SafetensorError, OSError) as error:
        raise TrajectoryError(
            f"{path} is damaged or truncated ({error}). Delete that stage and run again, or restore the file."
        ) from error
