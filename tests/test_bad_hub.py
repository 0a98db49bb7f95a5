"""A Hub that refuses, dawdles or talks nonsense: bounded waits, words, and the same push continues."""

import re
import time
from pathlib import Path

import pytest
from conftest import bare_model, slow
from hub_server import TOKEN

from know_hf import KnownPredictor
from know_hf import remote as client
from know_hf.hub.push import ensure_repository, push
from know_hf.remote import bounded, persistently, public, tame

LIMIT = 0.3


@pytest.fixture
def model(tmp_path) -> Path:
    return bare_model(tmp_path / "model", 200_000)


@pytest.fixture
def impatient(monkeypatch):
    """Limits of fractions of a second."""
    monkeypatch.setattr(client, "ANSWER", LIMIT)
    monkeypatch.setattr(client, "PATIENCE", 2 * LIMIT)


def arrived(hub, folder: Path) -> bool:
    files = hub.model("tester/bad").files()
    return all(files[name] == (folder / name).read_bytes() for name in ("model.safetensors", "config.json"))


LARGE_FILES = [("POST", "/objects/batch"), ("PUT", "/blobs/"), ("POST", "/verify/")]
IN_PARTS = [("PUT", "/parts/"), ("POST", "/complete/")]


@pytest.mark.parametrize("answer", [401, 503, "cut", *slow(400, 403, 404, 413, 429, 500, "nonsense")])
@pytest.mark.parametrize(("method", "path"), [*LARGE_FILES, *IN_PARTS])
def test_lasting_faults_of_large_files(hub, model, method, path, answer):
    if answer == "nonsense" and path in ("/blobs/", "/verify/", "/complete/"):
        pytest.skip("whose answers nobody reads")
    hub.verifies, hub.part_size = True, 300_000 if (method, path) in IN_PARTS else 0
    hub.fail(method, path, *[answer] * 200)
    with pytest.raises(OSError) as caught:
        push(model, "tester/bad")
    said = str(caught.value)
    assert "tester/bad" in said and "\n" not in said and "secret" not in said and TOKEN not in said
    assert isinstance(caught.value, ConnectionError | PermissionError)
    hub.faults.clear()
    push(model, "tester/bad")
    assert arrived(hub, model)


def test_it_ends_in_one_line_with_code_2(hub, model, capsys):
    from know_hf.cli.main import main

    for answer in (403, 503, "cut"):
        hub.fail("PUT", "/blobs/", *[answer] * 200)
        with pytest.raises(SystemExit) as ended:
            main(["push", str(model), "tester/bad"])
        said = capsys.readouterr().err
        assert ended.value.code == 2 and "Traceback" not in said and "X-Signature" not in said
        assert len([line for line in said.splitlines() if line.startswith("know-hf: error:")]) == 1


@pytest.mark.parametrize("how", ["silent", "drip", "drip body", "deaf"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/repos/create"),
        ("POST", "/commit/"),
        ("PUT", "/blobs/"),
        pytest.param("POST", "/preupload/", marks=pytest.mark.slow),
        pytest.param(*LARGE_FILES[0], marks=pytest.mark.slow),
        pytest.param("HEAD", "README", marks=pytest.mark.slow),
    ],
)
@pytest.mark.further_slow
def test_a_hub_that_dawdles(hub, model, impatient, method, path, how):
    if how == "drip body" and method == "HEAD":
        pytest.skip("has no body")
    hub.fail(method, path, *[how] * 200)
    began = time.monotonic()
    with pytest.raises(ConnectionError, match="tester/bad|Nothing is lost"):
        push(model, "tester/bad")
    assert time.monotonic() - began < 20 * LIMIT
    hub.faults.clear()
    push(model, "tester/bad")
    assert arrived(hub, model)


def test_a_hub_that_dawdles_once_is_asked_again(hub, model, monkeypatch):
    monkeypatch.setattr(client, "ANSWER", LIMIT)
    for how in ("silent", "drip", "drip body"):
        hub.fail("POST", "/commit/", how)
    hub.fail("PUT", "/blobs/", "silent", "drip")
    push(model, "tester/bad")
    assert arrived(hub, model) and not any(fault.answers for fault in hub.faults)


ABSURD = ["100000000", "-5", "nan", "inf", "soon", "9" * 5000, "1e400", "", "Wed, 21 Oct 2065 07:28:00 GMT",
          "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 99 Oct 2065 99:28:00 GMT"]  # fmt: skip


@pytest.mark.parametrize("asked", ABSURD)
def test_absurd_advice_to_wait_is_not_taken(hub, model, monkeypatch, asked):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    hub.fail("POST", "/api/repos/create", 429, **{"Retry-After": asked})
    hub.fail("POST", "/objects/batch", 429, 503, **{"Retry-After": asked})
    hub.fail("POST", "/commit/", 429, 503, **{"Retry-After": asked, "ratelimit": '"api";r=0;t=99999999'})
    push(model, "tester/bad")
    assert arrived(hub, model) and len(pauses) >= 4 and all(0 <= pause <= client.LONGEST_WAIT + 1 for pause in pauses)


@pytest.mark.parametrize("asked", ABSURD)
def test_headers_are_tamed(asked):
    headers = {"Retry-After": asked, "ratelimit": '"api";r=0;t=' + "9" * 5000}
    tame(headers)
    assert 0 <= int(headers.get("Retry-After", "0")) <= client.LONGEST_WAIT and "ratelimit" not in headers
    kept = {"Retry-After": "7", "ratelimit": '"api";r=0;t=55'}
    tame(kept)
    assert kept == {"Retry-After": "7", "ratelimit": '"api";r=0;t=55'}


def test_slow_but_steady_is_fine(hub, model, monkeypatch):
    """What is bounded is the time without progress, not that of a large file."""
    monkeypatch.setattr(client, "ANSWER", LIMIT)

    class Slow:
        def __iter__(self):
            for _ in range(8):
                time.sleep(LIMIT / 4)
                threading_wait(LIMIT / 4)
                yield b"x" * 2000

        def close(self):
            pass

    assert sum(map(len, client._Counted(Slow()))) == 16_000


def threading_wait(seconds: float) -> None:
    import threading

    threading.Event().wait(seconds)


@pytest.mark.parametrize("answer", ["silent", "drip", "nonsense", 403, 503, "cut"])
def test_looking_for_a_repository_is_bounded(hub, impatient, answer):
    hub.fail("POST", "/api/repos/create", *[answer] * 99)
    began = time.monotonic()
    with pytest.raises(OSError, match="tester/bad"):
        ensure_repository("tester/bad")
    assert time.monotonic() - began < 20 * LIMIT


@pytest.mark.parametrize("name", ["a/b/c", "../x", "me/", "me/x y", "me/x\n", "", "https://u:p@example.org/x", "-x/y"])
def test_names_that_no_repository_has(hub, model, name):
    with pytest.raises(ValueError, match="(?i)repo"):
        push(model, name)
    with pytest.raises(ValueError, match="(?i)repo"):
        ensure_repository(name)
    assert not hub.requests


@pytest.mark.parametrize("answer", ["silent", "drip", "drip body", 401, 403, 429, 500, "cut", "nonsense"])
@pytest.mark.further_slow
def test_what_cannot_be_downloaded_is_said(hub, impatient, answer):
    from know_hf.laboratory.arms import resolve_arm
    from know_hf.models.loading import load_model
    from know_hf.plan import make_plan
    from know_hf.retrodiction.predictors import load_predictor
    from know_hf.training.checks import check_model, check_splits
    from know_hf.training.data import load_split

    for method in ("GET", "HEAD", "POST"):
        hub.fail(method, ".", *[answer] * 999)
    jobs = (
        lambda: load_model("tester/m", "image-classification", ["a"]), lambda: check_model("tester/m"),
        lambda: check_splits("tester/d", "train"), lambda: load_split("tester/d"),
        lambda: load_predictor("tester/k", 5), lambda: resolve_arm("tester/a", "mine"), lambda: make_plan("tester/p"),
        lambda: KnownPredictor.from_pretrained("tester/k"),
    )  # fmt: skip
    for job in jobs:
        began = time.monotonic()
        with pytest.raises((OSError, ValueError)) as caught, bounded():
            job()
        assert time.monotonic() - began < 30 * LIMIT
        assert re.search("tester/[mdkap]", str(caught.value)) or job is jobs[-1]


def test_the_callers_own_client_is_kept(hub, model):
    from huggingface_hub import get_session, set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    made = []

    def own():
        made.append(default_client_factory())
        return made[-1]

    set_client_factory(own)
    try:
        push(model, "tester/bad")
        assert made and get_session() is made[-1] and "send" not in vars(get_session())
    finally:
        set_client_factory(default_client_factory)


def test_messages_hold_no_secrets():
    for text in ("403 for url: https://me:pass@s3.example.org/x?X-Amz-Signature=secret&y=pass (id)", "a\nsecret"):
        assert "secret" not in public(text) and "pass" not in public(text)

    def broken():
        raise KeyError("missing")

    with pytest.raises(ConnectionError, match="cannot be read"):
        persistently(broken)


def test_no_token_is_written(hub, model, tmp_path, capsys):
    """Neither into records and recipes of a run nor into messages, whatever the settings and addresses say."""
    from know_hf.cli.main import main
    from know_hf.cli.surroundings import save_recipe

    secrets = ("s3cret-word", "hf_" + "q" * 34)
    address = f"https://me:{secrets[0]}@example.org"
    settings = {
        "hub_token": secrets[1], "push_to_hub_token": secrets[1], "dataset": f"{address}/d.csv?token={secrets[1]}",
        "model": f"{address}/m", "arms": {"a": address}, "report_to": ["none"], "max_token_length": 3,
        "accelerator_config": {"api_key": secrets[1], "wandb_token": secrets[1]},
    }  # fmt: skip
    save_recipe(settings, str(tmp_path))
    written = (tmp_path / "run.yaml").read_text()
    assert not any(secret in written for secret in secrets)
    assert "example.org/d.csv" in written and "max_token_length" in written
    enriches = ["enrich", "--model", f"{address}/m", "--dataset", f"{address}/d", "--output-dir", str(tmp_path / "x")]
    for command in (["plan", f"{address}/m"], ["predict", f"{address}/m"], enriches, ["push", str(model), address]):
        with pytest.raises(SystemExit):
            main(command)
        said = capsys.readouterr()
        assert secrets[0] not in said.out + said.err and "know-hf: error" in said.err
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and secrets[0].encode() in path.read_bytes()]
