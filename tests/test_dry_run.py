"""What experiments will take, before they take it."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from conftest import tiny_image_model
from torch import nn

from know_hf.cli.main import main
from know_hf.laboratory.dry_run import ExperimentPlan, dry_run
from know_hf.laboratory.experiment import run_experiment
from know_hf.laboratory.measuring import Step, measure
from know_hf.laboratory.recipe import load_recipe
from know_hf.laboratory.sources import sources_of
from know_hf.models.architecture import check_architecture
from know_hf.models.building import build_network

RECIPES = Path(__file__).parents[1] / "examples" / "recipes"
SIZES = [
    ("table1", "paper"),
    ("table1", "released"),
    *((f"table{i}", "paper") for i in range(2, 8)),
    ("figure3", "paper"),
    ("predictors", "paper"),
]
#: They start from published weights, which are not at hand here.
WEIGHTS_NEEDED = ("table2", "table3", "table4", "table5")


@pytest.fixture(scope="module")
def plans() -> dict[tuple[str, str], ExperimentPlan]:
    """Every large size, on two images a step, as if no data were at hand."""
    measured: dict[str, Step] = {}
    recipes = {key: replace(load_recipe(RECIPES / f"{key[0]}.yaml", key[1]), data_folder=None) for key in SIZES}
    made = {key: dry_run(recipe, rows=2, measured=measured) for key, recipe in recipes.items()}
    assert len(measured) == 3  # the authors' network, the common one and the plain one
    return made


@pytest.mark.slow
def test_every_large_size_is_planned(plans):
    for (name, _), plan in plans.items():
        assert (plan.seconds is None) == (name in WEIGHTS_NEEDED), plan
        for setting in plan.settings:
            assert name in WEIGHTS_NEEDED or setting.step.parameters in (11_232_612, 11_220_132, 24_910)
            assert 0 < sum(job.trainings for job in setting.jobs)
            assert len(setting.unknown) == (name in WEIGHTS_NEEDED)  # the network alone: sizes are all declared
    text = str(plans["table2", "paper"])
    assert "CIFAR-100: the model cannot be built: Model 'OpenGVLab/pvt_v2_b0' is neither a local folder nor" in text
    assert "It starts from these weights" in text and "in all unknown" in text and "100 × " not in text
    # A domain that is held out is no training data.
    tunings = {setting.name: setting.jobs[-1] for setting in plans["table3", "paper"].settings}
    assert tunings["sketch"].examples == 9991 - 3929 - 500 and tunings["photo"].examples == 9991 - 1670 - 500
    (captions,) = plans["table4", "paper"].settings
    assert captions.jobs[-1].examples == 6000 - 500 and "decoder" in captions.remarks[0]


def test_steps_of_table_1(plans):
    paper, released = (plans["table1", size].settings for size in ("paper", "released"))
    epochs, batch = 200, 128
    sizes = [50_000, 25_000, 12_500, 6_250, 3_125]
    stages = tuple(epochs * -(-size // batch) for size in sizes)
    jobs = {job.what: job for job in paper[0].jobs}
    assert jobs["forgetting"].steps == stages and jobs["incremental"].steps == stages[::-1]
    assert jobs["equal_compute"].steps == (sum(stages[1:]),)
    assert jobs["fine-tunings"].steps == (10 * (45_000 // batch), 100 * (45_000 // batch))
    assert [setting.jobs[0].examples for setting in paper] == [*sizes, 50_000]
    forgetting, tunings = released[0].jobs
    assert forgetting.steps == tuple(epochs * (size // batch) for size in sizes)
    assert (
        tunings.steps == (10 * 390, 100 * 390) and tunings.trainings == 5 * 8
    )  # naive, ×2, ×4, ×8, reset or not, at one rate
    assert plans["table1", "paper"].settings[0].step.seconds > 0
    page = (RECIPES.parents[1] / "docs" / "paper.md").read_text(encoding="utf-8")
    assert f"| {jobs['forgetting'].steps[0]:,} | {forgetting.steps[0]:,} |" in page
    # What the predicted starts share is trained once.
    stages = [setting.shared for setting in plans["table6", "paper"].settings]
    assert stages == [None, "S = 2", "S = 2", "S = 2"]


def test_what_a_step_keeps():
    model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5))

    class Lossy(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x, labels):
            return type("Output", (), {"loss": self.inner(x).pow(2).sum()})

    step = measure(Lossy(), {"x": torch.randn(8, 10), "labels": torch.zeros(8)})
    weights = 10 * 20 + 20 + 20 * 5 + 5
    assert step.parameters == weights and step.rows == 8 and step.seconds > 0
    # Weights, gradients, two moments; x, the ReLU's output (once) and the result, each in float32.
    assert step.fixed == 4 * 4 * weights and step.activations == 4 * (10 + 20 + 5)
    assert step.memory(3) == step.fixed + 3 * step.activations


def test_data_at_hand_and_data_that_are_not(image_data_folder, tmp_path, capsys):
    tiny_image_model().save_pretrained(tmp_path / "model")
    (tmp_path / "own.yaml").write_text(f"""
title: Own
data_folder: {image_data_folder.parent}
sizes:
  one:
    settings:
      here:
        pretraining: &here
          {{dataset: me/digits, train_split: "train[:50%]", model: {tmp_path / "model"},
           training: {{num_stages: 3, num_train_epochs: 2, per_device_train_batch_size: 16}}}}
        methods: [known, mean, naive]
        controls: [shrink 0.5]
        full_grid: [known]
        steps: 2
        seeds: 3
        learning_rates: [1.0e-3, 2.0e-3]
        transfer:
          {{dataset: me/digits,
           protocol: {{examples: 32, validation_examples: 16, batch_size: 8, epochs: 1, head_epochs: 0}}}}
      elsewhere:
        pretraining: {{<<: *here, dataset: me/nowhere}}
""")
    main(["experiment", str(tmp_path / "own.yaml"), "--dry-run", "--output-dir", str(tmp_path / "out")])
    text = capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert "elsewhere: me/nowhere is neither in the data_folder nor declared in the recipe's data_sets." in text
    recipe = load_recipe(tmp_path / "own.yaml")
    forgetting, tunings = dry_run(recipe).settings[0].jobs
    assert forgetting.steps == (8, 4, 2) and forgetting.examples == 64
    # naive and two steps of KNOWN at two rates, mean and the control at naive's own.
    assert tunings.trainings == 3 * (3 * 2 + 2) and tunings.steps == (4,)
    assert [arm.name for source in sources_of(recipe.settings[0]) for arm in source.arms(0.5)] == [
        "naive",
        "known x2",
        "known x4",
        "mean",
        "shrink 0.5",
    ]


def described(folder: Path, **changed: object) -> Path:
    """A recipe of a plain network on digits, with something else of its setting."""
    setting = {
        "pretraining": {
            "dataset": "me/digits", "architecture": {"model_type": "plain_cnn", "num_channels": 1}, "image_size": 8,
            "training": {"num_stages": 2, "num_train_epochs": 1},
        },
        "methods": ["known"], "steps": 1, "seeds": 2, "learning_rates": [1e-3],
        "transfer": {"dataset": "me/digits", "protocol": {"examples": 32, "validation_examples": 16}}, **changed,
    }  # fmt: skip
    path = folder / "own.yaml"
    declared = {"me/digits": {"train": 100, "test": 50, "classes": 10}}
    path.write_text(json.dumps({"title": "Own", "data_sets": declared, "sizes": {"one": {"settings": {"a": setting}}}}))
    return path


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"reset": ["known"]}, "a: reset: norms='reset' is about layers with running statistics"),
        ({"transfer": {"dataset": "me/digits", "protocol": {"examples": 100_000}}}, "have 100 examples, 101000 are"),
        (
            {"transfer": {"dataset": "me/digits", "protocol": {"validation_examples": 500}}},
            "have 100 examples, 501 are",
        ),
    ],
)
def test_a_dry_run_refuses_what_the_run_does(tmp_path, changed, words):
    assert dry_run(load_recipe(described(tmp_path)), rows=2).seconds > 0
    with pytest.raises(ValueError, match=words):
        dry_run(load_recipe(described(tmp_path, **changed)), rows=2)


def test_the_run_refuses_it_before_it_writes_a_record(image_data_folder, tmp_path):
    for changed in ({"reset": ["known"]}, {"transfer": {"dataset": "me/digits", "protocol": {"examples": 100_000}}}):
        recipe = load_recipe(described(tmp_path, **changed))
        with pytest.raises(ValueError, match=r"reset|are asked for"):
            run_experiment(replace(recipe, data_folder=str(image_data_folder.parent)), tmp_path / "out")
        assert not [path.name for path in (tmp_path / "out").rglob("*.json")]


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"trian": 100}, "unknown setting 'trian'; did you mean train"),
        ({"train": 100, "clases": 10}, "unknown setting 'clases'; did you mean classes"),
        ({"train": -100}, "data_sets: me/digits: train is -100; it counts something, from 1"),
    ],
)
def test_declared_data_that_mean_nothing(tmp_path, declared, words):
    path = described(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "data_sets": {"me/digits": declared}}))
    with pytest.raises(ValueError, match=words):
        load_recipe(path)


@pytest.mark.parametrize(
    ("architecture", "words"),
    [
        ({"model_type": "resnet", "layer_typ": "basic"}, "'layer_typ'; did you mean layer_type?"),
        ({"model_type": "plain_cnn", "hiden_sizes": [8]}, "'hiden_sizes'; did you mean hidden_size"),
        ({"model_type": "know_resnet", "widht": 8}, "'widht'; did you mean width?"),
        ({"timm": "resnet10t", "model_arg": {}}, "'model_arg'; did you mean model_args?"),
        ({"timm": "resnet10t", "model_args": {"stem_widht": 8}}, "model_args: timm's resnet10t does not take them"),
    ],
)
def test_misspelt_fields_of_a_network(architecture, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        build_network(architecture, "image-classification", ["a", "b"])


def test_fields_that_networks_have():
    for path in RECIPES.glob("*.yaml"):
        for size in yaml.safe_load(path.read_text())["sizes"]:
            for setting in load_recipe(path, size).settings:
                if setting.pretraining.architecture is not None:
                    check_architecture(setting.pretraining.architecture)
                if setting.transfer is not None and setting.transfer.decoder is not None:
                    check_architecture(setting.transfer.decoder["architecture"], further=())
    check_architecture({"model_type": "gpt2", "n_embd": 8, "hidden_size": 8, "num_labels": 3, "return_dict": True})
    with pytest.raises(ValueError, match="did you mean n_layer"):
        check_architecture({"model_type": "gpt2", "n_layers": 2}, "decoder.architecture")
