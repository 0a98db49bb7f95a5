"""Options of collecting meta-data and of meta-training."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from know_hf.settings import COUNT, HUGE, SEED, Options, documented, option

#: What the first objective may measure.
OBJECTIVES = ("absolute", "relative")
#: What a predictor may learn to find. ``stage``: the stage before the window, as the paper does. ``repeated``: the
#: same, averaged over independent repetitions of it. ``same_compute``: the newest stage of the window, moved by what
#: more data would have made of the same steps. The latter two need a meta-data set with branches.
TARGETS = ("stage", "repeated", "same_compute")
#: How many times as many examples a large trial takes, and as many epochs a converged one.
LARGE_EXAMPLES, CONVERGED_EPOCHS = 3, 5
_PROCESSES = (1, 4096)


@documented
@dataclass(frozen=True, kw_only=True)
class CollectionOptions(Options):
    """Which trials are collected, and how."""

    trials: int = option(200, help="Number of trials.", limits=(1, 10_000_000))
    first_seed: int = option(0, help="Seed of the first trial; the others follow.", limits=(0, 2**31))
    architectures: Sequence[str] | None = option(
        None, help="Names of the networks to train (know_hf.meta.networks); all by default."
    )
    examples: tuple[int, int] = option(
        (3000, 8000), help="Smallest and largest number of training examples of stage 0.", limits=(1, COUNT)
    )
    epochs: tuple[int, int] = option(
        (2, 10), help="Smallest and largest number of epochs of every stage.", limits=(1, 1e9)
    )
    converged: float = option(
        1 / 3,
        help=f"Share of trials that train until Θ^0 has converged: {CONVERGED_EPOCHS} times the epochs, an annealed "
        "learning rate, examples from the lower third of their range.",
        limits=(0, 1),
    )
    large: float = option(
        0.1,
        help=f"Share of the others that train wider networks on more data: {LARGE_EXAMPLES} times the examples, "
        "epochs from the lower third of their range.",
        limits=(0, 1),
    )
    augmented: float = option(
        0.5,
        help="Share of trials whose images are rotated, shifted and zoomed at random, as the paper's.",
        limits=(0, 1),
    )
    pool: int | None = option(
        None,
        help="Training images of each data set, the first ones, that trials draw theirs from; by default as many as "
        "the largest trial may need.",
        limits=(1, COUNT),
    )
    branches: int = option(
        0,
        help="Repetitions of each of a trial's branches (know_hf/meta/experimental/branches.py), which serve other "
        "targets of meta-training; 0 for none. Trials that are there already get theirs.",
        limits=(0, 10),
    )
    processes: int = option(
        1, help="Number of processes that are started, where none were launched.", limits=_PROCESSES
    )

    @property
    def images(self) -> int:
        """The size of the pool, which no other number of trials changes."""
        return self.pool or self.examples[1] * (LARGE_EXAMPLES if self.large else 1)


@documented
@dataclass(frozen=True, kw_only=True)
class HeldOut(Options):
    """What a predictor is not trained on, so that it can be judged by it."""

    held_out_architectures: Collection[str] = option(("densenet",), help="Network families that are held out.")
    held_out_data: Collection[str] = option(("fashion_mnist",), help="Data sets that are held out.")


@documented
@dataclass(frozen=True, kw_only=True)
class MetaTrainingOptions(HeldOut):
    """What a predictor is trained on."""

    data: Sequence[str] = option(
        (), help="Hub ids or folders of the data sets that the trials were run on; for the functional objective."
    )
    processes: int = option(1, help="Kinds to train side by side, each on one processor.", limits=_PROCESSES)


@documented
@dataclass(frozen=True)
class FunctionalSettings(Options):
    """How the second objective is trained."""

    epochs: int = option(
        0,
        help="Epochs at most of the second objective, the loss of predicted networks; one step a trial and epoch. 0 "
        "leaves it out.",
        limits=(0, COUNT),
        flag="functional_epochs",
    )
    images: int = option(256, help="Images a step.", flag=False)
    learning_rate: float = option(3e-4, help="Of Adam.", flag=False)
    inner_steps: int = option(0, help="Steps of fine-tuning before that loss is taken.", limits=(0, 10_000))
    patience: int = option(10, help="Epochs without a better choice score after which it ends.", flag=False)


@documented
@dataclass(frozen=True)
class MetaTrainingSettings(Options):
    """How a predictor is trained; the defaults are the paper's objective and penalties.

    Raises:
        ValueError: If a number is out of range or a name unknown.

    Source: paper section 5.1 (ℓ1 objective) and the authors' network definition (penalties); the rest is ours.
    """

    epochs: int = option(100, help="Epochs at most, one cosine decay over all of them.", limits=(1, 1e9))
    rows: int = option(2_000_000, help="Rows drawn an epoch, for each kind.", limits=(1, COUNT))
    batch_size: int = option(8192, help="Rows a step.", limits=(1, COUNT))
    learning_rate: float = option(1e-3, help="Of Adam.", limits=(0, HUGE))
    patience: int = option(20, help="Epochs without a better choice score after which a kind ends.", limits=(1, COUNT))
    kernel_penalty: float = option(
        1e-6, help="L1 penalty on the kernels of the first and last layer of each stream.", flag=False
    )
    bias_penalty: float = option(0.1, help="L1 penalty on their biases.", flag=False)
    seed: int = option(0, help="Of initial values and drawing.", limits=SEED)
    objective: str = option(
        "absolute",
        help="absolute: mean ℓ1 distance; relative: each row's distance as a share of how far its tensor moved, so "
        "that tensors that hardly move count as much as others.",
        choices=OBJECTIVES,
    )
    target: str = option(
        "stage",
        help="What is to be found: stage, repeated or same_compute, see know_hf.meta.samples; the latter two need "
        "branches.",
        choices=TARGETS,
    )
    functional: FunctionalSettings = option(
        default_factory=FunctionalSettings, help="The second objective.", flag=False
    )


@documented
@dataclass(frozen=True, kw_only=True)
class PredictorOptions(Options):
    """What of a KnownConfig meta-training decides."""

    history_length: int = option(5, help="Number S of stages that the predictor reads, 2 to 6.", limits=(2, 1000))
    inputs: str = option("values", help="values (the paper's network) or differences (in units of their own size).")
    conditions: Sequence[str] = option(
        (), help="With differences, what else of a tensor: ratio, horizon, movement, fan_in, profile, agreement."
    )
