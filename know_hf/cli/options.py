"""Options that only the command line has: what Python takes as arguments of its functions, or not at all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from know_hf.enrichment.options import usual_methods
from know_hf.settings import STEPS, Options, documented, option

PROGRAM = "know-hf"


@documented
@dataclass(frozen=True, kw_only=True)
class Configured(Options):
    """Settings from a file."""

    config: Path | None = option(None, help="YAML recipe with the same names; flags win.", metavar="YAML")


@documented
@dataclass(frozen=True, kw_only=True)
class RunInputs(Options):
    """What a run is made of, and where it goes."""

    model: str = option(help="Hub id or folder of the model.")
    dataset: str = option(help="Hub id or folder of the data set, or a .csv, .tsv, .json, .jsonl or .parquet file.")
    output_dir: str = option(help="Folder of the run.")
    train_split: str = option("train", help="Split to forget on.")
    eval_split: str | None = option(
        None,
        help="Split to score on; or a share or number of the training examples, 0.2 for a fifth of each class, which "
        "are then not trained on; none for no scores. By default validation or test, if there is one that is not "
        "chosen on.",
        off="none",
    )


@documented
@dataclass(frozen=True, kw_only=True)
class PredictInputs(Options):
    """What is predicted from, and where to."""

    checkpoints: Sequence[str] = option(
        help="Folder of a forgetting run; or two or more checkpoints of one model, each a folder or user/name or "
        "user/name@revision on the Hub, the one trained on most data first; or a YAML recipe that names either as "
        "checkpoints, with the options below by name (flags win).",
        positional=True,
        metavar="CHECKPOINT",
    )
    sampling_ratio: float | None = option(
        None, help="Of checkpoints: share of the data that each keeps of those of the one before; names the steps."
    )
    examples: Sequence[int] | None = option(
        None,
        help="Of checkpoints, instead of the ratio where it is not the same throughout: the number of examples that "
        "each was trained on.",
        metavar="NUMBER",
    )
    output_dir: str | None = option(
        None, help="Folder for x2, x4 …; by default enriched in the run's folder. Checkpoints need one."
    )


@documented
@dataclass(frozen=True, kw_only=True)
class ComparisonInputs(Options):
    """What is compared, on which data, and where the comparison goes."""

    arms: Mapping[str, str] | None = option(
        None, help="The starts to compare, the reference (naive) first.", metavar="NAME=FOLDER"
    )
    trajectory: str | None = option(None, help="Folder of a forgetting run: adds naive and its predictions.")
    method: str | Sequence[str] = option(
        ("known", "shrink"), help="With a trajectory: methods to predict by.", usual=usual_methods
    )
    steps: int = option(3, help="With a trajectory: number of prediction steps.", limits=STEPS)
    reset: Sequence[str] = option(
        (), help="With a trajectory: those of naive and the methods that are compared with reset BatchNorm, too."
    )
    keep_head: bool = option(False, help="Train on with the start's own head.")
    dataset: str = option(help="Hub id, folder or file of the downstream data.")
    output_dir: str = option(help="Folder of the comparison.")


@documented
@dataclass(frozen=True, kw_only=True)
class BenchmarkInputs(Options):
    """Which language models are scored, on what, and where the scores go."""

    arms: Mapping[str, str] | None = option(
        None, help="The models to score, the reference first: folders, Hub ids or adapters.", metavar="NAME=FOLDER"
    )
    trajectory: str | None = option(
        None, help="Folder of an enrich run: its stage 0, as the reference, the steps in its folder enriched, and best."
    )
    tasks: Sequence[str] = option(help="Tasks of lm-evaluation-harness, or groups of them.")
    include_path: str | None = option(None, help="Folder with YAML files of tasks of your own.")
    num_fewshot: int | None = option(
        None, help="Solved examples before each question; by default as the task says.", limits=(0, 10_000)
    )
    limit: int | None = option(None, help="Documents of each task; all by default.", limits=(1, 1_000_000_000))
    apply_chat_template: bool = option(False, help="Ask by the tokenizer's chat template.")
    batch_size: int = option(8, help="Documents at a time.", limits=(1, 1_000_000))
    device: str | None = option(None, help="Such as cuda or cpu; by default what there is.")
    output_dir: str = option(help="Folder of benchmarks.json and benchmarks.md.")


@documented
@dataclass(frozen=True, kw_only=True)
class ExperimentInputs(Options):
    """Which experiment is run, and where it goes."""

    recipe: Path = option(help="YAML recipe of a whole experiment, pre-training included.", positional=True)
    size: str | None = option(None, help="Which of its sizes; the first by default.")
    predictors: Mapping[str, str] | None = option(
        None, help="Further predictors, by the name of their arms.", metavar="NAME=FOLDER"
    )
    output_dir: str | None = option(None, help="Folder of the experiment; by default named after recipe and size.")
    processes: int | None = option(None, help="Number of processes, instead of the recipe's.", limits=(1, 4096))
    dry_run: bool = option(
        False, help="Build every network, let it take one step, say what the experiment will take, and train nothing."
    )


@documented
@dataclass(frozen=True, kw_only=True)
class CollectionInputs(Options):
    """What trials are run on, and where they go."""

    data: Sequence[str] = option(help="Hub ids or folders of image data sets with ten classes.")
    output_dir: str = option(help="Folder of the meta-data set.")


@documented
@dataclass(frozen=True, kw_only=True)
class MetaInputs(Options):
    """Which meta-data set is read, and where the result goes."""

    meta: str = option(help="Folder of a meta-data set.", positional=True)
    output_dir: str = option(help="Folder of the predictor, or of evaluation.md and evaluation.json.")


@documented
@dataclass(frozen=True, kw_only=True)
class EvaluationInputs(Options):
    """What is evaluated."""

    predictors: Mapping[str, str] | None = option(
        None, help="The predictors to compare; the bundled one by default.", metavar="NAME=FOLDER"
    )
    data: Sequence[str] | None = option(
        None, help="Hub ids or folders of the data sets of the trials, to run retrodicted networks too."
    )


@documented
@dataclass(frozen=True, kw_only=True)
class ReportInputs(Options):
    """What a page is written about."""

    folder: Path = option(help="Folder of enrich, forget, compare or experiment.", positional=True)


@documented
@dataclass(frozen=True, kw_only=True)
class PushInputs(Options):
    """What is uploaded, and how."""

    folder: str = option(
        help="A run, its enriched folder, a checkpoint, a predictor or a meta-data set.", positional=True
    )
    repo_id: str = option(help="user/name, or a name alone for one of your own; made if need be.", positional=True)
    commit_message: str | None = option(None, help="First line of the commits, instead of one that names what is sent.")
    commit_description: str | None = option(None, help="What else the commits say.")
    private: bool = option(False, help="Make a new repository private.")
    token: str | None = option(
        None, help="Instead of the one that hf auth login stored, or HF_TOKEN, which other people do not see."
    )
    revision: str | None = option(None, help="Branch to write to instead of main, made if need be (one checkpoint).")
    create_pr: bool = option(False, help="Open a pull request instead of writing (one checkpoint).")
    dry_run: bool = option(False, help="Say what would be sent, and send nothing.")
    overwrite_card: bool = option(False, help="Replace a README that the repository already has.")


@documented
@dataclass(frozen=True, kw_only=True)
class PlanInputs(Options):
    """What is planned for."""

    source: str = option(help="Folder of a forgetting run or of a model.", positional=True)
    dataset: str | None = option(None, help="Data set whose columns are to be looked at, as for know-hf enrich.")


@documented
@dataclass(frozen=True, kw_only=True)
class ConvertInputs(Options):
    """What is converted, and where to."""

    source: str = option(
        help="Folder with KNOWN_Conv.h5 … or NWNN_Conv_13.h5 …, or the file nino_mlp.pt.", positional=True
    )
    out_dir: str = option(help="Folder to write the predictor to.", positional=True)


@documented
@dataclass(frozen=True, kw_only=True)
class QuickstartInputs(Options):
    """Where the quickstart goes."""

    output_dir: str = option("know-quickstart", help="Folder of the run.")
    seeds: int = option(5, help="Fine-tuning repetitions.", limits=(1, 100_000))


@documented
@dataclass(frozen=True, kw_only=True)
class CompletionInputs(Options):
    """What completes commands."""

    shell: str = option(help="Shell to complete in.", choices=("bash", "zsh", "fish"), positional=True)
