"""The table of commands: what each does, which options it has, and what runs it."""

from collections.abc import Callable
from dataclasses import dataclass

from know_hf.choice.options import Choosing
from know_hf.cli import compare, meta, other, predict, train
from know_hf.cli.options import (
    BenchmarkInputs,
    CollectionInputs,
    ComparisonInputs,
    CompletionInputs,
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
from know_hf.cli.recipe import Call
from know_hf.enrichment.options import Extent, Finishing, Placement, Prediction
from know_hf.fitting.options import Fitting
from know_hf.forgetting.options import Pace, TrainerOptions
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
        run: Called with a [`Call`](know_hf.cli.recipe); its docstring is the command's help.
        kinds: Dataclasses of its options; of two with the same name the first counts.
        lenient: Options that it does not ask for, though they have no default.
    """

    run: Callable[[Call], None]
    kinds: tuple[type, ...] = ()
    lenient: tuple[str, ...] = ()

    @property
    def help(self) -> str:
        """What it does."""
        return (self.run.__doc__ or "").rstrip(".")

    @property
    def trains(self) -> bool:
        """Whether every training argument is a flag, too."""
        return TrainerOptions in self.kinds

    @property
    def options(self) -> dict[str, Option]:
        """The options that the command line has, by the name of their flag."""
        options: dict[str, Option] = {}
        for kind in self.kinds:
            for known in options_of(kind).values():
                if known.flag is not None:
                    options.setdefault(known.flag, known)
        return options


def run_completion(call: Call) -> None:
    """Print a script that completes commands, flags and values in bash, zsh or fish."""
    from know_hf.cli.completion import script

    print(script(call.settings()["shell"], COMMANDS), end="")


_TRAINED = (Configured, RunInputs, TrainerOptions, DataOptions, ModelSource)
_COMPARED = (Configured, ComparisonInputs, ComparisonOptions, Protocol, DataOptions)
_META_TRAINED = (PredictorOptions, MetaTrainingOptions, MetaTrainingSettings, FunctionalSettings)
COMMANDS = {
    "enrich": Command(train.run_enrich, (*_TRAINED, Prediction, Finishing, Choosing, Fitting, Hub)),
    "forget": Command(train.run_forget, _TRAINED),
    "predict": Command(predict.run_predict, (PredictInputs, Prediction, Placement, ModelCode)),
    "compare": Command(compare.run_compare, _COMPARED),
    "benchmark": Command(compare.run_benchmark, (Configured, BenchmarkInputs)),
    "experiment": Command(compare.run_experiment, (ExperimentInputs,)),
    "transfer": Command(compare.run_transfer, (*_COMPARED, ExperimentInputs), lenient=("recipe",)),
    "collect": Command(meta.run_collect, (CollectionInputs, CollectionOptions, DatasetHub)),
    "meta-train": Command(meta.run_meta_train, (MetaInputs, *_META_TRAINED)),
    "meta-evaluate": Command(meta.run_meta_evaluate, (MetaInputs, EvaluationInputs, HeldOut)),
    "report": Command(other.run_report, (ReportInputs,)),
    "push": Command(other.run_push, (PushInputs,)),
    "plan": Command(other.run_plan, (PlanInputs, Extent, Pace, ModelCode, DataOptions)),
    "convert": Command(other.run_convert, (ConvertInputs,)),
    "quickstart": Command(other.run_quickstart, (QuickstartInputs,)),
    "env": Command(other.run_env),
    "completion": Command(run_completion, (CompletionInputs,)),
}
