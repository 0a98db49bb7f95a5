"""Options of forgetting, next to those of any training."""

import ast
import json
import math
import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from know_hf.forgetting.controls import AVERAGES, CONTROLS, FORGETTING, TRAINED
from know_hf.settings import COUNT, HUGE, SEED, Option, Options, check_limits, documented, option, options_of

if TYPE_CHECKING:
    from know_hf.forgetting.arguments import ForgettingArguments

#: Of fields that come with ``TrainingArguments``: smallest and largest value.
TRAINING_LIMITS: dict[str, tuple[float, float]] = {
    "num_train_epochs": (0, 1e9),
    "max_steps": (-1, COUNT),
    "per_device_train_batch_size": (1, COUNT),
    "per_device_eval_batch_size": (1, COUNT),
    "gradient_accumulation_steps": (1, COUNT),
    "learning_rate": (0, HUGE),
    "weight_decay": (0, 1e9),
    "adam_beta1": (0, 1),
    "adam_beta2": (0, 1),
    "adam_epsilon": (0, 1e9),
    "max_grad_norm": (0, math.inf),
    "label_smoothing_factor": (0, 1),
    "neftune_noise_alpha": (0, 1e9),
    "warmup_steps": (0, COUNT),
    "logging_steps": (0, COUNT),
    "eval_steps": (0, COUNT),
    "save_steps": (0, COUNT),
    "eval_delay": (0, COUNT),
    "eval_accumulation_steps": (1, COUNT),
    "dataloader_num_workers": (0, 4096),
    "seed": SEED,
    "data_seed": SEED,
}


@documented
@dataclass
class ForgettingSettings:
    """The fields that forgetting adds to training arguments, as a mixin for any subclass of them.

    Raises:
        ValueError: If a value is out of range or an inherited setting cannot work stage by stage.

    Source: paper sections 3 and 5.

    Example:
        >>> from dataclasses import dataclass
        >>> from transformers import Seq2SeqTrainingArguments
        >>> from know_hf import ForgettingSettings
        >>> @dataclass
        ... class ForgettingSeq2SeqArguments(ForgettingSettings, Seq2SeqTrainingArguments):
        ...     pass
    """

    num_stages: int = option(
        5, help="Number S of stages that the predictor reads, the first on all the data.", limits=(2, 1000)
    )
    sampling_ratio: float = option(0.5, help="Ratio r between the sizes of successive data sets, 0 < r < 1.")
    subset_seed: int | None = option(None, help="Seed of the nested subsets; by default seed.", limits=SEED)
    stratify_by: str | None = option(None, help="Label column whose shares every subset keeps.")
    train_stage_zero: bool | None = option(
        None,
        help="Train stage 0 on all the data, or take the model as it is. By default enrich_pretrained trains it when "
        "the head is new, and a bare ForgettingTrainer takes it as it is.",
    )
    carry_optimizer: bool = option(
        True,
        help="Carry optimizer moments over from stage to stage (the authors' code); else each stage starts fresh. The "
        "learning rate schedule and the optimizer's settings restart either way, also those given to the trainer as "
        "optimizers.",
    )
    learning_rate_steps: dict | str | None = option(
        None,
        help="Factors of the learning rate by the number of finished epochs from which they hold, anew in every stage, "
        'such as {"81": 0.1, "161": 0.01}; with lr_scheduler_type constant.',
        metavar="JSON",
    )
    self_check: bool = option(
        False, help="Train one further, smallest stage from which stage 0 can be retrodicted, as a test."
    )
    average_stage_zero: str | None = option(
        None,
        help="While stage 0 is trained, record an average of its weights and write it beside it, as stage-0-ema or "
        "stage-0-swa: ema, an exponential moving average; swa, the plain average over the end of the stage; both.",
        choices=tuple(AVERAGES),
    )
    average_decay: float = option(
        0.999, help="Of ema: share that stays of the average in every step, reached step by step.", limits=(0, 1)
    )
    average_start: float = option(0.75, help="Of swa: share of the steps after which it begins.", limits=(0, 1))
    recipe: str = option(
        FORGETTING,
        help=f"{FORGETTING}, or a control that spends training the same data and steps otherwise: "
        + "; ".join(f"{name} {CONTROLS[name].help}" for name in TRAINED if name != FORGETTING)
        + ".",
        choices=TRAINED,
    )

    def __post_init__(self) -> None:
        if self.num_stages < 2:
            raise ValueError(f"num_stages is {self.num_stages}; forgetting needs at least 2 stages.")
        if not 0 < self.sampling_ratio < 1:
            raise ValueError(f"sampling_ratio is {self.sampling_ratio}; it must lie strictly between 0 and 1.")
        values = vars(self)  # those of the training arguments that it is mixed into, too
        for name, known in options_of(ForgettingSettings).items():
            known.check(values[name])
        check_limits(values, TRAINING_LIMITS)
        epochs, steps = values["num_train_epochs"], values["max_steps"]
        if not epochs > 0 or steps < -1 or steps == 0:
            raise ValueError(f"num_train_epochs is {epochs}, max_steps {steps}; a stage has to take steps.")
        if self.recipe != FORGETTING and self.self_check:
            raise ValueError(f"self_check retrodicts a forgetting run; recipe={self.recipe!r} has nothing to check.")
        if self.learning_rate_steps is not None:
            self.learning_rate_steps = read_steps(self.learning_rate_steps)
            kind = str(getattr(values["lr_scheduler_type"], "value", values["lr_scheduler_type"]))
            if kind != "constant":
                raise ValueError(
                    f"learning_rate_steps are factors of a constant learning rate, and lr_scheduler_type is {kind!r}: "
                    "set it to constant, or leave learning_rate_steps out."
                )
        if self.recipe != FORGETTING and self.average_stage_zero is not None:
            raise ValueError(f"average_stage_zero is for a forgetting run; recipe={self.recipe!r} records no averages.")
        if getattr(self, "push_to_hub", False):
            raise ValueError(
                "push_to_hub would upload half-made stages; leave it off and push the finished folders instead: "
                "enrich_pretrained(…, push_to_hub=True, hub_model_id=…) does, when all is done."
            )
        super().__post_init__()  # type: ignore[misc]  # of the training arguments
        # A stage that stops early would look finished; ForgettingMixin saves by itself when the process is terminated.
        self.enable_jit_checkpoint = False
        # A continued stage is to stop where it would have: early stopping counts on from where it was.
        self.restore_callback_states_from_checkpoint = True
        # Trainer stores its arguments as a pickle beside every checkpoint; a token has no use here and no place there.
        self.hub_token = None
        if self.subset_seed is None:
            self.subset_seed = vars(self)["seed"]


@documented
@dataclass(frozen=True, kw_only=True)
class Pace(Options):
    """How often and how fast a model is to forget, where only that is asked."""

    num_stages: int | None = option(
        None, help="Number S of stages to plan for; by default the run's, or the predictor's.", limits=(2, 1000)
    )
    sampling_ratio: float | None = option(
        None, help="Ratio r to plan for; by default the run's, or 0.5.", limits=(0.001, 0.999)
    )


def read_steps(given: Any) -> dict[float, float]:
    """What ``learning_rate_steps`` says.

    Args:
        given: Finished epochs → factor, or the same as JSON.

    Returns:
        The same by rising number of epochs.

    Raises:
        ValueError: If it is none of it.

    Example:
        >>> from know_hf.forgetting.options import read_steps
        >>> read_steps('{"161": 0.01, "81": 0.1}')
        {81.0: 0.1, 161.0: 0.01}
    """
    try:
        steps = json.loads(given) if isinstance(given, str) else given
        read = {float(epochs): float(factor) for epochs, factor in steps.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"learning_rate_steps is {given!r}; it must be like {{'81': 0.1, '161': 0.01}}.") from error
    wrong = [epochs for epochs, factor in read.items() if not (0 < epochs < math.inf and 0 < factor < math.inf)]
    if wrong or not read:
        raise ValueError(f"learning_rate_steps is {given!r}; it must hold epochs and factors, all of them above 0.")
    return dict(sorted(read.items()))


@documented
@dataclass(frozen=True, kw_only=True)
class TrainerOptions(Options):
    """What a trainer is made of, beside model and training data."""

    eval_dataset: Any = option(
        None,
        help="Data to score every stage and enriched checkpoint on, where they are no split of the data set: a data "
        "set, Hub id, folder or file; an id or folder means its test split. Classes are matched with those of the "
        "training data by name.",
        kind=str,
    )
    selection_split: Any = option(
        None,
        help="Training examples to set aside before anything is trained, on which the best checkpoint is chosen: a "
        "share, a number, or the name of a split of the data set (in Python also a data set) that is neither trained "
        "nor scored on, of 20 examples at least, which a finished run may be given, too. enrich by default takes "
        "a tenth, of each class alike, but at least 100; of fewer than 300 examples a third by turns.",
        kind=str,
    )
    args: "ForgettingArguments | None" = option(
        None, help="Training and forgetting settings, or give them as keywords.", flag=False, kind=object
    )
    data_collator: Callable | None = option(
        None, help="When given, data sets and labels are taken as they are, as with Trainer.", flag=False
    )
    compute_metrics: Callable | None = option(
        None, help="As with Trainer; by default the task's own scores.", flag=False
    )
    processing_class: Any = option(
        None, help="As with Trainer; saved with every checkpoint, and the tokenizer of a live model.", flag=False
    )
    callbacks: list | None = option(None, help="As with Trainer.", flag=False)
    trainer_class: type | None = option(
        None, help="ForgettingTrainer (the default), or another Trainer with ForgettingMixin.", flag=False
    )


@cache
def training_options() -> dict[str, Option] | None:
    """All training arguments by name, read from the source of transformers: importing it takes seconds.

    Returns:
        Name → option, those of [`ForgettingSettings`] included; None where there is no source to read.
    """
    package = find_spec("transformers")  # finds a package without importing it
    if package is None or not package.origin:
        return None
    try:
        source = Path(package.origin).with_name("training_args.py").read_text(encoding="utf-8")
        classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    except (OSError, SyntaxError, ValueError):
        return None
    own = next((node for node in classes if node.name == "TrainingArguments"), None)
    if own is None or own.bases:  # what it inherits from elsewhere would be missed, and its flags refused
        return None
    found = {}
    for part in own.body:
        if isinstance(part, ast.AnnAssign) and not ast.unparse(part.target).startswith("_"):
            name = ast.unparse(part.target)
            found[name] = _training_option(name, ast.unparse(part.annotation))
    return found | options_of(ForgettingSettings)


def _training_option(name: str, annotation: str) -> Option:
    kind = re.sub(r"^(typing\.)?Optional\[(.*)\]$", r"\2", annotation.strip("'\""))
    kind = " | ".join(part for part in kind.split(" | ") if part != "None")
    form, many = {"bool": bool, "int": int, "float": float, "list[str]": str}.get(kind, object), ""
    off = "none" if name == "report_to" else "no" if "Strategy" in kind else None
    if kind == "list[str]":
        many = "list"
    return Option(name, kind, form, many, MISSING, limits=TRAINING_LIMITS.get(name), flag=name, off=off)


def training_fields() -> dict[str, str] | None:
    """All training arguments with their types, as the source writes them, without ``| None``; None as above."""
    options = training_options()
    if options is None:
        return None
    return {name: known.type_name.replace(" | None", "") for name, known in options.items()}
