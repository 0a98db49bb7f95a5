"""Averages of stage 0: values by hand, plain folders, and a killed run that ends with the same bytes."""

import shutil
import sys

import pytest
import torch
from conftest import QUICK, run_cli, tiny_image_model
from safetensors.torch import load_file
from test_stage_end import tree
from test_trainer import KillAt, Killed, Pixels, make, same, weights
from test_weights import bert
from torch import nn
from transformers import AutoModelForImageClassification, TrainerCallback, default_data_collator

from know_hf import ForgettingArguments, ForgettingTrainer, TrajectoryError
from know_hf.cli.main import main

AVERAGED = {"average_stage_zero": "both", "average_decay": 0.6, "average_start": 0.5, "num_stages": 2}


class Watch(TrainerCallback):
    """Notes the parameters after every step of stage 0."""

    def __init__(self):
        self.steps = []

    def on_step_end(self, args, state, control, model=None, **_):
        if args.output_dir.endswith("stage-0"):
            self.steps.append({name: p.detach().clone() for name, p in model.named_parameters()})


def test_averages_by_hand(tmp_path):
    watch = Watch()
    make(tmp_path / "off", num_stages=2).train()
    make(tmp_path / "on", [watch], **AVERAGED).train()
    for stage in (0, 1):  # the training took no notice
        assert same(weights(tmp_path / "off", stage), weights(tmp_path / "on", stage))
    assert len(watch.steps) == 4
    folders = {name: tmp_path / "on" / f"stage-0-{name}" for name in ("ema", "swa")}
    stored = {name: load_file(folder / "model.safetensors") for name, folder in folders.items()}
    zero = weights(tmp_path / "on", 0)
    for name, last in watch.steps[-1].items():
        expected = watch.steps[0][name].double()
        for i, step in enumerate(watch.steps[1:], start=1):
            decay = min(0.6, (1 + i) / (10 + i))
            expected = decay * expected + (1 - decay) * step[name].double()
        assert torch.allclose(stored["ema"][name].double(), expected, atol=1e-6)
        assert torch.allclose(stored["swa"][name], (watch.steps[2][name] + last) / 2, atol=1e-6)
        assert torch.equal(zero[name], last)
    mean = "timm_model.bn1.running_mean"  # of weights that no step had
    assert not torch.equal(stored["ema"][mean], zero[mean]) and stored["ema"].keys() == zero.keys()
    model = AutoModelForImageClassification.from_pretrained(folders["ema"])
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None
    pixels, order = Pixels(), torch.randperm(len(Pixels()), generator=torch.Generator().manual_seed(42))
    for part in order.split(256):  # as large as evaluation's
        model(pixel_values=torch.stack([pixels[int(i)]["pixel_values"] for i in part]))
    assert torch.allclose(model.state_dict()[mean], stored["ema"][mean], atol=1e-5)
    assert {path.name for path in folders["swa"].iterdir()} == {"config.json", "model.safetensors"}


def test_mixed_precision(tmp_path):
    """The forward pass, which accelerate then wraps, of an average is its own."""
    try:
        for name in ("off", "again"):
            make(tmp_path / name, num_stages=2, bf16=True, use_cpu=True).train()
        repeats = same(weights(tmp_path / "off", 1), weights(tmp_path / "again", 1))
        make(tmp_path / "on", bf16=True, use_cpu=True, **AVERAGED).train()
    except TrajectoryError:  # seen with matrix units of some processors, from the same start as another run's weights
        repeats = False
    if not repeats:
        pytest.skip("bfloat16 convolutions do not repeat themselves on this processor")
    zero = weights(tmp_path / "on", 0)
    assert same(weights(tmp_path / "off", 0), zero)
    assert same(weights(tmp_path / "off", 1), weights(tmp_path / "on", 1))
    mean, average = "timm_model.bn1.running_mean", load_file(tmp_path / "on" / "stage-0-ema" / "model.safetensors")
    assert not torch.equal(average[mean], zero[mean]) and average[mean].dtype == torch.float32


@pytest.mark.parametrize("step", [3, 4])
@pytest.mark.slow
def test_killed_and_continued_gives_the_same_bytes(tmp_path, step):
    settings = {**AVERAGED, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 1}
    make(tmp_path / "whole", **settings).train()
    with pytest.raises(Killed):
        make(tmp_path / "killed", [KillAt(0, step)], **settings).train()
    work = tmp_path / "killed" / "training" / "stage-0"
    assert {path.name for path in work.glob("*/average-*")} == {"average-ema.safetensors", "average-swa.safetensors"}
    make(tmp_path / "killed", **settings).train()
    whole, killed = tree(tmp_path / "whole"), tree(tmp_path / "killed")
    assert "stage-0-ema/model.safetensors" in whole and whole == killed


@pytest.mark.slow
def test_a_checkpoint_without_its_averages_is_not_continued_from(tmp_path):
    settings = {**AVERAGED, "save_strategy": "steps", "save_steps": 1}
    make(tmp_path / "whole", **settings).train()
    with pytest.raises(Killed):
        make(tmp_path / "killed", [KillAt(0, 3)], **settings).train()
    work = tmp_path / "killed" / "training" / "stage-0"
    (work / "checkpoint-2" / "average-swa.safetensors").unlink()
    make(tmp_path / "killed", **settings).train()
    assert tree(tmp_path / "whole") == tree(tmp_path / "killed")


@pytest.mark.slow
def test_a_run_keeps_to_its_averages(tmp_path):
    make(tmp_path, num_stages=2).train()
    with pytest.raises(TrajectoryError, match="recipe.average_stage_zero was None, now 'ema'"):
        make(tmp_path, num_stages=2, average_stage_zero="ema").train()
    shutil.rmtree(tmp_path)
    make(tmp_path, **AVERAGED).train()
    with pytest.raises(TrajectoryError, match="recipe.average_decay was 0.6, now 0.5"):
        make(tmp_path, **{**AVERAGED, "average_decay": 0.5}).train()


def test_what_cannot_be_averaged_is_said_before_training(tmp_path):
    with pytest.raises(ValueError, match="average_stage_zero='rms' is not known; use one of ema, swa, both"):
        make(tmp_path, average_stage_zero="rms")
    with pytest.raises(ValueError, match="average_stage_zero is for a forgetting run; recipe='incremental'"):
        make(tmp_path, average_stage_zero="ema", recipe="incremental")
    with pytest.raises(ValueError, match="average_decay is 1.5"):
        make(tmp_path, average_stage_zero="ema", average_decay=1.5)
    with pytest.raises(ValueError, match="averages the training of stage 0, which is taken as it is"):
        make(tmp_path, average_stage_zero="ema", train_stage_zero=False).train()
    with pytest.raises(ValueError, match="of 16 bits would lose"):
        make(tmp_path, average_stage_zero="ema", model=tiny_image_model().bfloat16()).train()
    assert not (tmp_path / "trajectory.json").exists()


def test_adapters(tmp_path):
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(bert(), peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"]))
    data = [{"input_ids": [i % 50, i % 7], "labels": i % 2} for i in range(16)]
    settings = {**QUICK, "num_train_epochs": 2, "per_device_train_batch_size": 4, "learning_rate": 0.01, **AVERAGED}
    args = ForgettingArguments(str(tmp_path), train_stage_zero=True, **settings)
    ForgettingTrainer(model=model, args=args, train_dataset=data, data_collator=default_data_collator).train()
    zero, average = (load_file(tmp_path / f / "adapter_model.safetensors") for f in ("stage-0", "stage-0-swa"))
    assert zero.keys() == average.keys() and not same(zero, average)


@pytest.mark.slow
def test_two_processes(tmp_path, image_model_folder, image_data_folder):
    """Averages of two processes are those of one; noise and new normalisation are the same on any number of them."""
    loopback, launcher = {"GLOO_SOCKET_IFNAME": "lo"}, [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launcher += ["--nproc_per_node", "2"]
    command = ["forget", "--model", image_model_folder, "--dataset", image_data_folder, "--num_stages", 2,
               "--train_stage_zero", "True", "--average_stage_zero", "both", "--average-decay", 0.6,
               "--learning_rate", 1e-3, "--num_train_epochs", 1, "--save_strategy", "no"]  # fmt: skip
    main([str(x) for x in (*command, "--per_device_train_batch_size", 16, "--output-dir", tmp_path / "one")])
    run_cli(*command, "--per_device_train_batch_size", 8, "--output-dir", tmp_path / "two", launcher=launcher,
            env=loopback)  # fmt: skip
    for name in ("stage-0", "stage-0-ema", "stage-0-swa"):
        one, two = (load_file(tmp_path / run / name / "model.safetensors") for run in ("one", "two"))
        parameters = [key for key in one if key.endswith((".weight", ".bias"))]
        near = {key: (one[key] - two[key]).abs().max().item() for key in parameters}
        assert max(near.values()) < 0.01, (name, near)  # BatchNorm sees half a batch in each of two processes
    ema, swa = (load_file(tmp_path / "two" / f"stage-0-{name}" / "model.safetensors") for name in ("ema", "swa"))
    assert not same(ema, swa) and not list((tmp_path / "two").rglob("*.partial"))
    predict = ["predict", tmp_path / "two", "--method", "shrink_perturb", "extra_merge", "--norms", "reset",
               "--steps", 1, "--parameters", "extra_merge.window=1", "--output-dir"]  # fmt: skip
    main([str(x) for x in (*predict, tmp_path / "alone")])
    run_cli(*predict, tmp_path / "shared", launcher=launcher, env=loopback)
    for method in ("shrink_perturb", "extra_merge"):
        files = [tmp_path / folder / method / "x2" / "model.safetensors" for folder in ("alone", "shared")]
        assert files[0].read_bytes() == files[1].read_bytes()
