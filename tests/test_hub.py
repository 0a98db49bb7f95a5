"""To the Hub and back over real HTTP, with the client's own code, and what happens when the Hub fails."""

import errno
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import QUICK
from datasets import load_dataset
from hub_server import TOKEN
from huggingface_hub import ModelCard
from transformers import AutoModel, AutoModelForImageClassification

from know_hf import KnownPredictor, enrich, enrich_pretrained
from know_hf.hub.push import check_files, find_uploads, push
from know_hf.records import ENRICHMENT_FILE

HISTORY = torch.linspace(-0.1, 0.1, 5 * 40).reshape(5, 40)


@pytest.fixture(scope="module")
def made(image_run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "enriched"
    enrich(image_run.trajectory, folder, steps=2)
    return folder


@pytest.fixture
def enriched(made, tmp_path) -> Path:
    """A folder with x2 and x4."""
    return Path(shutil.copytree(made, tmp_path / "enriched"))


def arrived(hub, repo_id: str, folder: Path, revision: str = "main") -> bool:
    """Whether the weights are there, byte for byte."""
    found = hub.model(repo_id).files(revision)["model.safetensors"]
    return found == (folder / "model.safetensors").read_bytes()


def same_weights(repo_id: str, folder: Path, **where) -> bool:
    found = AutoModelForImageClassification.from_pretrained(repo_id, **where).state_dict()
    expected = AutoModelForImageClassification.from_pretrained(folder).state_dict()
    return all(torch.equal(found[name], value) for name, value in expected.items())


def test_steps_become_revisions(hub, enriched):
    url = push(enriched, "tester/digits-know", private=True)
    assert url == f"{hub.url}/tester/digits-know" and hub.model("tester/digits-know").private
    assert set(hub.model("tester/digits-know").branches) == {"main", "x2", "x4"}
    assert same_weights("tester/digits-know", enriched / "x2")
    for step in ("x2", "x4"):
        assert same_weights("tester/digits-know", enriched / step, revision=step)
    card = hub.model("tester/digits-know").files("x4")["README.md"].decode()
    assert 'from_pretrained("tester/digits-know", revision="x4")' in card and "`x2`, `x4`; `main` is `x2`" in card


def test_a_second_push_sends_no_weights_again(hub, enriched):
    push(enriched, "tester/again")
    commits = {name: len(found) for name, found in hub.model("tester/again").branches.items()}
    sent = hub.sent("PUT", "/blobs/")
    assert sent == 2
    push(enriched, "tester/again")
    assert hub.sent("PUT", "/blobs/") == sent
    assert {name: len(found) for name, found in hub.model("tester/again").branches.items()} == commits


def test_only_what_is_allowed_travels(hub, enriched):
    unwanted = (
        "training_args.bin",
        "optimizer.pt",
        "trainer_state.json",
        "run.yaml",
        "notes.txt",
        ".secret",
        "code.py",
    )
    for name in unwanted:
        (enriched / "x2" / name).write_bytes(b"something")
    (enriched / "x2" / "link.json").symlink_to("/etc/hostname")
    push(enriched / "x2", "tester/one")
    sent = set(hub.model("tester/one").files())
    assert sent == {"README.md", "config.json", ENRICHMENT_FILE, "model.safetensors"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", '{"key": "%s"}' % TOKEN, "holds this machine's token"),  # noqa: UP031
        ("config.json", '{"key": "hf_%s"}' % ("aBcDeFgHiJ" * 4)[:34], "holds a Hub token"),  # noqa: UP031
        ("README.md", f"Made in {Path.home()}/runs", "holds the home directory"),
        ("tokenizer.model", b"\x80\x04\x95pickled", "looks like a pickle"),
        ("vocab.json", b"PK\x03\x04zipped", "looks like a pickle or an archive"),
        ("model.safetensors", b"\x80\x04\x95pickled weights", "is damaged"),
    ],
)
def test_secrets_and_pickles_are_found_before_anything_is_sent(hub, enriched, name, content, message):
    (enriched / "x4" / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        push(enriched, "tester/secret")
    assert not hub.requests


def test_everything_that_a_run_leaves_can_be_pushed(image_run, trajectory, tmp_path):
    """Stages, results and predictors hold no token, home directory or pickle to begin with."""
    folders = [checkpoint.folder for checkpoint in trajectory.checkpoints]
    folders += enrich(trajectory, tmp_path / "enriched", steps=2).checkpoints.values()
    KnownPredictor.default().save_pretrained(tmp_path / "predictor")
    for folder in (*folders, tmp_path / "predictor"):
        for upload in find_uploads(Path(folder))[1]:
            check_files(upload)
            assert not upload.left_out, upload.left_out


def test_a_finished_run_holds_no_secret_path_or_pickle(image_run, tmp_path, image_model_folder, image_data_folder):
    """Nothing saved, pushed or not; only the recipe of the command line keeps the paths that it was given."""
    from know_hf.cli.main import main

    quick = ["--num_train_epochs", "1", "--learning_rate", "1e-3", "--disable_tqdm", "True", "--hub_token", TOKEN]
    main(["enrich", "--model", str(image_model_folder), "--dataset", str(image_data_folder), *quick, "--self_check",
          "--output-dir", str(tmp_path / "run")])  # fmt: skip
    saved = [p for p in (tmp_path / "run").rglob("*") if p.is_file()]
    assert len(saved) > 30
    paths = [str(Path.home()), str(tmp_path), str(image_model_folder), str(image_data_folder)]
    for path in saved:
        content = path.read_bytes()
        assert TOKEN.encode() not in content, path
        assert not content.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")), path
        assert path.suffix not in (".bin", ".pt", ".pth", ".pkl"), path
        if path.name != "run.yaml":
            assert not [secret for secret in paths if secret.encode() in content], path


def test_a_readme_of_someone_elses_stays(hub, enriched, caplog):
    push(enriched / "x2", "tester/mine")
    hub.model("tester/mine").files()["README.md"] = (
        b"---\nlicense: mit\n---\n# Written by hand, at some length, about this model"
    )
    push(enriched / "x4", "tester/mine")
    assert b"by hand" in hub.model("tester/mine").files()["README.md"]
    assert "keeps the README that it has" in caplog.text
    assert same_weights("tester/mine", enriched / "x4")
    # Not one of ours that was edited, either; an untouched one is renewed.
    push(enriched / "x2", "tester/ours")
    push(enriched / "x4", "tester/ours")
    ours = hub.model("tester/ours").files()
    assert b"KNOW x4" in ours["README.md"]
    ours["README.md"] = ours["README.md"].replace(b"## Limits", b"## My remarks\n\nMind the gap.\n\n## Limits")
    push(enriched / "x2", "tester/ours")
    assert b"Mind the gap" in hub.model("tester/ours").files()["README.md"]
    push(enriched / "x4", "tester/mine", overwrite_card=True)
    assert b"tester/mine" in hub.model("tester/mine").files()["README.md"]


def test_a_pull_request_leaves_main_alone(hub, enriched):
    push(enriched / "x2", "tester/theirs")
    before = hub.model("tester/theirs").files()["model.safetensors"]
    url = push(enriched / "x4", "tester/theirs", create_pr=True)
    assert url.endswith("/tester/theirs/discussions/1")
    assert hub.model("tester/theirs").files()["model.safetensors"] == before
    assert same_weights("tester/theirs", enriched / "x4", revision="refs/pr/1")
    with pytest.raises(ValueError, match="A pull request takes one checkpoint; push one of .*x2"):
        push(enriched, "tester/theirs", create_pr=True)


def test_old_shards_go(hub, enriched):
    push(enriched / "x2", "tester/shards")
    files = hub.model("tester/shards").files()
    files["model-00001-of-00002.safetensors"] = files["model.safetensors.index.json"] = b"old"
    push(enriched / "x4", "tester/shards")
    assert set(hub.model("tester/shards").files()) == {"README.md", "config.json", ENRICHMENT_FILE, "model.safetensors"}


def test_dry_run_and_command(hub, enriched, capsys):
    from know_hf.cli.main import main

    main(["push", str(enriched), "tester/dry", "--dry-run"])
    text = capsys.readouterr().out
    assert not hub.requests and "→ revision x4" in text and "model.safetensors" in text
    main(["push", str(enriched / "x2"), "tester/dry", "--private"])
    assert capsys.readouterr().out.strip() == f"{hub.url}/tester/dry" and hub.model("tester/dry").private
    with pytest.raises(FileNotFoundError, match="holds no enriched checkpoints, predictor or meta-data set"):
        push(enriched.parent, "tester/nothing")


def test_a_name_alone_is_one_of_the_tokens_user(hub, enriched):
    assert push(enriched / "x2", "bare", dry_run=True).startswith("To tester/bare:\n")
    assert not hub.repositories
    assert push(enriched, "bare") == f"{hub.url}/tester/bare"
    assert arrived(hub, "tester/bare", enriched / "x4", "x4")
    hub.fail("GET", "/api/whoami-v2", 401, 401)
    assert push(enriched / "x2", "bare", dry_run=True).startswith("To USER/bare:\n")
    with pytest.raises(ValueError, match="'bare' has no user, and whose token .*: name it USER/bare"):
        push(enriched, "bare")


def test_predictor_there_and_back(hub):
    predictor = KnownPredictor.default()
    expected = predictor.predict(HISTORY, "fc", 2)
    assert predictor.push_to_hub("tester/known") == f"{hub.url}/tester/known"
    files = hub.model("tester/known").files()
    assert 'KnownPredictor.from_pretrained("tester/known")' in files["README.md"].decode()
    assert 'AutoModel.from_pretrained("tester/known", trust_remote_code=True)' in files["README.md"].decode()
    assert "meta_training.json" in files and "modeling_known.py" in files
    assert torch.equal(KnownPredictor.from_pretrained("tester/known").predict(HISTORY, "fc", 2), expected)
    assert torch.equal(AutoModel.from_pretrained("tester/known").predict(HISTORY, "fc", 2), expected)


def test_own_predictor_has_a_card_that_claims_nothing(hub):
    KnownPredictor(KnownPredictor.default().config).push_to_hub("tester/own")
    assert "is not recorded here" in hub.model("tester/own").files()["README.md"].decode()


def test_from_hub_to_hub(hub, image_model_folder, image_data_folder, images, tmp_path):
    """A model from the Hub, enriched and pushed with an option of the main job; its licence goes with it."""
    base = tmp_path / "base"
    shutil.copytree(image_model_folder, base)
    (base / "README.md").write_text("---\nlicense: mit\n---\n# A base model\n")
    push(base, "tester/base")
    KnownPredictor.default().push_to_hub("tester/known")
    result = enrich_pretrained(
        "tester/base", images.select(range(64)), tmp_path / "run", steps=2, train_stage_zero=False,
        predictor="tester/known", push_to_hub=True, hub_model_id="tester/base-know", **QUICK,
    )  # fmt: skip
    assert same_weights("tester/base-know", result.checkpoints["x4"], revision="x4")
    card = ModelCard(hub.model("tester/base-know").files("x2")["README.md"].decode())
    assert card.data.license == "mit" and card.data.base_model == "tester/base"
    assert card.data.base_model_relation == "finetune"
    revision = hub.model("tester/known").commit("main")["id"]
    assert f"predictor: tester/known at {revision[:12]}" in card.text and "The licence is the base model's" in card.text


def test_code_of_the_card_runs(hub, enriched):
    push(enriched, "tester/card")
    card = hub.model("tester/card").files("x4")["README.md"].decode()
    code = card.split("```python\n")[1].split("```")[0]
    names: dict = {}
    exec(code, names)
    assert same_weights("tester/card", enriched / "x4", revision="x4") and names["model"].num_parameters() > 0


@pytest.mark.slow
def test_meta_data_set_there_and_back(hub, collected, tmp_path):
    collected.push_to_hub("tester/trials")
    names = set(hub.repositories["datasets", "tester/trials"].files())
    assert "README.md" in names and not any(name.startswith(("cache", "work", "times")) for name in names)
    for name, content in hub.repositories["datasets", "tester/trials"].files().items():
        (tmp_path / "down" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "down" / name).write_bytes(content)
    rows = load_dataset(str(tmp_path / "down"), split="train", streaming=True)
    assert next(iter(rows))["trial"] == 0


@pytest.mark.parametrize(
    ("method", "path", "answers", "error", "message"),
    [
        ("POST", "/api/repos/create", [401], PermissionError, r"does not know the token.*401.*hf auth login"),
        ("POST", "/commit/", [403], PermissionError, "may not write to tester/faults.*403"),
        ("POST", "/commit/", [404], ConnectionError, "refuses tester/faults .404.*Nothing is lost"),
        ("POST", "/commit/", [500] * 9, ConnectionError, "refuses tester/faults .500.*Nothing is lost"),
        ("POST", "/commit/", ["cut"] * 9, ConnectionError, "connection to the Hub was lost.*Nothing is lost"),
        ("POST", "/preupload/", [429] * 99, ConnectionError, "refuses tester/faults .429"),
    ],
)
def test_lasting_faults_are_explained_and_the_push_continues(hub, enriched, method, path, answers, error, message):
    hub.fail(method, path, *answers)
    with pytest.raises(error, match=message):
        push(enriched, "tester/faults")
    hub.faults.clear()
    push(enriched, "tester/faults")
    assert arrived(hub, "tester/faults", enriched / "x4", "x4")
    assert hub.sent("PUT", "/blobs/") == 2  # each file of weights once, whatever happened


@pytest.mark.parametrize("answers", [[500], [503, 500], [429], [409], [412], ["cut"], ["cut", 502]])
@pytest.mark.parametrize("path", ["/commit/", "/preupload/", "/api/repos/create", "/branch/"])
def test_passing_faults_are_not_noticed(hub, enriched, path, answers):
    if path == "/api/repos/create" and answers == [409]:
        pytest.skip("that is how the Hub says that the repository is there already")
    if path == "/branch/" and answers == [409]:
        pytest.skip("that is how the Hub says that the branch is there already")
    hub.fail("POST", path, *answers, **{"Retry-After": "0"})
    push(enriched, "tester/passing")
    assert arrived(hub, "tester/passing", enriched / "x4", "x4")
    assert not any(fault.answers for fault in hub.faults), "the fault was not met"


@pytest.mark.parametrize("answer", [500, "cut"])
def test_an_upload_that_is_cut_off_is_taken_up_again(hub, enriched, answer):
    hub.fail("PUT", "/blobs/", answer)
    push(enriched, "tester/cut")
    assert arrived(hub, "tester/cut", enriched / "x2")


def test_waiting_as_long_as_the_hub_asks(hub, enriched, monkeypatch):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    hub.fail("POST", "/api/repos/create", 429, **{"Retry-After": "7"})
    push(enriched / "x2", "tester/patient")
    assert pauses == [7.0]


def test_without_a_token(hub, enriched, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/nonexistent")
    with pytest.raises(PermissionError, match="Cannot push|does not know the token"):
        push(enriched, "tester/anonymous")


def test_a_refused_repository_is_seen_before_training(hub, image_model_folder, images, tmp_path):
    hub.fail("POST", "/api/repos/create", 403)
    with pytest.raises(PermissionError, match="may not write to tester/no"):
        enrich_pretrained(str(image_model_folder), images, tmp_path / "run", push_to_hub="tester/no", **QUICK)
    assert not (tmp_path / "run" / "stage-0").exists()


def test_full_disk_while_downloading(hub, trajectory, tmp_path, monkeypatch):
    from huggingface_hub import file_download

    KnownPredictor.default().push_to_hub("tester/known")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(file_download, "http_get", full)
    with pytest.raises(OSError, match="No space left|tester/known"):
        enrich(trajectory, tmp_path / "out", predictor="tester/known")
    assert not (tmp_path / "out").exists()


def test_predictor_runs_without_know_hf(shared, tmp_path):
    """In a process that cannot import the package: with the code beside the weights, and the golden values."""
    from know_hf.retrodiction.conversion import convert_keras

    convert_keras(shared / "reference" / "known_keras").save_pretrained(tmp_path / "known")
    script = (
        "import sys; sys.modules['know_hf'] = None\n"
        "import numpy as np, torch\nfrom transformers import AutoModel\n"
        "model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "assert type(model).__module__.startswith('transformers_modules.'), type(model)\n"
        "golden = np.load(sys.argv[2])\n"
        "for kind in ('conv', 'fc', 'bias'):\n"
        "    found = model.predict(torch.from_numpy(golden['history_oldest_first']).T, kind, steps=3).T.numpy()\n"
        "    print(np.abs(found - golden[f'three_steps_{kind}']).max())\n"
    )
    golden = shared / "reference" / "known_parity.npz"
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "known", golden], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert all(float(line) <= 2e-6 for line in done.stdout.split()) and len(done.stdout.split()) == 3


def test_code_beside_the_weights_needs_permission(tmp_path):
    KnownPredictor.default().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"]
    script = (
        "import sys; sys.modules['know_hf'] = None; import transformers as t; t.AutoModel.from_pretrained(sys.argv[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode and "trust_remote_code" in done.stderr


def test_push_from_the_command_line_explains_itself(hub, enriched, capsys):
    from know_hf.cli.main import main

    hub.fail("POST", "/api/repos/create", 401)
    with pytest.raises(SystemExit):
        main(["push", str(enriched), "tester/cli"])
    shown = capsys.readouterr()
    assert "know-hf: error: The Hub does not know the token" in shown.err
    assert TOKEN not in shown.err + shown.out
