"""Settings of a forgetting run, next to those of any training."""

from dataclasses import dataclass, field

from transformers import TrainingArguments

from know_hf.limits import check_limits

RECIPES = ("forgetting", "incremental", "equal_compute")


@dataclass
class ForgettingSettings:
    """The fields that forgetting adds to training arguments, as a mixin for any subclass of them.

    Args:
        num_stages: Number S of stages that the predictor reads, the first on all the data.
        sampling_ratio: Ratio r between the sizes of successive data sets.
        subset_seed: Seed of the nested subsets; by default ``seed``.
        stratify_by: Label column whose shares every subset keeps.
        train_stage_zero: Whether stage 0 is trained on all the data or the model taken as it is. By default
            [`enrich_pretrained`] trains it when the head is new, and a bare [`ForgettingTrainer`] takes it as it is.
        carry_optimizer: Whether optimizer moments carry over from stage to stage (the authors' code) or each
            stage starts fresh. The learning rate schedule and the optimizer's settings restart either way, also those
            given to the trainer as ``optimizers``.
        self_check: Whether to train one further, smallest stage from which Θ^0 can be retrodicted as a test.
        recipe: ``"forgetting"``, or a control that spends training the same data and steps otherwise:
            ``"incremental"`` trains from the smallest subset to the largest, the last stage is the result;
            ``"equal_compute"`` trains the model on all the data for as many steps as its forgetting would take.

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

    num_stages: int = field(default=5, metadata={"help": "Number S of stages that the predictor reads."})
    sampling_ratio: float = field(default=0.5, metadata={"help": "Ratio r of successive data set sizes, 0 < r < 1."})
    subset_seed: int | None = field(default=None, metadata={"help": "Seed of the nested subsets; default: --seed."})
    stratify_by: str | None = field(default=None, metadata={"help": "Label column whose shares every subset keeps."})
    train_stage_zero: bool | None = field(
        default=None, metadata={"help": "Train stage 0 on all the data; default: only when the head is new."}
    )
    carry_optimizer: bool = field(default=True, metadata={"help": "Carry optimizer moments over from stage to stage."})
    self_check: bool = field(
        default=False, metadata={"help": "Train one further stage and retrodict stage 0 from it, as a test."}
    )
    recipe: str = field(
        default="forgetting", metadata={"help": "forgetting, or a control: incremental, equal_compute."}
    )

    def __post_init__(self):
        if self.num_stages < 2:
            raise ValueError(f"num_stages is {self.num_stages}; forgetting needs at least 2 stages.")
        if not 0 < self.sampling_ratio < 1:
            raise ValueError(f"sampling_ratio is {self.sampling_ratio}; it must lie strictly between 0 and 1.")
        check_limits(vars(self))
        epochs, steps = self.num_train_epochs, self.max_steps
        if not epochs > 0 or steps < -1 or steps == 0:
            raise ValueError(f"num_train_epochs is {epochs}, max_steps {steps}; a stage has to take steps.")
        if self.recipe not in RECIPES:
            raise ValueError(f"recipe={self.recipe!r} is not known; use one of {', '.join(RECIPES)}.")
        if self.recipe != "forgetting" and self.self_check:
            raise ValueError(f"self_check retrodicts a forgetting run; recipe={self.recipe!r} has nothing to check.")
        if getattr(self, "push_to_hub", False):
            raise ValueError(
                "push_to_hub would upload half-made stages; leave it off and push the finished folders instead."
            )
        super().__post_init__()
        # A stage that stops early would look finished; ForgettingMixin saves by itself when the process is terminated.
        self.enable_jit_checkpoint = False
        # A continued stage is to stop where it would have: early stopping counts on from where it was.
        self.restore_callback_states_from_checkpoint = True
        # Trainer stores its arguments as a pickle beside every checkpoint; a token has no use here and no place there.
        self.hub_token = None
        if self.subset_seed is None:
            self.subset_seed = self.seed


@dataclass
class ForgettingArguments(ForgettingSettings, TrainingArguments):
    """Training arguments of a [`ForgettingTrainer`].

    All of ``TrainingArguments`` with their own defaults, applied to every stage alike (the same number of epochs a
    stage), plus the fields of [`ForgettingSettings`].

    Raises:
        ValueError: As [`ForgettingSettings`].

    Source: paper section 5.

    Example:
        >>> from know_hf import ForgettingArguments
        >>> ForgettingArguments("run", sampling_ratio=0.33, num_train_epochs=2).num_stages
        5
    """
