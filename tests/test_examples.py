"""Every example at a toy setting."""

import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForImageTextToText,
    AutoTokenizer,
    ResNetConfig,
    ResNetForImageClassification,
)

from know_hf import Trajectory, enrich
from know_hf.models.building import timm_from_scratch

EXAMPLES = Path(__file__).parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))  # as for a script, for what examples share


def example(name: str):
    """The module of an example, to be run in this process."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    # HfArgumentParser looks types up in the module of a dataclass.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def flags(**settings) -> list[str]:
    """``--name value`` for each; lists take several values, None none."""
    found = []
    for name, value in settings.items():
        values = value if isinstance(value, list) else [] if value is None else [value]
        found += [f"--{name}", *map(str, values)]
    return found


def run(name: str, *arguments) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, arguments)], capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return done.stdout


@pytest.mark.slow
def test_pvtv2_on_two_processes(tmp_path, image_data_folder):
    tiny_args = {"depths": (1, 1, 1, 1), "embed_dims": (8, 8, 16, 16), "num_heads": (1, 1, 2, 2)}
    timm_from_scratch("pvt_v2_b0", image_size=32, model_args=tiny_args).save_pretrained(tmp_path / "pvt")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    tiny = {
        "model": tmp_path / "pvt", "image_size": 32, "dataset": image_data_folder, "output_dir": tmp_path / "run",
        "num_stages": 4, "num_train_epochs": 1, "per_device_train_batch_size": 16, "disable_tqdm": True,
    }  # fmt: skip
    flags = [str(part) for name, value in tiny.items() for part in (f"--{name}", value)]
    done = subprocess.run(
        [*launch, EXAMPLES / "enrich_pvtv2.py", *flags, "--from_scratch"], capture_output=True, text=True,
        env={**os.environ, "ACCELERATE_USE_CPU": "1", "GLOO_SOCKET_IFNAME": "lo"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:]
    record = Trajectory.load(tmp_path / "run").record
    assert [stage.examples for stage in record.stages] == [128, 42, 13, 4, 1] and record.sampling_ratio == 0.33
    assert record.recipe["batch_size"] == 32, "it ran as one process"
    for name in ("x3", "x9"):
        AutoModelForImageClassification.from_pretrained(tmp_path / "run" / "enriched" / name)
    assert done.stdout.count("x9: AutoModelForImageClassification") == 1


@pytest.mark.slow
def test_few_images_and_a_network_of_transformers(tmp_path, image_data_folder):
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3)
    ResNetForImageClassification(config).save_pretrained(tmp_path / "model")
    result = example("enrich_pvtv2").main(flags(
        model=tmp_path / "model", image_size=16, dataset=image_data_folder, output_dir=tmp_path / "run", shots=12,
        num_train_epochs=1, num_stages=4, sampling_ratio=0.5, train_stage_zero=True, self_check=False,
        disable_tqdm=True,
    ))  # fmt: skip
    assert [stage.examples for stage in result.trajectory.record.stages] == [36, 18, 9, 4]
    assert set(result.checkpoints) == {"x2", "x4"} and "eval_accuracy" in result.metrics["x2"]


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.slow
def test_text_classifier(tmp_path, text_model_folder, sentences, rank):
    data = tmp_path / "data" / "data"
    data.mkdir(parents=True)
    for split in ("train", "validation"):
        sentences.to_parquet(data / f"{split}-00000-of-00001.parquet")
    lora = {} if rank is None else {"lora_rank": rank}
    result = example("enrich_text_classifier").main(flags(
        model=text_model_folder, dataset=data.parent, output_dir=tmp_path / "run", examples=48, steps=2,
        num_train_epochs=1, num_stages=4, learning_rate=1e-3, disable_tqdm=True, **lora,
    ))  # fmt: skip
    file = "model.safetensors" if rank is None else "adapter_model.safetensors"
    assert (result.checkpoints["x4"] / file).is_file() and result.trajectory.record.stages[0].examples == 48
    assert "eval_accuracy" in result.metrics["x2"] and result.self_check["ratios"]


@pytest.mark.slow
def test_language_model(tmp_path, capsys):
    text = EXAMPLES.parent / "LICENSE"
    result = example("enrich_language_model").main(flags(
        text=text, output_dir=tmp_path / "run", block=16, layers=1, width=16, steps=2, num_train_epochs=1, num_stages=4,
        disable_tqdm=True,
    ))  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(result.checkpoints["x4"])
    model = AutoModelForCausalLM.from_pretrained(result.checkpoints["x4"]).eval()
    held_out = text.read_text(encoding="utf-8").splitlines()
    tokens = torch.tensor(tokenizer("\n".join([*held_out[-(len(held_out) // 10) :], ""]))["input_ids"])
    blocks = tokens[: len(tokens) // 16 * 16].view(-1, 16)
    with torch.no_grad():
        loss = cross_entropy(model(blocks).logits[:, :-1].flatten(0, 1), blocks[:, 1:].flatten())
    assert result.metrics["x4"]["eval_perplexity"] == pytest.approx(math.exp(loss), rel=1e-4)
    assert f"{result.metrics['x4']['eval_perplexity']:.4f}" in capsys.readouterr().out
    assert tokenizer.decode(tokenizer("two  words\n")["input_ids"]) == "two  words\n"


@pytest.mark.slow
def test_segmentation(tmp_path):
    result = example("enrich_segmentation").main(flags(
        output_dir=tmp_path, examples=40, image_size=32, num_train_epochs=1, num_stages=3, disable_tqdm=True,
        self_check=False,
    ))  # fmt: skip
    assert set(result.checkpoints) == {"x3", "x9"}
    assert {"eval_mean_iou", "eval_mean_class_accuracy"} <= set(result.metrics["x3"])
    with Image.open(tmp_path / "report" / "overlays.png") as overlays:
        colours = overlays.convert("RGB").getcolors(1 << 24)
    assert len([count for count, _ in colours if count > 20]) > 20  # pictures, and masks over them


def test_captioning(tmp_path):
    result = example("enrich_captioning").main(flags(
        output_dir=tmp_path, examples=60, width=16, layers=1, num_train_epochs=1, num_stages=3, disable_tqdm=True,
        self_check=False,
    ))  # fmt: skip
    assert 0 <= result.metrics["x3"]["eval_masked_accuracy"] <= 1
    loaded = AutoModelForImageTextToText.from_pretrained(result.checkpoints["x9"])
    assert loaded.config.encoder.model_type == "pvt_v2"


@pytest.mark.slow
def test_domain_generalisation(tmp_path, trajectory):
    made = enrich(trajectory, tmp_path / "enriched", steps=1).checkpoints["x2"]
    arms = [f"naive={trajectory.checkpoints[0].folder}", f"x2={made}"]
    results = example("domain_generalisation").main(flags(
        arms=arms, output_dir=tmp_path / "out", learning_rates=[1e-3], seeds=2, head_epochs=1, epochs=1, batch_size=256,
    ))  # fmt: skip
    assert set(results) == {"plain", "turned", "noisy"}
    text = (tmp_path / "out" / "domains.md").read_text()
    scores = [float(score) for score in re.findall(r"([\d.]+) ±", text)]
    assert "| naive " in text and "average" in text and len(scores) == 2 * 4 and max(scores) <= 100
    assert max(scores) > 1, "shares, not percent"


@pytest.mark.slow
def test_notebook(tmp_path, monkeypatch):
    """Every cell but the installation, in order, in one namespace; what it shows is there, and in its outputs."""
    import matplotlib

    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    cells = json.loads((EXAMPLES / "first_steps.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    sources = ["".join(cell["source"]) for cell in code]
    assert sources[0].startswith("%pip install") and not code[0]["outputs"]
    written = json.dumps([cell["outputs"] for cell in code])
    assert written.count("iVBOR") == 4 and "Keep Θ⁰" in written.encode().decode("unicode_escape")
    assert not re.search(r"/home|/work|/tmp|Error", written)
    shown: list[str] = []  # IPython need not be installed
    display = SimpleNamespace(display=shown.append, Image=lambda path, width: path)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(display=display, version_info=(8, 24)))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    names: dict = {}
    quick = {"EPOCHS = 5": "EPOCHS = 1", "epochs=10": "epochs=1", "[1e-3, 3e-3]": "[1e-3]", "seeds=3": "seeds=2"}
    threads = torch.get_num_threads()
    try:
        for source in sources[1:]:
            for slow, fast in quick.items():
                source = source.replace(slow, fast)
            exec(compile(source, "cell", "exec"), names)
    finally:
        torch.set_num_threads(threads)
    assert set(names["comparison"].arms) == {"naive", "shrink x2", "KNOWN x2"} and names["result"].self_check["ratios"]
    assert len(shown) == 3 and all((tmp_path / path).is_file() for path in shown)


def test_the_page_of_weights_worth_taking():
    """Of records as they are kept: seeds together, gains in points, downstream scores in percent, older rules named."""
    from weights_worth_taking import report

    def record(seed: int, gain: float, **more) -> dict:
        own = {
            "stage-0": 0.0,
            "x2": -gain,
            "mean": 0.0,
            "fitted": 0.0,
            "equal_compute": gain,
            "soup": 0.0,
            "best": gain,
        }
        found = {
            name: {"score": 0.5 + one, "gain": one, "low": one - 0.02, "high": one + 0.02, "chance": 0.5, **more}
            for name, one in own.items()
        }
        scores = {"naive": [32.0, 33.0], "best": [34.0, 34.0]}
        return {"task": "cifar100-resnet", "seed": seed, "chosen": "equal_compute", "percent": True, "selection": found,
                "evaluation": found, "downstream": {"scores": scores}}  # fmt: skip

    records = [record(0, 0.05, loss_chance=1.0), record(1, 0.03)]
    text = report({"cifar100-resnet": records}, ["x2", "mean", "fitted", "equal_compute", "soup"])
    assert "| cifar100-resnet | 50.0 ± 0.0 | 54.0 ± 1.4 | +4.0 ± 1.4 2↑ | -4.0 ± 1.4 2↓ |" in re.sub(" +", " ", text)
    assert "| best | 34.0 (+1.5 ± 0.0)" in re.sub(" +", " ", text)
    assert "Still judged without it: cifar100-resnet 1." in text
