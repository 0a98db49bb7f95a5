"""What a ForgettingTrainer looks at before anything expensive, so that it ends in words and not hours later."""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import IterableDataset
from transformers import Trainer, TrainingArguments

from know_hf.forgetting.arguments import ForgettingSettings
from know_hf.forgetting.stages import check_train_dataset
from know_hf.forgetting.weights import plain_model
from know_hf.models.adapters import check_adapter, is_adapted
from know_hf.trajectory import kinds_of
from know_hf.trajectory.given import listed
from know_hf.trajectory.kinds import PREDICTED_KINDS

logger = logging.getLogger(__name__)

_EASIER = "enrich_pretrained and forget_pretrained prepare pictures and texts by themselves"


def named_arguments(init: Callable, args: Sequence, kwargs: Mapping[str, Any]) -> tuple[Sequence, dict[str, Any]]:
    """Names positional arguments as far as the signature has names; returns those without one, and the named."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [name for name, parameter in inspect.signature(init).parameters.items() if parameter.kind in positional]
    return args[len(names) :], {**dict(zip(names, args, strict=False)), **kwargs}


def check_construction(named: dict[str, Any]) -> None:
    """Looks at what a trainer is made of; takes wrappers off the model, which is changed in ``named``.

    Raises:
        TypeError: If model, arguments or data are of a kind that cannot be used.
        ValueError: If there is no model.
    """
    args = named.get("args")
    missing = [field.name for field in fields(ForgettingSettings) if not hasattr(args, field.name)]
    if missing:
        what = "nothing" if args is None else f"a {type(args).__name__} without {', '.join(missing[:3])} …"
        raise TypeError(
            f"args is {what}: pass ForgettingArguments(output_dir, …), which has every field of TrainingArguments, "
            "too; for a subclass of those make a data class of (ForgettingSettings, YourArguments)."
        )
    model = named.get("model")
    if named.get("model_init") is not None or model is None:
        raise ValueError(
            "Forgetting needs one model from start to end: pass model=AutoModelFor….from_pretrained(…); model_init is "
            "not supported."
        )
    if isinstance(model, nn.Module):
        named["model"] = plain_model(model)
        if named["model"] is not model:
            logger.warning(
                "The %s around the model is taken off, so that tensors keep their names; torch_compile=True compiles, "
                "and torchrun or accelerate launch distribute the training.", type(model).__name__,
            )  # fmt: skip
    if named.get("optimizer_cls_and_kwargs") is not None:
        optimizer, settings = named["optimizer_cls_and_kwargs"]
        named["optimizer_cls_and_kwargs"] = optimizer, dict(settings)  # Trainer takes entries out
    if named.get("train_dataset") is not None:
        check_train_dataset(named["train_dataset"])
    evaluation = named.get("eval_dataset")
    for dataset in evaluation.values() if isinstance(evaluation, dict) else [evaluation]:
        _check_eval_dataset(dataset)


def check_model_kind(model: Any) -> None:
    """Raises ``TypeError`` for what is no model; some trainers load names by themselves, so that this comes last."""
    if isinstance(model, (str, Path)):
        raise TypeError(
            f"model is the name {str(model)!r}: load it first (AutoModelFor….from_pretrained), or pass the name to "
            "enrich_pretrained or forget_pretrained."
        )
    if not isinstance(model, nn.Module):
        what = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        raise TypeError(f"model is {what}, not a live model: pass AutoModelFor….from_pretrained(…).")


def _check_eval_dataset(dataset: Any) -> None:
    if dataset is None or isinstance(dataset, (IterableDataset, datasets.IterableDataset)):
        return
    if isinstance(dataset, (str, Path)) or not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise TypeError(
            f"eval_dataset is {str(dataset)[:40]!r}, a {type(dataset).__name__}: pass a data set, e.g. "
            "load_dataset(…)['test'], or a dictionary of them."
        )
    if not len(dataset):
        raise ValueError("eval_dataset is empty; pass examples to score the stages on, or leave it out.")


def check_labels(trainer: Trainer) -> None:
    """Looks at the label columns of data that the caller prepared, as far as they are read as they are stored.

    Raises:
        ValueError: If rows are unlabelled, or evaluation data number the classes otherwise than training data.
    """
    config = getattr(trainer.model, "config", None)
    if getattr(config, "problem_type", None) == "regression" or getattr(config, "num_labels", 0) == 1:
        return  # any number is a target
    evaluation = trainer.eval_dataset if isinstance(trainer.eval_dataset, dict) else {"": trainer.eval_dataset}
    train_column = _label_column(trainer.train_dataset)
    for what, data in [
        ("train_dataset", trainer.train_dataset),
        *((f"eval_dataset {n}", d) for n, d in evaluation.items()),
    ]:
        if (column := _label_column(data)) is None:
            continue
        labels = data.with_format("numpy", columns=[column])[column][:]
        if (unlabelled := labels < 0).any():
            raise ValueError(
                f"{what.strip()}: {unlabelled.sum()} of {len(labels)} rows have a negative label in {column!r}, the "
                f"first is row {int(unlabelled.argmax())} ({labels[unlabelled][0]}): unlabelled? Pass another split."
            )
        names = getattr(data.features[column], "names", None)
        known = getattr(trainer.train_dataset.features[train_column], "names", None) if train_column else None
        if names and known and names != known[: len(names)]:
            raise ValueError(
                f"{what.strip()} numbers its classes {', '.join(names[:4])} …, train_dataset {', '.join(known[:4])} …, "
                "so that labels would be compared by number: eval_dataset.align_labels_with_mapping("
                f"{{name: number of train_dataset}}, {column!r}) puts them right."
            )


def _label_column(dataset: Any) -> str | None:
    """The column of one class an example, where it is read as it is stored."""
    if not isinstance(dataset, datasets.Dataset) or dataset.format["type"] == "custom":
        return None  # a transform may do anything to it
    integer = [
        name
        for name, feature in dataset.features.items()
        if isinstance(feature, datasets.ClassLabel) or (isinstance(feature, datasets.Value) and "int" in feature.dtype)
    ]
    return next((name for name in ("labels", "label") if name in integer), None)


def check_sizes(sizes: Sequence[int], args: TrainingArguments, model: nn.Module) -> None:
    """Says beforehand what a small subset would do hours later.

    Args:
        sizes: Examples of each stage.
        args: The training arguments.
        model: The live model.

    Raises:
        ValueError: If a stage would have no batch at all.
    """
    together, smallest = args.train_batch_size * args.world_size, min(sizes)
    if args.dataloader_drop_last and smallest < together:
        stage = sizes.index(smallest)
        raise ValueError(
            f"Stage {stage} has {smallest} examples, less than one batch of {together}, and dataloader_drop_last drops "
            "it, so that there would be nothing to train on: set dataloader_drop_last=False, a batch size of at most "
            f"{max(smallest // args.world_size, 1)} a process, fewer stages or a larger sampling_ratio."
        )
    if smallest < together * args.gradient_accumulation_steps:
        logger.warning(
            "The smallest subset has %d examples, less than one batch of %d.",
            smallest, together * args.gradient_accumulation_steps,
        )  # fmt: skip
    if lonely := [str(stage) for stage in lonely_stages(sizes, args, model)]:
        logger.warning(
            "Stage %s ends an epoch with a batch of one example, on which BatchNorm may fail: set "
            "dataloader_drop_last or another batch size.", ", ".join(lonely),
        )  # fmt: skip


def lonely_stages(sizes: Sequence[int], args: TrainingArguments, model: nn.Module) -> list[int]:
    """The stages that end an epoch with a batch of one example, where that may fail: BatchNorm has no variance then."""
    if args.dataloader_drop_last or not any(isinstance(m, _BatchNorm) for m in model.modules()):
        return []
    return [stage for stage, size in enumerate(sizes) if size % (args.train_batch_size * args.world_size) == 1]


def check_settings(args: TrainingArguments) -> None:
    """Raises ``ValueError`` if the best checkpoint of a stage would not always be there to be loaded."""
    strategies = {str(getattr(s, "value", s)) for s in (args.eval_strategy, args.save_strategy)}
    if args.load_best_model_at_end and strategies == {"steps"} and args.eval_steps != args.save_steps:
        raise ValueError(
            f"load_best_model_at_end with eval_steps={args.eval_steps:g} and save_steps={args.save_steps:g} loses the "
            "best weights when they are scored but not saved: set both to the same, or save_strategy='best'."
        )


def check_model(model: nn.Module, recipe: str) -> None:
    """Looks whether there is something to train and, for forgetting, to predict.

    Raises:
        ValueError: If nothing is trained, or what is trained would not or could not be stored.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("All parameters of the model are frozen; set requires_grad on those that are to be trained.")
    check_adapter(model)
    _check_storage(model)
    if recipe == "forgetting" and not any(p.kind in PREDICTED_KINDS and p.trained for p in kinds_of(model).values()):
        logger.warning(
            "Nothing that is trained is a weight or bias of a convolution or linear layer: there will be nothing to "
            "predict, unless norms=, embeddings= or kinds= say otherwise."
        )


def _check_storage(model: nn.Module) -> None:
    """Looks whether the tensors of a plain module can be written; classes that save themselves see to that."""
    if hasattr(model, "save_pretrained"):
        return
    tensors = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if tensor.layout is torch.strided and tensor.numel() and not tensor.is_meta
    }
    if scattered := [name for name, tensor in tensors.items() if not tensor.is_contiguous()]:
        raise ValueError(
            f"{listed(scattered)} of the {type(model).__name__} cannot be stored, as they are not contiguous (a "
            "transposed view, or channels_last): before making the trainer, put tensor.data.contiguous() in their "
            "place (parameter.data = parameter.data.contiguous())."
        )
    spans = sorted((str(t.device), t.data_ptr(), t.data_ptr() + t.nbytes, name) for name, t in tensors.items())
    shared: list[str] = []
    device, end, last = "", 0, ""
    for where, start, stop, name in spans:
        if where == device and start < end:
            shared += [last, name] if last not in shared else [name]
        if where != device or stop > end:
            device, end, last = where, stop, name
    if shared:
        raise ValueError(
            f"{listed(shared)} of the {type(model).__name__} share memory (tied weights), which a plain module's "
            "checkpoint cannot say: make the model a transformers.PreTrainedModel that names them in "
            "_tied_weights_keys, or give each a tensor of its own."
        )


def check_batches(trainer: Trainer) -> None:
    """Makes a batch of the training data and of the evaluation data, as the trainer will, and looks at it.

    Raises:
        ValueError: If that fails, or the batch holds nothing that the model takes.
    """
    _check_batch(trainer, trainer.get_train_dataloader, trainer.train_dataset, "train_dataset")
    evaluation = trainer.eval_dataset
    # By name, as Trainer itself asks for them: it keeps loaders under these names.
    parts = evaluation.items() if isinstance(evaluation, dict) else [(None, evaluation)]
    dropping, trainer.args.dataloader_drop_last = trainer.args.dataloader_drop_last, False
    try:
        for part, dataset in parts:
            if dataset is not None:
                _check_batch(trainer, partial(trainer.get_eval_dataloader, part), dataset, "eval_dataset")
    finally:
        trainer.args.dataloader_drop_last = dropping


def _check_batch(trainer: Trainer, loader: Callable, dataset: Any, name: str) -> None:
    columns = getattr(dataset, "column_names", None)
    described = f"{name} ({', '.join(columns)})" if columns else name
    advice = (
        "pass a data_collator that makes what the model takes (with remove_unused_columns=False, if it reads other "
        f"columns), or prepare the data with set_transform; {_EASIER}."
    )
    try:
        batch = next(iter(loader()))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"No batch can be made of {described}: {type(error).__name__}: {error}. Please {advice}"
        ) from error
    own_loss = trainer.compute_loss_func is not None or type(trainer).compute_loss is not Trainer.compute_loss
    if not isinstance(batch, Mapping) or own_loss:
        return  # only the caller knows what becomes of it
    model = trainer.model.get_base_model() if is_adapted(trainer.model) else trainer.model
    accepted = inspect.signature(model.forward).parameters
    takes = [n for n, p in accepted.items() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    labels = {*trainer.label_names, "labels", "label"}
    if takes and not [key for key in batch if key in takes and key not in labels]:
        raise ValueError(
            f"A batch of {described} holds {', '.join(batch) or 'nothing'}, but {type(model).__name__} takes "
            f"{', '.join([n for n in takes if n not in labels][:3])} …: {advice}"
        )
