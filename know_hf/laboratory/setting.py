"""One column of an experiment's table: a pre-training, what is made of its stages, and a downstream task."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from know_hf.enrichment.options import Extent
from know_hf.forgetting.controls import TRAINED, find_control
from know_hf.forgetting.options import training_options
from know_hf.laboratory.options import Cell, Decoder, Protocol, Repetition
from know_hf.reading import check_form
from know_hf.retrodiction import ALL, METHODS, get_method
from know_hf.settings import (
    HUGE,
    TINY,
    Options,
    check_names,
    conform,
    documented,
    make,
    option,
    options_of,
    stated_by,
)
from know_hf.training.options import Augmentation, DataOptions
from know_hf.trajectory.noise import Noise

#: Starts that are fitted to data, or chosen by them.
CHOSEN = ("fitted", "best")
#: Seed of a pre-training that names none.
USUAL_SEED = 42
# From one pre-training's seed to the next: its stages take those in between.
_APART = 100
# What cells say in other words.
_OF_CELLS = ("methods", "controls", "reset", "chosen", "full_grid", "learning_rates")


@documented
@dataclass(frozen=True)
class Pretraining(Options):
    """How Θ^0 comes about, forgets, and what the trained controls share with it.

    Source: paper section 5.
    """

    dataset: str = option(help="Folder or Hub id of the data of Θ^0.")
    train_split: str = option("train", help="Training split; slices such as train[:25%] are fractions of the data.")
    eval_split: str = option("test", help="Split for the scores of the stages.")
    selection_split: str | None = option(
        None,
        help="Split that nothing is trained on, for chosen starts: what best is, is chosen on it. Leave it out of the "
        "two others.",
    )
    label_column: str | None = stated_by(DataOptions, "label_column")
    task: str | None = stated_by(DataOptions, "task")
    model: str | None = option(None, help="Folder or Hub id of a model to start from.")
    architecture: dict[str, Any] | None = option(
        None,
        help="Instead of a model, a network to train from nothing: timm: name with model_args, or model_type: … with "
        "fields of its transformers configuration.",
    )
    image_size: int | None = stated_by(DataOptions, "image_size")
    max_length: int | None = stated_by(DataOptions, "max_length")
    image_mean: str | None = option(
        None,
        help="pixel: subtract from images, as the model reads them, the mean of the training images, pixel by pixel "
        "(the authors' code); downstream, that of the pool. Stages do not carry it along.",
        choices=("pixel",),
    )
    augmentation: dict[str, Any] | None = option(None, help="Fields of Augmentation; none by default.")
    training: dict[str, Any] = option(default_factory=dict, help="Fields of ForgettingArguments.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.model is None) == (self.architecture is None):
            raise ValueError("pretraining: give either model or architecture.")
        if (known := training_options()) is not None:
            check_names(self.training, known, "pretraining.training")
            conform(self.training, known, "pretraining.training")
        make(Augmentation, self.augmentation or {}, "pretraining.augmentation")


@documented
@dataclass(frozen=True)
class Downstream(Options):
    """What the candidates are fine-tuned on, and how.

    Source: paper section 5.2.
    """

    dataset: str = option(help="Folder or Hub id.")
    train_split: str = option("train", help="Pool that each seed draws its examples from.")
    test_split: str = option("test", help="For the scores.")
    validation_split: str | None = option(None, help="To choose learning rates on; by default drawn from the pool.")
    label_column: str | None = stated_by(DataOptions, "label_column")
    task: str | None = stated_by(DataOptions, "task")
    protocol: dict[str, Any] = option(default_factory=dict, help="Fields of Protocol.")
    held_out: dict[str, Any] | None = option(
        None,
        help="A column and one of its values, such as domain: sketch: rows with it are the test data, those without it "
        "the training data (and those to choose rates on), whatever their split.",
    )
    decoder: dict[str, Any] | None = option(
        None, help="Of captions, fields of Decoder: what every start is joined to; by default it has its own."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.make_protocol()
        self.make_decoder()
        if self.held_out is not None and len(self.held_out) != 1:
            raise ValueError(f"transfer.held_out is {self.held_out}; it names one column and one of its values.")

    def make_decoder(self) -> Decoder | None:
        """The decoder that the fields describe, if any."""
        return None if self.decoder is None else make(Decoder, self.decoder, "transfer.decoder")

    def make_protocol(self) -> Protocol:
        """The protocol that the fields describe."""
        described = dict(self.protocol)
        check_form(described, {"training_arguments": dict[str, Any] | None}, "transfer.protocol")
        further = described.get("training_arguments") or {}
        if (known := training_options()) is not None:
            check_names(further, known, "protocol.training_arguments")
        described["training_arguments"] = tuple(sorted(further.items()))
        return make(Protocol, described, "transfer.protocol")


@documented
@dataclass(frozen=True)
class Setting(Options):
    """One column of a table: a pre-training, its retrodictions and controls, and a downstream task.

    Source: paper section 5; controls and grid are ours.
    """

    name: str = option(help="Shown in the tables.")
    pretraining: Pretraining = option(help="How Θ^0 comes about.")
    transfer: Downstream | None = option(
        None, help="The downstream task; without one, only costs and scores of the stages are reported."
    )
    methods: tuple[str, ...] = option(("known", "shrink"), help="Retrodiction methods; all for every one.")
    cells: tuple[Cell, ...] = option(
        (),
        help="Instead of methods, controls, reset, chosen and the grid: single starts, each at its own learning rates, "
        "run seed by seed. The first is naive, with whose first rate all others are compared.",
    )
    predictors: tuple[str, ...] = option(
        (),
        help="Predictors that cells may name, which the command line gives (--predictors NAME=FOLDER); the cells of "
        "one that is not given are left out.",
    )
    pretraining_seeds: int | tuple[int, ...] = option(
        (),
        help="The same again from other seeds: a list of them, or how many (the pre-training's own, and on in "
        "hundreds); each is a column, NAME, seed N. Of cells one table is made.",
    )
    steps: int = stated_by(Extent, "steps")
    read_stages: int | None = option(
        None, help="Stages S that the methods read, the first of those trained; by default all of them."
    )
    controls: tuple[str, ...] = option(
        (),
        help="incremental, equal_compute, once_more; soup: the average of branches from Θ^0 on halves of the data; "
        "soup_stock: those merged by Model Stock's ratio; shrink F: Θ^0 times the factor F; shrink to NAME: with the "
        "norms of that method or predictor; shrink_perturb F: shrunk and noise; ema, swa: averages of Θ^0 as it was "
        "trained; task_vector_chosen: a task vector, its λ chosen by validation.",
    )
    reset: tuple[str, ...] = option(
        (),
        help="What is compared with reset normalisation (norms=reset), too: naive, methods, predictors and predicted "
        "controls by name; known for every predictor. Their arms are called NAME reset.",
    )
    chosen: tuple[str, ...] = option(
        (),
        help="Starts that enrich would make of the same stages, too: fitted, the best point that they span; best, what "
        "the examples of selection_split choose.",
        choices=CHOSEN,
    )
    full_grid: tuple[str, ...] = option(
        ("all",),
        help="What gets the whole grid of learning rates: methods, predictors, controls or single arms by name, "
        "'NAME x' for the steps of one prediction alone, all for all arms. The others are run at the rate that naive "
        "chose.",
    )
    learning_rates: tuple[float, ...] = stated_by(Repetition, "learning_rates")
    seeds: int = stated_by(Repetition, "seeds")
    landscape: int = option(
        0,
        help="Points along each axis of the accuracy landscape over the plane of the trajectory; 0 for none.",
        limits=(0, 1000),
    )
    noise_copies: int = option(
        0,
        help="Noisy copies of every stage that span the landscape's plane with the stages, and are scored with it.",
        limits=(0, 1000),
    )
    noise_scale: float = option(
        0.05,
        help="Standard deviation of their noise, in each tensor's own root mean square in Θ^0.",
        limits=(TINY, HUGE),
    )
    own_scores: bool = option(False, help="Score every start as it is on the pre-training's own held-out data.")
    hypothesis: bool = option(
        False,
        help="Fine-tune the first step of every prediction on all the data of Θ^0, as a stage is, and measure how near "
        "to Θ^0 that leads.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.methods == ("all",):
            object.__setattr__(self, "methods", tuple(ALL))
        for name in self.methods:
            get_method(name)
        for control in self.controls:
            find_control(control)
        if isinstance(self.pretraining_seeds, list):
            object.__setattr__(self, "pretraining_seeds", tuple(self.pretraining_seeds))
        if len(set(self.seeds_of_pretraining)) < len(self.seeds_of_pretraining):
            raise ValueError(f"{self.name}: pretraining_seeds names a seed twice.")
        cells = [make(Cell, cell, f"{self.name}: cells") if isinstance(cell, Mapping) else cell for cell in self.cells]
        object.__setattr__(self, "cells", tuple(cells))
        if self.cells:
            self._check_cells()
        if self.chosen_starts and self.pretraining.selection_split is None:
            raise ValueError(
                f"{self.name}: {', '.join(self.chosen_starts)} is chosen on examples of their own: give the "
                "pre-training a selection_split."
            )

    def _check_cells(self) -> None:
        """Raises ``ValueError`` for what is no cell, or twice there, or says the same in two ways."""
        known = options_of(Setting)
        if twice := [name for name in _OF_CELLS if getattr(self, name) != known[name].default]:
            raise ValueError(f"{self.name}: cells say what is compared and at which rates; leave out {twice[0]}.")
        first = self.cells[0]
        if first.start != "naive" or first.reset:
            raise ValueError(f"{self.name}: the first cell is {first.arm}; it has to be naive, as it is.")
        places = [(cell.arm, rate) for cell in self.cells for rate in cell.learning_rates]
        if len(set(places)) < len(places) or not all(cell.learning_rates for cell in self.cells):
            raise ValueError(f"{self.name}: a cell is there twice, or has no learning rate.")
        for cell in self.cells:
            name, step = cell.parts
            if cell.reset and (name in CHOSEN or (not step and name in TRAINED)):
                raise ValueError(f"{self.name}: {name} cannot be reset; predictions and naive can.")
            if name not in ("naive", *CHOSEN, *self.predictors, *METHODS):
                find_control(name)

    @property
    def chosen_starts(self) -> tuple[str, ...]:
        """Those that are fitted and chosen, whoever asks for them."""
        asked = {*self.chosen, *(cell.start for cell in self.cells)}
        return tuple(name for name in CHOSEN if name in asked)

    @property
    def seeds_of_pretraining(self) -> tuple[int, ...]:
        """The seeds of several pre-trainings; none where there is one, with its own."""
        asked = self.pretraining_seeds
        if not isinstance(asked, int):
            return tuple(asked)
        own = int(self.pretraining.training.get("seed", USUAL_SEED))
        return tuple(own + _APART * number for number in range(asked))

    @property
    def noise(self) -> Noise | None:
        """What spans the landscape's plane beside the stages, if anything."""
        return Noise(self.noise_scale, self.noise_copies) if self.noise_copies else None
