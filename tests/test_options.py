"""An option is stated once: what a field says is what flags, recipes, keywords and the reference say."""

import inspect
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from know_hf.cli.commands import COMMANDS
from know_hf.cli.flags import spellings, with_plain_truths
from know_hf.cli.main import build_parser, main
from know_hf.cli.options import ComparisonInputs
from know_hf.cli.recipe import Call
from know_hf.cli.reference import all_option_classes, reference
from know_hf.enrichment.options import Extent, Finishing, Placement, Prediction
from know_hf.enrichment.resolved import method_names
from know_hf.enrichment.stream import enrich
from know_hf.forgetting.arguments import ForgettingArguments
from know_hf.forgetting.making import make_trainer
from know_hf.forgetting.options import ForgettingSettings, Pace, TrainerOptions, training_options
from know_hf.hub.options import Hub
from know_hf.known import KnownConfig
from know_hf.laboratory.comparison import compare
from know_hf.laboratory.options import ComparisonOptions
from know_hf.meta.collection import collect
from know_hf.meta.options import CollectionOptions, MetaTrainingOptions, PredictorOptions
from know_hf.meta.training import meta_train
from know_hf.plan import make_plan
from know_hf.pretrained import enrich_pretrained, enrich_trained, forget_pretrained
from know_hf.settings import Options, documented, make, option, options_of, takes
from know_hf.training.options import DataOptions, ModelCode, ModelSource

PAGE = Path(__file__).parents[1] / "docs" / "reference.md"
#: Function → the options that are its keywords.
KEYWORDS = {
    enrich: (Prediction, Placement),
    enrich_pretrained: (TrainerOptions, Prediction, Finishing, DataOptions, ModelSource, Hub),
    enrich_trained: (Prediction, Finishing),
    forget_pretrained: (TrainerOptions, DataOptions, ModelSource),
    make_trainer: (TrainerOptions, DataOptions, ModelSource),
    make_plan: (Extent, ModelCode, Pace),
    compare: (ComparisonOptions, DataOptions),
    collect: (CollectionOptions,),
    meta_train: (MetaTrainingOptions,),
}


def test_the_reference_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == reference(), "run python -m know_hf.cli.reference docs/reference.md"


@pytest.mark.parametrize("name", COMMANDS)
def test_flags_are_as_the_fields_say(name):
    command, parser = COMMANDS[name], build_parser().commands[name]
    shown = {a.dest: a for a in parser._actions if a.help != "==SUPPRESS==" and a.dest not in ("help", "traceback")}
    assert list(shown) == list(command.options)
    for flag, known in command.options.items():
        action = shown[flag]
        assert known.help.split("%")[0] in action.help
        if known.form is bool:
            assert action.const is (known.default is not True)
            assert action.option_strings == spellings(f"no_{flag}" if known.default is True else flag)
        elif not known.positional:
            assert action.option_strings == spellings(flag)
            assert (action.nargs is not None) == bool(known.many)
        if known.form in (int, float):
            assert action.type is known.form


@pytest.mark.parametrize("function", KEYWORDS, ids=lambda function: function.__name__)
def test_keywords_are_as_the_fields_say(function):
    options, parameters = options_of(*KEYWORDS[function]), inspect.signature(function).parameters
    own = inspect.signature(function.__wrapped__).parameters
    for name, known in options.items():
        assert parameters[name].default == known.default and parameters[name].annotation == known.annotation
        assert name not in own and f"\n    {name}: {known.help[:20]}" in function.__doc__
    assert not {p.annotation for p in own.values()} & {kind.__name__ for kind in KEYWORDS[function]} & set(parameters)


@pytest.mark.parametrize("kind", all_option_classes(), ids=lambda kind: kind.__name__)
def test_docstrings_and_reference_are_as_the_fields_say(kind):
    section = PAGE.read_text(encoding="utf-8").split(f"\n### {kind.__name__}\n")[1].split("\n### ")[0]
    for name, known in options_of(kind).items():
        assert known.help[0].isprintable() and known.help.rstrip().endswith("."), f"{name}: a sentence"
        row = next(line for line in section.splitlines() if line.startswith(f"| `{name}` |"))
        assert known.help in row.replace("\\|", "|") and known.default_name in row
        assert f"{name}: {known.help[:20]}" in kind.__doc__
        if known.flag and not known.positional:
            assert "--" in row


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if "config" in command.options])
def test_recipe_keys_are_as_the_fields_say(name, tmp_path):
    """Every option with its default, or any value, is read from a file and comes out as it went in."""
    command = COMMANDS[name]
    example = {bool: True, int: 3, float: 0.5, str: "copy", object: "x"}
    written = {}
    for flag, known in command.options.items():
        value = known.choices[0] if known.choices else example[known.form]
        many = {"several": [value], "pair": [value, value], "mapping": {"a": value}, "either": [value]}
        if flag != "config" and not known.positional:
            written[flag] = many.get(known.many, value)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(written))
    call = Call(name, command.options, {"config": tmp_path / "run.yaml"})
    assert call.merged() == written
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**written, "stepz": 1}))
    with pytest.raises(ValueError, match="unknown setting 'stepz'; did you mean steps?|unknown setting 'stepz'"):
        call.merged()


def test_one_field_is_all_that_an_option_takes():
    @documented
    @dataclass(frozen=True, kw_only=True)
    class Demo(Options):
        """For a test."""

        often: int = option(2, help="How often.", limits=(1, 9))
        names: tuple[str, ...] = option((), help="Which.", former="labels")

    @takes(demo=Demo)
    def run(folder: str, *, demo: Demo) -> Demo:
        """Runs."""
        return demo

    assert run("x", often=3).often == 3 and run("x", demo=Demo(often=4)).often == 4
    assert "often: How often. (default: 2)" in run.__doc__ and "often: How often." in Demo.__doc__
    assert str(inspect.signature(run)).startswith("(folder: str, *, often: int = 2, names: tuple[str, ...] = ())")
    with pytest.raises(TypeError, match=r"run\(\) takes no 'oftn'; did you mean often\?"):
        run("x", oftn=1)
    with pytest.raises(TypeError, match="give either demo or often"):
        run("x", demo=Demo(), often=1)
    with pytest.warns(FutureWarning, match="labels is now called names"):
        assert run("x", labels=("a",)).names == ("a",)
    with pytest.raises(ValueError, match="often is 10; it must be at most 9"):
        run("x", often=10)
    assert make(Demo, {"often": 3.0, "names": "a"}, "here") == Demo(often=3, names=("a",))
    for values, said in (
        ({"oftn": 1}, "here: unknown 'oftn'; did you mean often\\? There are often, names"),
        ({"often": "x"}, "here: often must be a whole number, found 'x'"),
        ({"often": 0}, "here: often is 0; it must be at least 1"),
        ([], "here must hold name: value pairs"),
    ):
        with pytest.raises(ValueError, match=said):
            make(Demo, values, "here")


@pytest.mark.parametrize("function", [enrich_pretrained, forget_pretrained, make_trainer])
def test_a_wrong_keyword_is_a_type_error(function):
    with pytest.raises(TypeError, match=r"takes no 'num_train_epoch'; did you mean num_train_epochs\?"):
        function("model", "data", "out", num_train_epoch=1)
    with pytest.raises(TypeError, match=r"takes no 'label_colum'; did you mean label_column\?"):
        function("model", "data", "out", label_colum="x")


def test_former_names_are_read(trajectory, tmp_path, capsys):
    with pytest.warns(FutureWarning, match="retrodictor is now called method"):
        enrich(trajectory, tmp_path / "a", retrodictor="naive", steps=1)
    with pytest.warns(FutureWarning, match="name the repository by hub_model_id"):
        assert Hub(push_to_hub="me/model").repository == "me/model"
    with pytest.raises(ValueError, match="push_to_hub needs a repository"):
        Hub(push_to_hub=True)
    assert Hub(hub_model_id="me/model").repository is None
    options = COMMANDS["enrich"].options
    assert Call("enrich", options, {"push": "me/model"}).settings() == {"push_to_hub": True, "hub_model_id": "me/model"}
    assert "push is now called push_to_hub, with hub_model_id" in capsys.readouterr().err
    (tmp_path / "old.yaml").write_text("model: m\ndataset: d\noutput_dir: o\npush: me/model\n")
    read = Call("enrich", options, {"config": tmp_path / "old.yaml"}).merged()
    assert read["hub_model_id"] == "me/model" and read["push_to_hub"] is True


def test_transfer_names_the_new_commands(capsys, tmp_path):
    for arguments, said in (
        (["--arms", "a=/nowhere", "--dataset", "d", "--output-dir", "o"], "transfer is now called compare."),
        ([tmp_path / "none.yaml"], "transfer with a recipe is now called experiment."),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["transfer", *map(str, arguments)])
        assert ended.value.code == 2 and f"know-hf: {said}" in capsys.readouterr().err


def test_options_are_light():
    """Help has to be quick: no dataclass of options needs a library."""
    heavy = {"torch", "transformers", "datasets", "numpy", "accelerate", "huggingface_hub"}
    code = f"import sys, know_hf.cli.commands; sys.exit(str(loaded) if (loaded := {heavy} & set(sys.modules)) else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_others_say_is_the_same():
    config = KnownConfig()
    for name, known in options_of(PredictorOptions).items():
        assert known.default == getattr(config, name)
    assert options_of(ForgettingSettings).items() <= training_options().items()
    assert options_of(ComparisonInputs)["steps"].limits == options_of(Extent)["steps"].limits


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["--push_to_hub", "false"], []),
        (["--push_to_hub=no"], []),
        (["--push_to_hub", "true"], ["--push_to_hub"]),
        (["--push_to_hub", "--steps", "1"], ["--push_to_hub", "--steps", "1"]),
        (["--update_batch_norm", "False"], ["--no_update_batch_norm"]),
        (["--update_batch_norm"], []),
        (["--no_update_batch_norm"], ["--no_update_batch_norm"]),
    ],
)
def test_flags_take_the_truths_that_trainer_s_take(given, kept):
    assert with_plain_truths(given, COMMANDS["enrich"].options) == kept
    with pytest.raises(ValueError, match="--iterate: expected true or false, found 'maybe'"):
        with_plain_truths(["--iterate=maybe"], COMMANDS["enrich"].options)


def test_option_objects_of_another_kind_are_refused_in_words(trajectory, tmp_path):
    with pytest.raises(TypeError, match="prediction has to be a Prediction, found a dict"):
        enrich(trajectory, tmp_path, prediction={"method": "mean"})
    with pytest.raises(ValueError, match="recipe=None is not known"):
        ForgettingArguments(str(tmp_path), recipe=None)
    assert method_names(["all"]) == method_names("all")
