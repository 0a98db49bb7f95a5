"""The how-tos about checkpoints and extensions: every block of code in them runs as it is written."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Array4D, ClassLabel, Dataset, Features
from test_callback import trainer_of
from test_given import CONFIG, drifting
from transformers import BertForSequenceClassification, VideoMAEConfig, VideoMAEForVideoClassification

from know_hf.checkpoints import Checkpoint
from know_hf.cli.main import main
from know_hf.fitting.coefficients import Coefficients
from know_hf.forgetting.controls import CONTROLS
from know_hf.retrodiction import METHODS, retrodict
from know_hf.store import hash_file
from know_hf.tasks import TASKS, find_columns, get_task

DOCS = Path(__file__).parents[1] / "docs" / "how-to"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.S)


@pytest.fixture
def names():
    """What the page declares is taken back."""
    kept = [(table, dict(table)) for table in (METHODS, TASKS, CONTROLS)]
    yield
    for table, before in kept:
        table.clear()
        table.update(before)


def test_extensions_as_they_are_written(names):
    method, task, control = blocks("extending.md", "python")
    exec(compile(method, "method.py", "exec"), {"__name__": "mine"})
    assert retrodict(torch.tensor([1.0, 0.5, 0.25]), "fc", 2, "overshoot", share=1.0).tolist() == [1.5, 2.0]

    exec(compile(task, "task.py", "exec"), {"__name__": "mine"})
    features = Features(clip=Array4D((2, 3, 8, 8), "float32"), label=ClassLabel(names=["calm", "wild"]))
    data = Dataset.from_dict({"clip": torch.rand(4, 2, 3, 8, 8).tolist(), "label": [0, 1, 0, 1]}, features=features)
    columns = find_columns(data)
    assert columns.task == "video-classification" and get_task(columns.task).settings == ["brightness"]
    model = VideoMAEForVideoClassification(VideoMAEConfig(
        image_size=8, patch_size=4, num_frames=2, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, num_labels=2,
    ))  # fmt: skip
    made = get_task(columns.task).preprocessing(model, None, columns, None, brightness=2.0)
    batch = made.collator([made.apply(data)[i] for i in range(4)])
    assert model(**batch).loss.isfinite() and batch["pixel_values"].max() > 1

    found: dict = {"__name__": "mine"}
    exec(compile(control, "control.py", "exec"), found)
    declared, share = found["find_control"]("overshoot 0.25")
    assert not declared.trained and declared.result.parameters(share) == {"share": 0.25}


def test_checkpoints_as_they_are_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = drifting(tmp_path, BertForSequenceClassification(CONFIG), stages=5)
    for folder, name in zip(folders, ("full", "half", "quarter", "eighth", "sixteenth"), strict=True):
        folder.rename(name)
    stages = [shutil.copytree(name, Path("run") / f"stage-{i}") for i, name in enumerate(("full", "half", "quarter"))]
    fitted = {"classifier.weight": [0.1, 0.2, 0.0]}
    Coefficients(fitted, {"stages": [[hash_file(f) for f in Checkpoint(own).files] for own in stages]}).save(
        Path("run/choice/fitted.json")
    )
    (recipe,) = blocks("checkpoints.md", "yaml")
    Path(recipe.splitlines()[0].removeprefix("# ")).write_text(recipe)
    for block in blocks("checkpoints.md", "bash"):
        program, *arguments = shlex.split(block)
        assert program == "know-hf"
        main(arguments)
    for made in ("predicted/x8", "fitted-line", "merged/mean/x2", "merged/extra_merge/x2", "again/x2"):
        assert Path(made).is_dir(), made
    given, recorded = blocks("checkpoints.md", "python")
    exec(given, {})
    assert Path("out/x2/README.md").is_file()
    exec(recorded, {"trainer": trainer_of(tmp_path / "training")})
    assert Path("runs/course/enriched-mean/x2").is_dir() and Path("runs/course/ema").is_dir()


def test_pages_are_linked_and_their_links_lead_somewhere():
    readme = (DOCS.parents[1] / "README.md").read_text(encoding="utf-8")
    for page in ("checkpoints.md", "extending.md"):
        assert f"docs/how-to/{page}" in readme
        for target in re.findall(r"\]\(([^)#]+)", (DOCS / page).read_text(encoding="utf-8")):
            assert (DOCS / target).resolve().exists(), target
