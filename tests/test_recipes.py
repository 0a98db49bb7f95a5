"""Every recipe that comes with the package, at a size of seconds: same settings, tiny data, one epoch, one step."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image

from know_hf.laboratory.experiment import run_experiment
from know_hf.laboratory.recipe import Recipe, load_recipe
from know_hf.laboratory.setting import Setting
from know_hf.report.experiment import write_experiment_report

RECIPES = Path(__file__).parents[1] / "examples" / "recipes"
#: How many times fewer examples than at the size ``cpu``.
FEWER = 8
SMALL = {
    "timm": "resnet10t",
    "model_args": {"channels": [8, 8, 16, 16], "stem_width": 8},
}
PROTOCOL = {"head_epochs": 1, "epochs": 1, "batch_size": 16, "examples": 16, "validation_examples": 16,
            "evaluations": 1}  # fmt: skip


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory) -> Path:
    """Noise in the shape of the data sets that the recipes name."""
    folder, draw = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for name, label, classes in (("cifar10", "label", 10), ("cifar100", "fine_label", 100)):
        (folder / name / "data").mkdir(parents=True)
        for part, count in (("train", 1300), ("test", 300)):
            features = Features({"img": Image(), label: ClassLabel(names=[f"{name}-{i}" for i in range(classes)])})
            images = [draw.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(count)]
            rows = Dataset.from_dict({"img": images, label: np.arange(count) % classes}, features=features)
            rows.to_parquet(folder / name / "data" / f"{part}-00000-of-00001.parquet")
    return folder


def fewer(split: str) -> str:
    """A split of that many times fewer examples."""
    name, _, count = split.rstrip("]").partition("[:")
    return f"{name}[:{int(count) // FEWER}]" if count else split


def tiny(setting: Setting) -> Setting:
    """The same setting, with everything that takes time made small."""
    source, target = setting.pretraining, setting.transfer
    own = {**source.training, "num_train_epochs": 1, "per_device_train_batch_size": 32}
    large = "timm" in source.architecture and "model_args" not in source.architecture
    source = replace(
        source, training=own, train_split=fewer(source.train_split), eval_split=fewer(source.eval_split),
        architecture=SMALL if large else source.architecture,
    )  # fmt: skip
    if target is not None:
        kept = {name: value for name, value in target.protocol.items() if name == "new_head"}
        protocol = {**PROTOCOL, **kept}
        target = replace(
            target, protocol=protocol, train_split=fewer(target.train_split), test_split=fewer(target.test_split),
            validation_split=target.validation_split and "test[:30]",
        )  # fmt: skip
    return replace(
        setting, pretraining=source, transfer=target, steps=1, seeds=2, learning_rates=(1e-3,),
        landscape=min(setting.landscape, 3), noise_copies=min(setting.noise_copies, 1),
    )  # fmt: skip


def report_of(name: str, data_folder: Path, tmp_path: Path, settings: tuple[str, ...] = ()) -> tuple[Recipe, str]:
    """Runs a recipe at that size, or some of its settings; returns it and the Markdown of its report."""
    recipe = load_recipe(RECIPES / f"{name}.yaml", "cpu")
    chosen = tuple(tiny(one) for one in recipe.settings if not settings or one.name in settings)
    assert not settings or len(chosen) == len(settings)
    recipe = replace(recipe, settings=chosen, processes=1, data_folder=str(data_folder))
    page = write_experiment_report(run_experiment(recipe, tmp_path / "out"))
    return recipe, page.with_name("results.md").read_text()


def test_table_1_has_the_paper_s_columns():
    """Five amounts of data, compared alike; the whole grid of rates for KNOWN, shrink and naive."""
    settings = {one.name: one for one in load_recipe(RECIPES / "table1.yaml", "cpu").settings}
    columns = [settings[f"ResNet, {share} %"] for share in ("100", "50", "25", "12.5", "6.25")]
    assert [one.pretraining.train_split for one in columns] == [f"train[:{n}]" for n in (3200, 1600, 800, 400, 200)]
    assert len({repr(one.transfer) for one in columns}) == 1 and {one.seeds for one in settings.values()} == {3}
    assert {one.full_grid for one in settings.values()} == {("known", "shrink x")}
    fewer_methods = {"known", "shrink", "mean", "task_vector", "linear_fit"}
    assert all(
        set(columns[i].methods) == fewer_methods and columns[i].controls == ("equal_compute",) for i in (1, 3, 4)
    )
    assert all({"tsv", "exp_fit", "consensus_ta"} <= set(columns[i].methods) for i in (0, 2))


@pytest.mark.slow
def test_table_1(data_folder, tmp_path):
    """KNOWN of half of the data against naive of all of them."""
    columns = ("ResNet, 100 %", "ResNet, 50 %", "ResNet, 25 %, same task")
    text = report_of("table1", data_folder, tmp_path, columns)[1].replace("\\", "")
    assert "− naive, ResNet, 100 %" in text and "| tsv" in text and "| incremental*" in text


@pytest.mark.slow
def test_table_6(data_folder, tmp_path):
    lines = report_of("table6", data_folder, tmp_path, ("S = 2", "S = 5"))[1].replace("\\", "").splitlines()
    head, row = (next(line for line in lines if line.startswith(f"| {name} ")) for name in ("start", "task_vector"))
    cells = dict(zip(*([cell.strip() for cell in line.split("|")] for line in (head, row)), strict=True))
    assert cells["S = 5"] and not cells["S = 2"]


def test_table_7(data_folder, tmp_path):
    _, text = report_of("table7", data_folder, tmp_path)
    line = next(line for line in text.splitlines() if line.startswith("| predict: tsv"))
    assert "s a weight and step" in line and float(line.split("|")[3]) >= 0
    assert "| part" in text and "ResNet18: accuracy in percent" in text


@pytest.mark.slow
def test_figure_3(data_folder, tmp_path):
    recipe, text = report_of("figure3", data_folder, tmp_path)
    assert "1 noisy copies of every stage" in text and "Θ̂⁰ lies" in text
    assert recipe.settings[0].pretraining.architecture == {"model_type": "plain_cnn"}


@pytest.mark.slow
def test_ratios(data_folder, tmp_path):
    """All of them begin with the same Θ⁰, bit for bit."""
    recipe, text = report_of("ratios", data_folder, tmp_path)
    assert [one.pretraining.training["sampling_ratio"] for one in recipe.settings] == [0.33, 0.5, 0.7]
    weights = {path.read_bytes() for path in tmp_path.glob("out/pretraining/*/forgetting/stage-0/model.safetensors")}
    assert len(list(tmp_path.glob("out/pretraining/*"))) == 3 and len(weights) == 1
    assert "Retrodiction of a known stage" in text


@pytest.mark.slow
def test_hypothesis(data_folder, tmp_path):
    recipe, text = report_of("hypothesis", data_folder, tmp_path)
    for setting in recipe.settings:
        assert f"### {setting.name}" in text.replace("\\", "")
    assert text.count("| initial values of another seed") == 2 == text.count("| stage-0, another seed")


@pytest.mark.slow
def test_predictors(data_folder, tmp_path):
    recipe, text = report_of("predictors", data_folder, tmp_path)
    assert "| shrink 0.5*" in text.replace("\\", "") and recipe.settings[1].name == "PVT (no BatchNorm)"


@pytest.mark.slow
def test_regime(data_folder, tmp_path):
    """At its own size for tests, without the official predictor."""
    recipe = replace(load_recipe(RECIPES / "regime.yaml", "toy"), data_folder=str(data_folder))
    text = write_experiment_report(run_experiment(recipe, tmp_path / "out")).with_name("results.md").read_text()
    assert (
        "Left out, as their predictor was not given (--predictors NAME=FOLDER): official x8, official reset x8" in text
    )
    assert "known x8 at 4e-4 of 50 % − naive at 4e-4 of 100 %" in text and "Best was" in text
