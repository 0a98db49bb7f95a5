"""The table of commands: what each does, which options it has, and what runs it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from know_hf.cli import compare, meta, other, train
from know_hf.cli.options import (
    CollectionInputs,
    ComparisonInputs,
    Configured,
    ConvertInputs,
    EvaluationInputs,
    ExperimentInputs,
    MetaInputs,
    PlanInputs,
    PredictInputs,
    PushInputs,
    QuickstartInputs,
    ReportInputs,
    RunInputs,
)
from know_hf.enrichment.options import Extent, Finishing, Placement, Prediction
from know_hf.forgetting.options import TrainerOptions
from know_hf.hub.options import DatasetHub, Hub
from know_hf.laboratory.options import ComparisonOptions, Protocol
from know_hf.meta.options import (
    CollectionOptions,
    FunctionalSettings,
    HeldOut,
    MetaTrainingOptions,
    MetaTrainingSettings,
    PredictorOptions,
)
from know_hf.settings import Option, options_of
from know_hf.training.options import DataOptions, ModelCode, ModelSource


@dataclass(frozen=True)
class Command:
    """One command.

    Args:
        name: As it is typed.
        help: What it does.
        run: Called with a [`Call`](know_hf.cli.recipe).
        kinds: Dataclasses of its options; of two with the same name the first counts.
        trains: Whether every training argument is a flag, too.
        lenient: Options that are required elsewhere, but not by it.
    """

    name: str
    help: str
    run: Callable[[Any], None]
    kinds: tuple[type, ...] = ()
    trains: bool = False
    lenient: tuple[str, ...] = ()

    @property
    def options(self) -> dict[str, Option]:
        """The options that the command line has, by the name of their flag."""
        found: dict[str, Option] = {}
        for kind in self.kinds:
            for known in options_of(kind).values():
                if known.flag:
                    found.setdefault(known.flag, known)
        return found


_TRAINED = (Configured, RunInputs, TrainerOptions, DataOptions, ModelSource)
_COMPARED = (Configured, ComparisonInputs, ComparisonOptions, Protocol, DataOptions)
COMMANDS = {
    command.name: command
    for command in (
        Command(
            "enrich",
            "forget, then predict: a model and data in, enriched checkpoints out",
            train.run_enrich,
            (*_TRAINED, Prediction, Finishing, Hub),
            trains=True,
        ),
        Command(
            "forget",
            "forget only: record a trajectory, or train a control (--recipe)",
            train.run_forget,
            _TRAINED,
            trains=True,
        ),
        Command(
            "predict",
            "predict enriched checkpoints from a finished trajectory",
            train.run_predict,
            (PredictInputs, Prediction, Placement),
        ),
        Command(
            "compare",
            "fine-tune from several starts under one protocol, and compare",
            compare.run_compare,
            _COMPARED,
        ),
        Command(
            "experiment",
            "run a recipe: pre-training, forgetting, controls, every method, comparison",
            compare.run_experiment,
            (ExperimentInputs,),
        ),
        Command(
            "transfer",
            "the former name of compare and, with a recipe, of experiment",
            compare.run_transfer,
            (*_COMPARED, ExperimentInputs),
            lenient=("recipe",),
        ),
        Command(
            "collect",
            "collect trajectories of small networks, for meta-training",
            meta.run_collect,
            (CollectionInputs, CollectionOptions, DatasetHub),
        ),
        Command(
            "meta-train",
            "train a predictor on a meta-data set",
            meta.run_meta_train,
            (MetaInputs, PredictorOptions, MetaTrainingOptions, MetaTrainingSettings, FunctionalSettings),
        ),
        Command(
            "meta-evaluate",
            "compare predictors with every method on unseen trials",
            meta.run_meta_evaluate,
            (MetaInputs, EvaluationInputs, HeldOut),
        ),
        Command(
            "report",
            "write one HTML page about a finished run, comparison or experiment",
            other.run_report,
            (ReportInputs,),
        ),
        Command(
            "push",
            "upload a run's steps, a checkpoint, a predictor or a meta-data set to the Hub",
            other.run_push,
            (PushInputs,),
        ),
        Command(
            "plan",
            "show what would be predicted and copied, and what it takes",
            other.run_plan,
            (PlanInputs, Extent, ModelCode),
        ),
        Command(
            "convert",
            "read released weights of KNOWN, WNN or NiNo from your own copy",
            other.run_convert,
            (ConvertInputs,),
        ),
        Command(
            "quickstart",
            "the whole job on scikit-learn's handwritten digits, in minutes",
            other.run_quickstart,
            (QuickstartInputs,),
        ),
        Command("env", "print versions for a bug report", other.run_env),
    )
}
