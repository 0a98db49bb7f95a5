"""The folder of a run: what may be written there, what killed processes leave, and disks that are full."""

import json
import resource
import shutil

import pytest
from test_stage_end import DieAt, tree
from test_trainer import KillAt, Killed, make

from know_hf import Trajectory, TrajectoryError
from know_hf.forgetting.folder import RunFolder
from know_hf.trajectory import StageRecord, TrajectoryRecord
from know_hf.trajectory.record import FILE_NAME

SETTINGS = {"save_strategy": "steps", "save_steps": 1}


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run that died in stage 1, and what it looks like when nothing happens to it."""
    root = tmp_path_factory.mktemp("interrupted")
    make(root / "whole", **SETTINGS).train()
    with pytest.raises(Killed):
        make(root / "run", callbacks=[KillAt(1, 2)], **SETTINGS).train()
    return root


@pytest.fixture
def run(interrupted, tmp_path):
    """A copy of it, beside something precious."""
    shutil.copytree(interrupted / "run", tmp_path / "run")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years of work")
    return tmp_path / "run"


def change(run, **fields):
    content = json.loads((run / FILE_NAME).read_text())
    content["stages"][1].update(fields)
    (run / FILE_NAME).write_text(json.dumps(content))


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        "../precious", "{}/precious", "stage-0", "training", "enriched", ".know-hf.lock", FILE_NAME, ".", "stage-1/",
        "..\\precious", "C:\\precious", "stage-2/../../precious", "./stage-1", ".stage-2.partial",
    ],
)  # fmt: skip
def test_records_that_name_other_places_are_not_continued(run, name, finished):
    change(run, folder=name.format(run.parent), finished=finished)
    before = tree(run.parent)
    with pytest.raises(ValueError, match="holds another run: stage 1 was"):
        make(run, **SETTINGS).train()
    assert tree(run.parent) == before


@pytest.mark.parametrize(
    "place",
    [
        "training", "training/stage-1", "stage-1", "stage-2", ".stage-1.partial", ".trajectory.json.partial",
        "training/optimizer-0.safetensors", "training/optimizer-1.safetensors",
        "training/.optimizer-1.safetensors.partial",
    ],
)  # fmt: skip
@pytest.mark.parametrize("there", [True, False], ids=["to a folder", "to nothing"])
def test_nothing_is_written_through_links(run, place, there):
    path = run / place
    if path.exists():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.symlink_to(run.parent / ("precious" if there else "nowhere"))
    before = tree(run.parent)
    with pytest.raises(ValueError, match="is a link, through which nothing is written or deleted"):
        make(run, **SETTINGS).train()
    assert tree(run.parent) == before


def test_checkpoints_that_are_links_are_not_continued_from(run, interrupted):
    real = run / "training" / "stage-1" / "checkpoint-1"
    shutil.move(real, run.parent / "elsewhere")
    for name in ("checkpoint-1", "checkpoint-2", "tmp-checkpoint-2"):
        (real.parent / name).symlink_to(run.parent / "elsewhere")
    before = tree(run.parent / "elsewhere")
    make(run, **SETTINGS).train()
    assert tree(run) == tree(interrupted / "whole") and tree(run.parent / "elsewhere") == before


def test_a_finished_stage_that_lies_elsewhere_is_read(run, interrupted):
    """A link to what is only read is the owner's business."""
    shutil.move(run / "stage-0", run.parent / "elsewhere")
    (run / "stage-0").symlink_to(run.parent / "elsewhere")
    make(run, **SETTINGS).train()
    assert len(Trajectory.load(run).checkpoints) == 3
    assert (run / "stage-2" / "model.safetensors").read_bytes() == tree(interrupted / "whole")[
        "stage-2/model.safetensors"
    ]


def test_given_checkpoints_are_read_but_not_continued(interrupted, tmp_path):
    whole = Trajectory.load(interrupted / "whole")
    folders = [checkpoint.folder for checkpoint in whole.checkpoints]
    Trajectory.from_checkpoints(folders, kinds=whole.parameters).save(tmp_path / "run")
    assert Trajectory.load(tmp_path / "run").read("timm_model.fc.weight").shape[0] == 3
    before = tree(tmp_path)
    with pytest.raises(TrajectoryError, match="holds another run"):
        make(tmp_path / "run", **SETTINGS).train()
    assert {**tree(tmp_path), **before} == tree(tmp_path) and tree(interrupted / "whole")


LITTER = [
    ".stage-1.partial/model.safetensors", ".stage-0.partial/.tmpAbC", "training/.tmpXyZ",
    "training/.optimizer-0.safetensors.partial", "training/.optimizer-1.safetensors.partial",
    "training/optimizer-1.safetensors", "training/optimizer-7.safetensors", ".trajectory.json.partial",
    "training/stage-0/checkpoint-3/model.safetensors", "training/stage-1/checkpoint-2/.tmpQ",
    "training/stage-1/tmp-checkpoint-2/a", "training/stage-2/checkpoint-1/model.safetensors",
    "training/stage-1/checkpoint-x/a", "training/stage-0/tmp-checkpoint-1/a",
]  # fmt: skip


def test_what_killed_processes_leave_goes(run, interrupted):
    for name in LITTER:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(b"half")
    make(run, **SETTINGS).train()
    assert tree(run) == tree(interrupted / "whole")
    for name in LITTER:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(b"half")
    make(run, **SETTINGS).train()  # which was finished
    assert tree(run) == tree(interrupted / "whole")


def test_what_is_not_ours_stays(run):
    others = ["notes.txt", "training/stage-0/runs/events.out", "training/notes.txt", "training/stage-0/checkpoints.md"]
    for name in others:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("mine")
    make(run, **SETTINGS).train()
    assert all((run / name).read_text() == "mine" for name in others)


class Full(DieAt):
    """From some step of a stage on, no file can be longer than so many bytes, as on a full disk."""

    def __init__(self, stage, size, at="on_train_begin"):
        super().__init__(stage)
        self.size = size
        setattr(self, at, self.fill)

    def fill(self, args, state, control, **_):
        if args.output_dir.endswith(f"stage-{self.stage}"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.RLIM_INFINITY))

    def on_train_end(self, args, state, control, **_):
        pass


@pytest.fixture
def limits():
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def room():
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@pytest.mark.parametrize(
    ("size", "settings"),
    [
        (4_000, {}),  # the weights of a checkpoint do not fit
        (40_000, {}),  # its optimizer does not
        (4_000, {"save_strategy": "no"}),  # the stage itself does not
        (40_000, {"save_strategy": "no"}),  # the optimizer that the next stage starts from does not
    ],
    ids=["weights", "optimizer", "stage", "carried"],
)
def test_disk_full_while_training(tmp_path, interrupted, limits, size, settings):
    settings = {**SETTINGS, **settings}
    with pytest.raises(OSError, match="Stage 1 could not be saved in .*run the same command again") as caught:
        make(tmp_path, callbacks=[Full(1, size)], **settings).train()
    room()
    assert caught.value.errno
    assert [stage.finished for stage in TrajectoryRecord.load(tmp_path).stages] == [True, False, False]
    make(tmp_path, **settings).train()
    assert tree(tmp_path) == tree(interrupted / "whole") or settings["save_strategy"] == "no"
    weights = "stage-2/model.safetensors"
    assert tree(tmp_path)[weights] == tree(interrupted / "whole")[weights]


def test_too_little_room_is_seen_before_training(tmp_path, monkeypatch):
    trainer = make(tmp_path / "run", **SETTINGS)
    size = sum(tensor.nbytes for tensor in trainer.model.state_dict().values())
    usage = shutil.disk_usage(tmp_path)._replace(free=3 * size - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match="the disk is too full: 3 checkpoints need"):
        trainer.train()
    assert not list((tmp_path / "run").glob("[!.]*"))  # but the lock


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"), True),
        (RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"), True),
        (PermissionError(13, "Permission denied", "/data/of/the/caller.png"), False),
        (FileNotFoundError(2, "No such file", "run/x"), False),
        (RuntimeError("CUDA out of memory"), False),
        (OSError(28, "No space left on device"), True),
    ],
)
def test_only_what_could_not_be_written_is_said_to_be(tmp_path, error, ours):
    saying = RunFolder(tmp_path).saying(StageRecord(1, "stage-1"))
    with pytest.raises(OSError if ours else type(error)) as caught, saying:
        raise error
    assert ("could not be saved" in str(caught.value)) == ours
