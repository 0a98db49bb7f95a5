"""Meta-training that dies at any point, is damaged, or is of an earlier version: the same bytes, or words."""

import json
import shutil
from dataclasses import replace

import pytest
from conftest import link
from deaths import Death, dying, stamps, tree

from know_hf import KnownPredictor
from know_hf.meta.evaluation import retrodiction_errors
from know_hf.meta.experimental import functional
from know_hf.meta.experimental.functional import FunctionalSettings
from know_hf.meta.training import KindTraining, MetaTrainingSettings, meta_train
from know_hf.trajectory import TrajectoryError

QUICK = MetaTrainingSettings(epochs=3, rows=2000, batch_size=500, learning_rate=3e-3)
BOTH = replace(QUICK, functional=FunctionalSettings(epochs=2, images=40, learning_rate=3e-3))
SPLIT = {"held_out_architectures": ["vit", "mobilenet", "resnet", "shufflenet"], "held_out_data": ["second"]}


@pytest.fixture
def train(collected, data, monkeypatch):
    """Meta-trains into a folder, with little to judge by."""
    monkeypatch.setattr(functional, "UNSEEN_EXAMPLES", 100)
    monkeypatch.setattr(functional, "JUDGES", 1)
    monkeypatch.setattr(
        "know_hf.meta.training.compare_errors",
        lambda meta, names, predictors: {"all": retrodiction_errors(meta, names[:1], predictors, ["naive"], steps=1)},
    )

    def run(folder, settings=QUICK):
        return meta_train(collected, folder, settings=settings, data=data, **SPLIT)

    return run


@pytest.mark.parametrize(
    "settings, share", [(QUICK, 5), pytest.param(BOTH, 1, marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_a_death_at_any_operation_changes_nothing(train, tmp_path, monkeypatch, settings, share):
    """Killed at the k-th thing that is done to a file, then run again: the folder of an uninterrupted run."""
    with dying(monkeypatch, tmp_path) as deaths:
        train(tmp_path / "whole", settings)
    whole, every = tree(tmp_path / "whole"), range(1, deaths.count + 1)
    assert deaths.count > 100
    for at in every if share == 1 else every[7 :: len(every) // share]:
        folder = tmp_path / str(at)
        with pytest.raises(Death), dying(monkeypatch, folder, at):
            train(folder, settings)
        if (folder / "config.json").exists():  # then it is a predictor, and all of it is there
            assert all(tree(folder)[name] == whole[name] for name in whole if "/" not in name), at
        train(folder, settings)
        assert tree(folder) == whole, at
        shutil.rmtree(folder)
    before = stamps(tmp_path / "whole" / "training")
    train(tmp_path / "whole", settings)
    assert tree(tmp_path / "whole") == whole and stamps(tmp_path / "whole" / "training").keys() == before.keys()


@pytest.fixture
def stopped(train, tmp_path, monkeypatch):
    """A training that was stopped after two epochs of its second kind, fc."""
    epoch, calls = KindTraining._epoch, []

    def stop(self, *args):
        calls.append(self.kind)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return epoch(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(KindTraining, "_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "stopped")
    return tmp_path / "stopped"


def test_damaged_progress_ends_in_words(train, stopped, tmp_path):
    result = train(shutil.copytree(stopped, tmp_path / "whole"))
    note = json.loads((stopped / "training" / "fc.json").read_text())
    assert note["epoch"] == 2 and set(note["files"]) >= {"fc-2.safetensors", "fc-2-optimizer.safetensors"}

    def refused(name: str, content: bytes | None, match: str):
        folder = shutil.copytree(stopped, tmp_path / "damaged") / "training"
        whole = (folder / name).read_bytes()
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(content if content else whole[: len(whole) // 2])
        with pytest.raises(TrajectoryError, match=match) as caught:
            train(folder.parent)
        assert "delete " in str(caught.value)
        if content == b"":
            (folder / f"{name.partition('-')[0]}.json").unlink()  # what the words say
            assert train(folder.parent)["weights"] == result["weights"]
        shutil.rmtree(folder.parent)

    (best,) = json.loads((stopped / "training" / "conv.json").read_text())["files"]
    for name in ("fc-2-optimizer.safetensors", best):
        refused(name, b"", f"{name} is missing or damaged")
    refused("fc-2.safetensors", None, "fc-2.safetensors is missing or damaged")
    for text in ("", "[" * 100_000, "3", '{"epoch": 2}', json.dumps({**note, "epoch": "2"}),
                 json.dumps({**note, "history": [[1, None]] * 2}), json.dumps({**note, "files": [1]}),
                 json.dumps({**note, "best_epoch": 7}), json.dumps({**note, "best": 10**400})):  # fmt: skip
        refused("fc.json", text.encode() or b" ", "fc.json (is damaged|cannot be read)")


def test_progress_of_an_earlier_version(train, stopped, tmp_path):
    """What had ended is taken as it is; in between, its files may be of different epochs."""
    whole = train(shutil.copytree(stopped, tmp_path / "whole"))
    for folder in (stopped, tmp_path / "whole"):
        for path in sorted((folder / "training").glob("*.json")):
            note = json.loads(path.read_text())
            if files := note.pop("files", None):
                best = f"{path.stem}-{note['best_epoch'] + 1}.safetensors"
                shutil.copyfile(path.with_name(best), path.with_name(f"{path.stem}-best.safetensors"))
                for name in files:
                    path.with_name(name).unlink()
                path.write_text(json.dumps(note))
    assert train(tmp_path / "whole") == whole
    with pytest.raises(TrajectoryError, match="fc.json is of an earlier know-hf, .*: delete .*fc.json and run again"):
        train(stopped)
    (stopped / "training" / "fc.json").unlink()
    assert train(stopped)["weights"] == whole["weights"]


def test_other_folders_are_left_alone(train, collected, data, tmp_path):
    KnownPredictor.default().save_pretrained(tmp_path / "model")
    before = stamps(tmp_path / "model", collected.folder, *data)
    with pytest.raises(FileExistsError, match="is another model's folder"):
        train(tmp_path / "model")
    for folder in (collected.folder, collected.folder / "known", data[0]):
        with pytest.raises(FileExistsError, match="is, or lies in, the input"):
            train(folder)
    train(tmp_path / "out", BOTH)
    assert stamps(tmp_path / "model", collected.folder, *data) == before
    (tmp_path / "out" / "training" / "settings.json").write_text("[]")
    with pytest.raises(TrajectoryError, match="settings.json is damaged: its content must be name: value pairs"):
        train(tmp_path / "out", BOTH)


@pytest.mark.parametrize("name", ["training", "training/cache", "training/predictor"])
def test_nothing_goes_through_a_link_in_a_training(train, tmp_path, precious, name):
    link(tmp_path / "out" / name, precious)
    with pytest.raises(ValueError, match=f"{name} is a link, through which nothing is written"):
        train(tmp_path / "out")
