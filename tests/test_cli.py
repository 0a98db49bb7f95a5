"""The command line: quick help, one line for bad input, recipes that reproduce."""

import subprocess
import sys
import time

import pytest
import yaml
from conftest import run_cli

from know_hf.cli.commands import COMMANDS
from know_hf.cli.main import build_parser, main
from know_hf.cli.recipe import Call, resolve_recipe
from know_hf.settings import read_recipe

FAST = ["--num_train_epochs", 1, "--per_device_train_batch_size", 16, "--learning_rate", 1e-3, "--disable_tqdm", "True"]


def fails(capsys, *arguments, code: int = 2) -> str:
    """Runs a command that must end with this code and one line; returns the line."""
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    assert ended.value.code == code
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("know-hf: error:")]
    assert len(lines) == 1
    return lines[0]


def test_help_is_quick():
    start = time.perf_counter()
    text = run_cli("--help").stdout
    assert time.perf_counter() - start < 1
    for command in ("enrich", "forget", "predict", "plan", "convert", "quickstart", "env"):
        assert command in text
    assert "--label-column" in run_cli("enrich", "--help").stdout


def test_importing_the_package_is_light():
    heavy = "{'torch', 'transformers', 'datasets', 'timm', 'accelerate'}"
    code = f"import sys, know_hf; found = {heavy} & set(sys.modules); sys.exit(str(found) if found else 0)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


#: Public names of which no publication tells.
UNPUBLISHED = ("TrajectoryError",)


def test_every_public_name_resolves_and_is_documented():
    import know_hf

    for name in know_hf.__all__:
        value = getattr(know_hf, name)
        if not name.startswith("__"):
            # A source is named where there is one: the paper, its code, another publication.
            assert value.__doc__ and ("Source:" in value.__doc__) == (name not in UNPUBLISHED), name
            assert "Source: ours" not in value.__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        know_hf.nothing  # noqa: B018


def test_enrich_and_its_recipe_reproduce(tmp_path, image_model_folder, image_data_folder, capsys):
    main([
        "enrich", "--model", str(image_model_folder), "--dataset", str(image_data_folder), "--output-dir",
        str(tmp_path / "one"), "--steps", "2", "--num_stages", "5", "--stratify_by", "label", *map(str, FAST),
    ])  # fmt: skip
    out = capsys.readouterr().out
    assert "| x4 " in out and f"x2: {tmp_path / 'one' / 'enriched' / 'x2'}" in out
    recipe = yaml.safe_load((tmp_path / "one" / "run.yaml").read_text())
    assert recipe["steps"] == 2 and recipe["learning_rate"] == 1e-3
    main(["enrich", "--config", str(tmp_path / "one" / "run.yaml"), "--output-dir", str(tmp_path / "two")])
    for name in ("stage-0", "stage-4", "enriched/x2", "enriched/x4"):
        a, b = ((tmp_path / run / name / "model.safetensors").read_bytes() for run in ("one", "two"))
        assert a == b


def test_forget_then_predict_equals_enrich_without_batch_norm(tmp_path, image_model_folder, image_data_folder, capsys):
    common = ["--model", image_model_folder, "--dataset", image_data_folder, "--eval-split", "none", *FAST]
    main([str(a) for a in ["forget", *common, "--output-dir", tmp_path / "forget"]])
    assert "stage 4: 8 examples" in capsys.readouterr().out
    main([str(a) for a in ["predict", tmp_path / "forget", "--steps", 1, "--output-dir", tmp_path / "p"]])
    main(
        [
            str(a)
            for a in ["enrich", *common, "--output-dir", tmp_path / "enrich", "--steps", 1, "--no-update-batch-norm"]
        ]
    )
    a = (tmp_path / "p" / "x2" / "model.safetensors").read_bytes()
    assert a == (tmp_path / "enrich" / "enriched" / "x2" / "model.safetensors").read_bytes()
    main(["predict", str(tmp_path / "forget"), "--method", "shrink", "--steps", "1"])
    assert (tmp_path / "forget" / "enriched-shrink" / "x2").is_dir()


def test_plan_and_env(trajectory, capsys):
    main(["plan", str(trajectory.root), "--norms", "bias"])
    out = capsys.readouterr().out
    assert "predict (bias)" in out and "norm" in out
    main(["env"])
    assert "transformers" in capsys.readouterr().out


def test_convert(shared, tmp_path, capsys):
    main(["convert", str(shared / "reference" / "known_keras"), str(tmp_path / "official")])
    made = {p.name for p in (tmp_path / "official").iterdir() if p.suffix != ".py"}
    assert made == {"config.json", "model.safetensors"}
    assert "not an empty folder" in fails(capsys, "convert", shared / "reference", tmp_path / "official")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["enrich", "--model", "m"], "missing --dataset, --output-dir"),
        (["predict", "nowhere"], "nowhere is not a forgetting run: trajectory.json is expected"),
        (["plan", "nowhere"], "'nowhere' is neither a local folder nor a model reachable"),
        (["convert", "nowhere", "out"], "nowhere lacks KNOWN_Conv.h5"),
        (["quickstart", "--seeds", "1"], "a spread needs at least 2"),
    ],
)
def test_bad_input_is_one_line(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in fails(capsys, *arguments)


def test_bad_input_of_enrich(capsys, tmp_path, image_model_folder, image_data_folder):
    base = ["enrich", "--model", image_model_folder, "--dataset", image_data_folder, "--output-dir", tmp_path / "o"]
    assert "neither a local folder" in fails(capsys, *base, "--model", "nobody/nothing")
    assert "neither a local folder" in fails(capsys, *base, "--dataset", "nobody/nothing")
    assert "strictly between 0 and 1" in fails(capsys, *base, "--sampling_ratio", 1.5)
    assert "at least 2 stages" in fails(capsys, *base, "--num_stages", 1)
    assert "No predictor for 6 stages comes with know-hf" in fails(capsys, *base, "--num_stages", 6)
    assert "There is no column 'x'" in fails(capsys, *base, "--label-column", "x")
    assert "model's own folder" in fails(capsys, *base, "--output-dir", image_model_folder)
    assert "PATTERN=KIND" in fails(capsys, *base, "--kinds", "fc")
    assert not list(tmp_path.rglob("stage-*"))


def call(*arguments) -> Call:
    options, rest = build_parser().parse_known_args(["enrich", *arguments])
    flags = {name: value for name, value in vars(options).items() if name not in ("command", "traceback")}
    return Call("enrich", COMMANDS["enrich"].options, flags, rest)


def test_flags_win_over_the_recipe(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("model: m\ndataset: d\noutput_dir: o\nsteps: 2\nlearning_rate: 1e-3\nnum_stages: 4\n")
    settings, training = resolve_recipe(call("--config", str(path), "--steps", "1", "--num_stages", "6"))
    assert settings["steps"] == 1 and settings["model"] == "m" and settings["output_dir"] == "o"
    assert training == {"learning_rate": 1e-3, "num_stages": 6}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: m\ndataset: d\noutput_dir: o\nstepz: 2\n", "unknown setting 'stepz'"),
        ("- a\n", "name: value pairs"),
        ("model: !!python/object/apply:os.getcwd []\n", "not plain YAML"),
        ("a: [", "not plain YAML"),
    ],
)
def test_bad_recipes(tmp_path, text, message):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        resolve_recipe(call("--config", str(path)))


def test_recipe_file_must_exist(capsys, tmp_path):
    assert "No such file" in fails(capsys, "enrich", "--config", tmp_path / "no.yaml")
    with pytest.raises(OSError):
        read_recipe(tmp_path / "no.yaml")


def test_unknown_flags_are_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["predict", "x", "--stepz", "3"])
    assert ended.value.code == 2 and "unknown flag --stepz; did you mean --steps?" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["enrich", "--model", "m", "--dataset", "d", "--output-dir", "o", "--learning_ratez", "3"])
    assert ended.value.code == 2


def test_interruption_is_one_line(capsys, monkeypatch, tmp_path):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("know_hf.cli.recipe.read_recipe", stop)
    assert "run the same command again" in fails(capsys, "enrich", "--config", tmp_path / "x.yaml", code=130)


def test_tokens_are_not_written(tmp_path, image_model_folder, image_data_folder):
    main([str(a) for a in [
        "forget", "--model", image_model_folder, "--dataset", image_data_folder, "--output-dir", tmp_path / "run",
        "--hub_token", "hf_secret123", *FAST,
    ]])  # fmt: skip
    for path in (tmp_path / "run").rglob("*"):
        assert path.is_dir() or b"hf_secret123" not in path.read_bytes(), path


def test_predict_with_several_methods_and_parameters(trajectory, tmp_path, capsys):
    main([
        "predict", str(trajectory.root), "--method", "known", "tsv", "--parameters", "tsv.frac=0.5", "tsv.lam=1e-1",
        "--steps", "2", "--output-dir", str(tmp_path),
    ])  # fmt: skip
    out = capsys.readouterr().out
    assert "cosine to KNOWN conv" in out and f"tsv/x4: {tmp_path / 'tsv' / 'x4'}" in out
    assert "'rank'" in fails(capsys, "predict", trajectory.root, "--method", "tsv", "--parameters", "rank=1")
    assert "NAME=VALUE" in fails(capsys, "predict", trajectory.root, "--method", "tsv", "--parameters", "rank")
    assert "known methods: known" in fails(capsys, "predict", trajectory.root, "--method", "magic")


def test_a_control_is_trained_but_not_predicted(tmp_path, image_model_folder, image_data_folder, capsys):
    common = ["--model", image_model_folder, "--dataset", image_data_folder, "--recipe", "equal_compute", *FAST]
    main([str(a) for a in ["forget", *common, "--output-dir", tmp_path / "equal"]])
    assert "stage 0: 128 examples" in capsys.readouterr().out
    assert "not of forgetting" in fails(capsys, "predict", tmp_path / "equal")
    assert "nothing to predict" in fails(capsys, "enrich", *common, "--output-dir", tmp_path / "other")


def test_convert_nino(tmp_path, capsys):
    import torch

    from know_hf.retrodiction.learned import NinoMLP

    model = NinoMLP(hidden=8)
    torch.save({"state_dict": model.state_dict(), "model_args": {"hid": 8}}, tmp_path / "nino_mlp.pt")
    main(["convert", str(tmp_path / "nino_mlp.pt"), str(tmp_path / "nino")])
    loaded = NinoMLP.from_file(tmp_path / "nino")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))

    class Evil:
        def __reduce__(self):
            return (exec, ("raise SystemExit('ran')",))

    torch.save(Evil(), tmp_path / "evil.pt")
    assert "not a plain torch checkpoint" in fails(capsys, "convert", tmp_path / "evil.pt", tmp_path / "evil")
    torch.save({"state_dict": {"x": torch.zeros(1)}}, tmp_path / "other.pt")
    assert "not a NiNo MLP" in fails(capsys, "convert", tmp_path / "other.pt", tmp_path / "other")


RUN = ("enrich", "--model", "nowhere", "--dataset", "nowhere", "--output-dir", "nowhere")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "unknown command 'nonsense'; there are enrich, forget"),
        (["enrch"], "unknown command 'enrch'; did you mean enrich?"),
        (["enrich", "--num_epochs", 3], "unknown flag --num_epochs; did you mean --num_train_epochs?"),
        (["enrich", "--num-train-epoch=3"], "unknown flag --num_train_epoch; did you mean --num_train_epochs?"),
        (["forget", "--num_train", 3], "unknown flag --num_train; did you mean --num_train_epochs?"),
        (["enrich", "--num_train_epochs", "abc"], "--num_train_epochs: expected a number, found 'abc'"),
        (["enrich", "--seed", "1.5"], "--seed: expected a whole number, found '1.5'"),
        (["enrich", "--bf16", "perhaps"], "--bf16: expected true or false, found 'perhaps'"),
        (["enrich", "--seed", "--bf16"], "--seed needs a value"),
        (["enrich", "folder", "--bf16"], "'folder' belongs to no flag"),
        (["predict", "run", "--steps", "abc"], "invalid int value: 'abc'"),
        (["enrich", "--text", "text"], "unknown flag --text."),
        (["--trace"], "unknown flag --trace; did you mean --traceback?"),
        ([*RUN, "--task", "image-clasification"], "Unknown task 'image-clasification'; did you mean image-class"),
        ([*RUN, "--method", "KNOWN"], "Unknown retrodiction method 'KNOWN'; did you mean known? Known methods: known"),
        ([*RUN, "--also", "equal-compute"], "from stage 0; did you mean equal_compute? Use equal_compute, once_more"),
        ([*RUN, "--choose", "bets"], "choose='bets' is not known; did you mean best? Use one of best, none."),
        ([*RUN, "--fit-on", "selektion"], "fit_on='selektion' is not known; did you mean selection? Use one of"),
        ([*RUN, "--recipe", "equal_comput"], "recipe='equal_comput' is not known; did you mean equal_compute? Use"),
        ([*RUN, "--method", "exp_fit", "--parameters", "fallbak=hold"], "'fallbak'; did you mean fallback?"),
        (["completion", "bsh"], "shell='bsh' is not known; did you mean bash?"),
    ],
)
def test_unknown_names_are_said_at_once(capsys, arguments, said):
    assert said in fails(capsys, *arguments)


def test_refusing_imports_nothing_heavy():
    code = (
        "import sys\nfrom know_hf.cli.main import main\n"
        "try:\n    main('enrich --model x --dataset y --output-dir z --num_epochs 3'.split())\n"
        "except SystemExit:\n    sys.exit(len({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_flags_are_spelt_either_way_and_numbers_may_be_negative():
    rest = ["--learning-rate", "-1e-3", "--num-train-epochs=2", "--no_dataloader_pin_memory", "--bf16"]
    _, training = resolve_recipe(call("--model", "m", "--dataset", "d", "--output_dir", "o", *rest))
    assert training == {"learning_rate": -1e-3, "num_train_epochs": 2.0, "dataloader_pin_memory": False, "bf16": True}


def test_all_training_arguments_are_known_without_importing_them():
    from dataclasses import fields

    from know_hf import ForgettingArguments
    from know_hf.forgetting.options import training_fields

    assert set(training_fields()) == {field.name for field in fields(ForgettingArguments) if field.init}


def test_without_a_command_the_commands_are_shown(capsys):
    main([])
    assert "quickstart" in capsys.readouterr().out


def test_transfer_looks_before_it_predicts(capsys, tmp_path, trajectory, image_data_folder):
    out = tmp_path / "out"
    base = ["transfer", "--trajectory", trajectory.root, "--dataset", image_data_folder, "--output-dir", out]
    for flags, said in (
        (["--arms", "a=/nowhere"], "Arm '/nowhere'"),
        (["--arms", f"a={tmp_path}"], "holds no"),
        (["--test-split", "nope"], "has no split 'nope'; it has train, test"),
        (["--metric", "nope"], "metric 'nope' is neither 'accuracy' nor"),
        (["--method", "magic"], "known methods: known"),
        (["--steps", 0], "must be at least 1"),
        ([], "have 128 examples, 1001 are asked for"),
    ):
        assert said in fails(capsys, *base, *flags), flags
    assert not out.exists()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise ValueError('said by us')", "know-hf: error: said by us"),
        ("raise FileNotFoundError('no such\\nfile')", "know-hf: error: no such file"),
        ("import json; json.loads('{')", "know-hf: error: JSONDecodeError: Expecting property name"),
        ("raise MemoryError", "know-hf: error: out of memory"),
        ("assert 1 == 2", None),
        ("{}['name']", None),
        ("None.name", None),
        ("None + 1", None),  # a TypeError, but of ours
        ("a, b = [1]", None),  # a ValueError, but of ours
    ],
)
def test_faults_of_ours_keep_their_traceback(capsys, monkeypatch, tmp_path, code, words):
    import know_hf.cli.recipe as module

    source = f"def fail(path):\n    {code}\n"
    exec(compile(source, module.__file__, "exec"), vars(module) | {}, found := {})  # as if it stood in that file
    monkeypatch.setattr("know_hf.cli.recipe.read_recipe", found["fail"])
    with pytest.raises(SystemExit) as ended:
        main(["enrich", "--config", str(tmp_path / "x.yaml")])
    said = capsys.readouterr().err
    assert ended.value.code == (1 if words is None else 2)
    if words is None:
        *traceback, last = said.strip().splitlines()
        assert traceback[0].startswith("Traceback") and "in fail" in said
        assert last.startswith("know-hf: error:") and "fault of know-hf" in last and "know-hf env" in last
    else:
        assert said.startswith(words) and said.count("\n") == 1
