"""What a run begins with: remembered, so that what begins again begins with the same, whatever became of the model.

A live model is trained in place. When the cell of a notebook is run again, after an interruption or with one more
option, the same object holds weights that were trained on all the data, or on a part of it.
"""

import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from know_hf.forgetting.folder import RunFolder
from know_hf.forgetting.stages import branching, first_trained_stage
from know_hf.forgetting.weights import is_sharded, load_weights, plain_model, save_stage
from know_hf.models.adapters import adapter_names, is_adapted, make_plain
from know_hf.store import partial_name, publish, remove
from know_hf.trajectory import TrajectoryError, TrajectoryRecord
from know_hf.trajectory.record import FILE_NAME

if TYPE_CHECKING:
    from know_hf.forgetting.trainer import ForgettingMixin

logger = logging.getLogger(__name__)

#: In the record's description of the model: hash of the weights that the run began with.
FIELD = "start"
# Live model → folder of the run that trained it last in this process.
_TRAINED: WeakKeyDictionary[nn.Module, Path] = WeakKeyDictionary()


def hash_weights(model: nn.Module) -> str:
    """SHA-256 of what a checkpoint of a live model would hold, of an adapted one its adapter."""
    model = plain_model(model)
    live = model.state_dict()
    names = adapter_names(model, live) if is_adapted(model) else {name: name for name in live}
    digest = hashlib.sha256()
    for stored, name in sorted(names.items()):
        tensor = live[name]
        if isinstance(tensor, Tensor) and tensor.layout is torch.strided and not tensor.is_meta:
            digest.update(f"{stored} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def describe_start(trainer: "ForgettingMixin") -> dict[str, str]:
    """The hash of what a run begins with, for its record; nothing where that is known. Every process has to call it."""
    found = None if trainer.keep_start == "never" else _hash(trainer)
    return {} if found is None else {FIELD: found}


def keeps_start(trainer: "ForgettingMixin") -> bool:
    """Whether a run keeps the weights that it begins with, until its stage 0 is made at least."""
    return trainer.keep_start != "never" and first_trained_stage(trainer.args) == 0 and not _in_pieces(trainer)


def room_for_start(trainer: "ForgettingMixin", others: int) -> int:
    """How many checkpoints are to be kept at once, with so many others: where it goes, it goes before the second."""
    return others + (keeps_start(trainer) and (trainer.keep_start == "always" or others == 1))


def begin(trainer: "ForgettingMixin", folder: RunFolder, record: TrajectoryRecord, begun: bool) -> None:
    """Sees to it that the model holds what the run began with, before anything is trained; all processes call it.

    Args:
        trainer: Before its first stage.
        folder: The run's.
        record: Of the run, with the hash of what it begins with; written for one that begins now.
        begun: Whether there was one before.

    Raises:
        TrajectoryError: If the model holds other weights, and those that the run began with are not to be had.
    """
    _tell_of_earlier(trainer, folder.root.absolute(), begun)
    if branching(trainer.args):  # the mean of branches is one of what they began with, too: it stays
        _save(trainer, folder, record, begun)
        if not folder.start.is_dir():
            if begun:
                check_start(trainer, folder.root, record.model.get(FIELD))
            save_given(trainer, folder.start)
        return
    if not (record.stages[0].finished or trainer.keep_start == "never" or _in_pieces(trainer)):
        untold = FIELD not in record.model  # by runs of before
        if begun and not untold:
            _continue(trainer, folder, record.model[FIELD])
        else:
            record.model |= describe_start(trainer)
            trainer.accelerator.wait_for_everyone()  # everyone has looked before anyone writes
            if trainer.is_world_process_zero():
                remove(folder.kept)
            trainer.accelerator.wait_for_everyone()
            begun = False
            _keep(trainer, folder)
    _save(trainer, folder, record, begun)


def _tell_of_earlier(trainer: "ForgettingMixin", root: Path, begun: bool) -> None:
    """Says that a run begins with what another made of the same live model, which may have seen all of the data."""
    model = plain_model(trainer.model)
    earlier = None if begun or trainer.keep_start == "never" else _TRAINED.get(model)
    if earlier is not None and not (earlier.is_relative_to(root) or root.is_relative_to(earlier)):
        logger.warning(
            "The model was trained in this process by the run in %s, on examples that may be set aside now, and this "
            "run begins with what it came to: load the model anew, if that is not meant.", earlier,
        )  # fmt: skip
    _TRAINED[model] = root


def _save(trainer: "ForgettingMixin", folder: RunFolder, record: TrajectoryRecord, begun: bool) -> None:
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero() and not begun:
        record.save(folder.root)


def _keep(trainer: "ForgettingMixin", folder: RunFolder) -> None:
    if keeps_start(trainer) and not folder.kept.is_dir():
        save_given(trainer, folder.kept)


def _continue(trainer: "ForgettingMixin", folder: RunFolder, known: str) -> None:
    """Brings the model of a run that has not finished its stage 0 back to what it began with."""
    changed = _hash(trainer) != known
    if keeps_start(trainer) and folder.kept.is_dir():
        load_weights(trainer.model, folder.kept)  # in every process, of which only the first was looked at
        if changed and _hash(trainer) != known:
            raise TrajectoryError(
                f"{folder.kept} does not hold the weights that this run began with: it is damaged, or of another "
                "model. Choose another output_dir."
            )
        if changed and trainer.is_world_process_zero():
            logger.warning(
                "The model is not as it was when this run began: it was trained since, or drawn anew. It is put back "
                "to the weights that the run began with, which were kept, and stage 0 goes on from there."
            )
    else:
        check_start(trainer, folder.root, known)
        _keep(trainer, folder)


def check_start(trainer: "ForgettingMixin", run: str | Path, known: str | None) -> None:
    """Looks whether a model is what a run began with, where that is needed again; all processes call it.

    Args:
        trainer: Holds the model.
        run: The run's folder, for the message.
        known: Hash of what it began with; None if that is not known.

    Raises:
        TrajectoryError: If it is not.
    """
    if known is not None and trainer.keep_start != "never" and known != _hash(trainer):
        raise TrajectoryError(
            f"The run in {run} needs the weights again that it began with, and the model given holds others (it was "
            "trained since, or drawn anew), while no copy is left: load the model as it was then, or choose another "
            "output_dir."
        )


def begin_as(trainer: "ForgettingMixin", run: str | Path) -> None:
    """Puts what another run began with into a trainer that is to begin with the same.

    Args:
        trainer: Of the same model, in a folder of its own.
        run: Folder of the other run, whose stage 0 is finished.

    Raises:
        TrajectoryError: If that is not to be had.
    """
    own = Path(trainer.args.output_dir)
    done = (own / FILE_NAME).exists() and all(stage.finished for stage in TrajectoryRecord.load(own).stages)
    if done or _in_pieces(trainer):
        return
    folder, record = RunFolder(run), TrajectoryRecord.load(run)
    place = folder.kept if record.recipe.get("train_stage_zero") else folder.stage(0)
    if place.is_dir():
        load_weights(trainer.model, place)
    elif record.model.get(FIELD) != _hash(trainer):
        raise TrajectoryError(
            f"Further runs are to begin with the weights that the run in {run} began with. No copy of them is left, "
            "and the model given may have been trained since: choose another output_dir and load the model anew, or "
            "pass its name."
        )
    trainer.keep_start = "never"  # the other run has it


def save_given(trainer: Any, final: Path) -> None:
    """Saves the model as it is as a plain folder; every process has to call it.

    Args:
        trainer: Holds the weights.
        final: The folder, which is not there.
    """
    partial = partial_name(final)
    trainer.accelerator.wait_for_everyone()  # everyone has looked before anyone writes
    if trainer.is_world_process_zero():
        remove(partial)
        final.parent.mkdir(parents=True, exist_ok=True)
    trainer.accelerator.wait_for_everyone()
    save_stage(trainer, partial)
    if trainer.is_world_process_zero():
        if is_adapted(trainer.model):
            make_plain(trainer.accelerator.unwrap_model(trainer.model), partial)
        (partial / "training_args.bin").unlink(missing_ok=True)
        publish(partial, final)
    trainer.accelerator.wait_for_everyone()


def _in_pieces(trainer: "ForgettingMixin") -> bool:
    return trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled or is_sharded(trainer.model)


def _hash(trainer: "ForgettingMixin") -> str | None:
    """That of the main process, whose weights all begin with; None for a model in pieces."""
    if _in_pieces(trainer):
        return None
    found = hash_weights(trainer.model) if trainer.is_world_process_zero() else ""
    return gather_object([found])[0] if trainer.args.world_size > 1 else found
