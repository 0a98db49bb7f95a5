"""Real components at toy size: digits that ship with scikit-learn, a tiny timm network, a tiny BERT."""

import os
import shutil
import tempfile

# Before anything imports torch or the Hub client.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
TRACKED = tempfile.mkdtemp(prefix="know-hf-trackio-")  # what tests tell trackio is nobody's
os.environ["TRACKIO_DIR"] = TRACKED

from hub_server import TOKEN, HubServer  # no library but Python's own

# The client reads its address when it is imported; it stays offline but for the tests that use this server.
HUB = HubServer().__enter__()
os.environ.update(HF_ENDPOINT=HUB.url, HF_TOKEN=TOKEN, HF_HUB_DISABLE_XET="1")

import gc
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from filelock import FileLock
from PIL import Image, ImageColor
from safetensors.torch import save_file
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    set_seed,
)
from transformers.utils import logging

from know_hf import ForgettingArguments, Trajectory
from know_hf.choice import options as choice_options
from know_hf.forgetting.making import make_trainer
from know_hf.meta.collection import collect
from know_hf.meta.data_set import MetaDataSet
from know_hf.meta.networks import NETWORKS
from know_hf.models.building import timm_from_scratch
from know_hf.quickstart import digits
from know_hf.training import set_aside
from know_hf.training.set_aside import FEWEST

collect_ignore = ["dying_run.py", "interpret_fused.py", "sharded_model.py"]  # programs that tests start
torch.set_num_threads(1)
logging.disable_progress_bar()
gc.freeze()  # Trainer collects garbage after every run; the imports need not be looked at each time


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Leaves all cases but the first of a test marked ``further_slow`` to the slow run."""
    begun = set()
    for item in items:
        if item.get_closest_marker("further_slow"):
            test = item.nodeid.partition("[")[0]
            if test in begun:
                item.add_marker(pytest.mark.slow)
            begun.add(test)


def pytest_unconfigure():
    shutil.rmtree(TRACKED, ignore_errors=True)
    gc.unfreeze()


def ink(path: Path, color: str) -> float:
    """Share of a plot's pixels that are nearly of a colour, such as ``"#2a6cb3"``."""
    wanted = np.array(ImageColor.getrgb(color))
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    return float((abs(pixels - wanted).max(-1) < 24).mean())


def slow(*cases, id=None):
    """Cases of a test that are left to the slow run: others show the same in the default one."""
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow, id=id) for case in cases
    ]


SHARED = Path(__file__).parents[2] / "shared"
QUICK = {
    "num_train_epochs": 1,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 256,
    "learning_rate": 1e-3,
    "save_strategy": "no",
    "logging_strategy": "no",
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
}


@pytest.fixture(scope="session", autouse=True)
def without_turns():
    """Choosing by turns takes three more runs, which tests of other things have no need of."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(set_aside, "FEWEST", 10**9)
        yield


@pytest.fixture(scope="session", autouse=True)
def without_training_on():
    """The control that is tried by default is one more training, which tests of other things have no need of."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choice_options, "BY_DEFAULT", ())
        yield


@pytest.fixture(scope="module")
def with_turns():
    """As it is by default: few examples are left out by turns."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(set_aside, "FEWEST", FEWEST)
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of data and reference values beside the project; tests that need it skip when it is absent."""
    if not (SHARED / "reference").is_dir():
        pytest.skip("needs the folder of reference data beside the project")
    return SHARED


@pytest.fixture(scope="session")
def images() -> Dataset:
    """160 images of the digits 0, 1 and 2."""
    return digits((0, 1, 2)).shuffle(seed=0).select(range(160))


def tiny_image_model(seed: int = 0, classes: int = 3, channels=(8, 8, 16, 16), **labels):
    set_seed(seed)
    return timm_from_scratch(
        "resnet10t",
        image_size=16,
        model_args={"channels": list(channels), "stem_width": 8, "in_chans": 1},
        mean=(0.3,),
        std=(0.4,),
        num_labels=classes,
        **labels,
    )


@pytest.fixture(scope="session")
def image_model_folder(tmp_path_factory) -> Path:
    """A tiny timm network with three classes, as a plain folder."""
    folder = tmp_path_factory.mktemp("models") / "tiny-resnet"
    tiny_image_model().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def image_data_folder(tmp_path_factory, images) -> Path:
    """The digits in Hub layout: train and test as parquet."""
    folder = tmp_path_factory.mktemp("data") / "digits"
    (folder / "data").mkdir(parents=True)
    images.select(range(128)).to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    images.select(range(128, 160)).to_parquet(folder / "data" / "test-00000-of-00001.parquet")
    return folder


@pytest.fixture(scope="session")
def text_model_folder(tmp_path_factory) -> Path:
    """A tiny BERT without a classification head, with its tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "very", "not", "a"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=16
    ).save_pretrained(folder)
    set_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16, num_labels=2,
    )  # fmt: skip
    BertForSequenceClassification(config).bert.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def chat_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of a few words with a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = "[PAD] [UNK] [EOS] user assistant system good bad film very not a yes no".split()
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    found = PreTrainedTokenizerFast(
        tokenizer_object=made, model_max_length=24, pad_token="[PAD]", unk_token="[UNK]", eos_token="[EOS]"
    )
    found.chat_template = (
        "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} [EOS] {% endfor %}"
        "{% if add_generation_prompt %}assistant {% endif %}"
    )
    return found


@pytest.fixture(scope="session")
def writer_folder(tmp_path_factory, chat_tokenizer) -> Path:
    """A tiny GPT-2 with its tokenizer and chat template."""
    folder = tmp_path_factory.mktemp("models") / "writer"
    set_seed(0)
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 24}
    config = GPT2Config(vocab_size=len(chat_tokenizer), bos_token_id=2, eos_token_id=2, **sizes)
    GPT2LMHeadModel(config).save_pretrained(folder)
    chat_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sentences() -> Dataset:
    """64 short sentences of two classes."""
    texts = [("a very " * (i % 3) + ("good" if i % 2 else "bad") + " film", i % 2) for i in range(64)]
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=["negative", "positive"])})
    return Dataset.from_dict({"sentence": [t for t, _ in texts], "label": [c for _, c in texts]}, features=features)


@pytest.fixture(scope="session")
def image_run(tmp_path_factory, images):
    """A finished forgetting run of five stages and the extra one, with its trainer."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    args = ForgettingArguments(str(folder), train_stage_zero=True, self_check=True, **QUICK)
    trainer = make_trainer(
        tiny_image_model(), images.select(range(128)), args=args, eval_dataset=images.select(range(128, 160))
    )
    trainer.train()
    return trainer


@pytest.fixture
def trajectory(image_run) -> Trajectory:
    """The session's finished trajectory; do not write into its folder."""
    return image_run.trajectory


def known_and_new_digits(folder: Path) -> None:
    """The data of a small experiment in Hub layout: four digits to know, three others to go on to."""
    for name, classes in (("known-digits", (0, 1, 2, 3)), ("new-digits", (7, 8, 9))):
        split = digits(classes).train_test_split(test_size=0.4, seed=0)
        (folder / name / "data").mkdir(parents=True)
        for part in ("train", "test"):
            split[part].to_parquet(folder / name / "data" / f"{part}-00000-of-00001.parquet")


def run_cli(*arguments, launcher=(), check=True, env=None, **kwargs) -> subprocess.CompletedProcess:
    """Runs the command line in a process of its own."""
    command = [*(launcher or [sys.executable]), "-m", "know_hf", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(env or {})}, **kwargs)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return done


@pytest.fixture
def hub(tmp_path, monkeypatch) -> HubServer:
    """The stand-in for the Hub, empty and reachable, with a cache of its own."""
    import huggingface_hub.constants

    HUB.reset()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    return HUB


@pytest.fixture
def precious(tmp_path):
    """A folder of someone else's, in which nothing may have changed in the end."""
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    yield folder
    assert [path.name for path in folder.iterdir()] == ["mine.txt"] and (folder / "mine.txt").read_text() == "mine"


def link(place: Path, target: Path) -> Path:
    """Puts a link where a folder would be."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target)
    return place


def bare_model(folder: Path, values: int = 3) -> Path:
    """A model's folder of a configuration and one tensor."""
    folder.mkdir()
    save_file({"w": torch.arange(float(values))}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "bert"}')
    return folder


#: Ranges that make trials of meta-data quick.
FAST_TRIALS = {"examples": (300, 400), "epochs": (1, 1), "converged": 0.0, "large": 0.0}


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> list[str]:
    """All ten digits under two names."""
    split = digits(tuple(range(10))).train_test_split(test_size=100, seed=0)
    root = tmp_path_factory.mktemp("data")
    for name in ("first", "second"):
        (root / name / "data").mkdir(parents=True)
        for part in ("train", "test"):
            split[part].to_parquet(root / name / "data" / f"{part}-00000-of-00001.parquet")
    return [str(root / name) for name in ("first", "second")]


@pytest.fixture(scope="session")
def collected(data, tmp_path_factory) -> MetaDataSet:
    """One trial of every network on both data sets; made once, whichever of several workers comes first."""
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "collected"
    with FileLock(folder.with_suffix(".lock")):
        return collect(folder, data, trials=2 * len(NETWORKS), **FAST_TRIALS)
