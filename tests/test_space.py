"""The Space: what it takes, what it refuses and in which words, what it leaves behind, and its page."""

import importlib
import os
import pickle
import stat
import sys
import time
import zipfile
from pathlib import Path

import pytest
import tomllib
import torch
from huggingface_hub import metadata_load
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

from know_hf import enrich

SPACE = Path(__file__).parents[1] / "hub_cards" / "space"


@pytest.fixture(scope="module")
def job():
    sys.path.insert(0, str(SPACE))
    try:
        yield importlib.import_module("job")
    finally:
        sys.path.remove(str(SPACE))


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where everything temporary goes, which no job may leave anything in."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def packed(path: Path, files: dict[str, bytes | Path]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in files.items():
            if isinstance(content, Path):
                made.write(content, name)
            else:
                made.writestr(name, content)
    return path


def checkpoints(trajectory, name="run/stage-{}", count=5) -> dict[str, Path]:
    folders = [trajectory.root / stage.folder for stage in trajectory.record.stages[:count]]
    return {f"{name.format(i)}/{path.name}": path for i, folder in enumerate(folders) for path in folder.iterdir()}


@pytest.fixture
def upload(trajectory, tmp_path):
    return packed(tmp_path / "upload.zip", checkpoints(trajectory) | {"run/stage-0/evil.py": b"1 / 0", "notes.md": b""})


def test_a_plan_and_a_prediction(job, trajectory, upload, temporary, tmp_path):
    words = job.plan(upload, "", True, 0.5, 2)
    assert "0. `run/stage-0` – all the data" in words and "4. `run/stage-4` – the least" in words
    assert "5 stages, 2 steps" in words and "predict (conv)" in words and str(temporary) not in words
    assert not list(temporary.iterdir())
    said, name = job.predict(upload, "", True, 0.5, 2)
    assert "| x4 | conv |" in said and "not known" in said
    assert [path.name for path in temporary.iterdir()] == [Path(name).name]  # the result alone
    with zipfile.ZipFile(name) as found:
        found.extractall(tmp_path / "got")
    expected = enrich(trajectory, tmp_path / "expected", steps=2).checkpoints
    for step, folder in expected.items():
        ours, theirs = (load_file(root / "model.safetensors") for root in (tmp_path / "got" / step, folder))
        assert all(torch.equal(ours[tensor], theirs[tensor]) for tensor in theirs) and len(ours) == len(theirs)
        AutoModelForImageClassification.from_pretrained(tmp_path / "got" / step)
        assert not list((tmp_path / "got" / step).glob("*.py"))
    job.sweep(time.time() + job.KEPT - 60)
    assert Path(name).exists()
    job.sweep(time.time() + job.KEPT + 60)
    assert not list(temporary.iterdir())


def test_checkpoints_in_the_other_order(job, trajectory, tmp_path, temporary):
    stages = list(reversed(range(5)))
    files = {f"{stages[int(n.split('/')[1])] + 8}/{n.split('/')[2]}": p
             for n, p in checkpoints(trajectory, "run/{}").items()}  # fmt: skip
    words = job.plan(packed(tmp_path / "upload.zip", files), "", False, 0.5, 1)  # 8 … 12: numbers, not letters
    assert "0. `12` – all the data" in words and "4. `8` – the least" in words


def test_uploads_that_are_refused(job, trajectory, tmp_path, temporary, monkeypatch):
    good = checkpoints(trajectory)
    pickled = pickle.dumps({})
    link = zipfile.ZipInfo("run/stage-0/link.json")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16

    def refused(files, words, **limits):
        path = files if isinstance(files, Path) else packed(tmp_path / "bad.zip", files)
        with monkeypatch.context() as changed:
            for name, value in limits.items():
                changed.setattr(job, name, value)
            for work in (job.plan, job.predict):
                with pytest.raises(job.Refused, match=words) as caught:
                    work(path, "", True, 0.5, 1)
                assert str(temporary) not in str(caught.value)
                assert not list(temporary.iterdir())

    (tmp_path / "text.zip").write_text("no zip file")
    refused(tmp_path / "text.zip", "not a zip file")
    refused({"../outside.json": b"{}"} | good, "names a place outside")
    refused({"/etc/outside.json": b"{}"} | good, "names a place outside")
    refused({"C:\\outside.json": b"{}"} | good, "names a place outside")
    refused({"a/pytorch_model.bin": pickled, "a/config.json": b"{}"}, r"holds a/pytorch_model\.bin: load that and save")
    refused({"readme.txt": b"nothing"}, "no folder with safetensors")
    refused(checkpoints(trajectory, count=1), "There are 1 checkpoints. The limits: 2 to 5")
    refused(good, "more than 7 files", MOST_FILES=7)
    refused(good, "holds too much", MOST_BYTES=30_000)
    refused(good, "million weights", MOST_WEIGHTS=100)
    refused(good, "The upload has", MOST_UPLOADED=1000)
    refused(good | {"run/stage-2/model.safetensors": b"damaged" * 9}, "damaged")
    refused(good | {"run/stage-0/config.json": b"{}"}, "transformers")
    code = b'{"model_type": "mine", "auto_map": {"AutoConfig": "evil.C", "AutoModel": "evil.M"}}'
    refused(good | {"run/stage-0/config.json": code, "run/stage-0/evil.py": b"1 / 0"}, "trust_remote_code|transformers")
    path = packed(tmp_path / "linked.zip", good)
    with zipfile.ZipFile(path, "a") as made:
        made.writestr(link, "/etc/passwd")
    refused(path, "is a link")
    bomb = packed(tmp_path / "bomb.zip", good | {"run/stage-0/zeros.json": bytes(20_000_000)})
    assert bomb.stat().st_size < 2_000_000
    refused(bomb, "holds too much", MOST_BYTES=10_000_000)
    with pytest.raises(job.Refused, match="9 steps"):
        job.predict(packed(tmp_path / "good.zip", good), "", True, 0.5, 9)


def test_names_on_the_hub(job, trajectory, hub, temporary):
    from huggingface_hub import HfApi

    api = HfApi()
    for i, stage in enumerate(trajectory.record.stages[:2]):
        api.create_repo(f"tester/stage-{i}")
        api.upload_folder(repo_id=f"tester/stage-{i}", folder_path=trajectory.root / stage.folder)
        api.upload_file(repo_id=f"tester/stage-{i}", path_in_repo="training_args.bin", path_or_fileobj=b"\x80\x04.")
    hub.requests.clear()
    words = job.plan(None, "tester/stage-0@main\n\ntester/stage-1", True, 0.5, 1)
    assert "2 stages, 1 steps" in words and not list(temporary.iterdir())
    asked = [str(request) for request in hub.requests]
    assert any("model.safetensors" in request for request in asked)
    assert not any("training_args" in request for request in asked)
    for sources, why in (
        ("tester/stage-0\ntester/none", "tester/none is not to be had as a public repository"),
        ("tester/stage-0\nhttp://example.org/x", "is no name on the Hub"),
        ("tester/stage-0\n../../etc", "is not to be had as a public|is no name"),
        ("tester/stage-0", "1 checkpoints are named"),
        ("", "Give either"),
    ):
        with pytest.raises(job.Refused, match=why):
            job.plan(None, sources, True, 0.5, 1)
    with pytest.raises(job.Refused, match="Give either"):
        job.plan("some.zip", "a/b\na/c", True, 0.5, 1)


def test_what_should_not_happen_is_said_too(job, temporary, caplog):
    with pytest.raises(job.Refused, match=r"should not \(ZeroDivisionError\)"), job.workplace() as folder:
        (folder / "a").mkdir()
        _ = 1 / 0
    assert not list(temporary.iterdir()) and "A job failed" in caplog.text


def test_its_card_and_what_it_needs(job):
    about = metadata_load(SPACE / "README.md")
    assert about["sdk"] == "gradio" and (SPACE / about["app_file"]).is_file() and about["license"] == "apache-2.0"
    assert "arxiv:2508.05059" in about["tags"] and len(about["short_description"]) <= 60
    colours = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert {about["colorFrom"], about["colorTo"]} <= colours and isinstance(about["python_version"], str)
    text = (SPACE / "README.md").read_text()
    for limit in ("60 million weights", "500 MB", "1.5 GB"):
        assert limit in text and limit.replace(" weights", "") in job.LIMITS
    needs = tomllib.loads((SPACE.parents[1] / "pyproject.toml").read_text())["project"]["dependencies"]
    assert (SPACE / "requirements.txt").read_text().split() == needs


def test_its_page(job, upload, temporary):
    gradio = pytest.importorskip("gradio", reason="the Space's page")
    app = importlib.import_module("app")
    page = app.build()
    assert isinstance(page, gradio.Blocks)
    kinds = [type(block).__name__ for block in page.blocks.values()]
    assert kinds.count("Button") == 2 and kinds.count("File") == 2 and job.LIMITS in app.ABOUT
    assert {function.fn.__name__ for function in page.fns.values()} == {"show_plan", "make_prediction"}
    assert "predict (conv)" in app.show_plan(str(upload), "", app.ORDERS[0], 0.5, 1)
    said, path = app.make_prediction(str(upload), "", app.ORDERS[0], 0.5, 1)
    assert zipfile.is_zipfile(path) and "x2" in said
    os.unlink(path)
    with pytest.raises(gradio.Error, match="Give either"):
        app.show_plan(None, "", app.ORDERS[0], 0.5, 1)
    assert not list(temporary.glob("know-hf-*"))  # beside what gradio keeps
