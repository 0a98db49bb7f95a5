"""What is pushed although it looks like a secret or a path at first sight: placeholders, controls, code of modules."""

import json
import time
from pathlib import Path

import pytest
from conftest import bare_model

from know_hf.hub.contents import check_files
from know_hf.hub.files import find_uploads


@pytest.fixture
def model(tmp_path) -> Path:
    return bare_model(tmp_path / "model")


def look(folder: Path) -> list[str]:
    (upload,) = find_uploads(folder)[1]
    check_files(upload)
    return upload.files


ORDINARY = (
    'client = OpenAI(base_url="http://localhost:8000/v1", api_key="token-abc123")',
    'api_key="your-api-key-123"', 'password = "changeme1234"', 'login(token="hf_' + "x" * 34 + '")',
    "export OPENAI_API_KEY=sk-proj-" + "x" * 40, "Authorization: Bearer token-abc123-token-abc123",
    "AWS_ACCESS_KEY_ID=AKIA" + "IOSFODNN7EXAMPLE",
    "python train.py --output_dir /tmp/debug_squad_9/", 'TrainingArguments(output_dir="/tmp/out_9")',
    "docker run -v /home/user/models:/models", "cd /home/<user>/x", "See /Users/username/models.",
    "/home/your-name/x", "/home/ubuntu/llama.cpp", "C:\\Users\\%USERNAME%\\models", "C:\\Users\\<you>\\models",
    "postgresql://postgres:postgres@localhost:5432/db", "mysql://user:password@127.0.0.1/x",
    "https://user:password@example.org/x", "amqp://guest:guest@rabbit:5672", "https://me:xxxxxxxx@somewhere.io",
)  # fmt: skip
STILL = (
    "/home/userina/models", "/home/melanie/x", "postgresql://postgres:" + "qV7w2kLp@localhost",
    "https://ada:" + "ada@prod.io",
    'api_key="token-' + '9fK2qLw8Zr"', 'pass' + 'word = "ab1-cd2-ef3-gh4"', "PuTTY-User-" + "Key-File-3: ssh-rsa",
    "postgresql://u:" + "changeme9Xq@localhost",
)  # fmt: skip


@pytest.mark.parametrize("text", ORDINARY)
def test_placeholders_pass(model, text):
    (model / "README.md").write_text(f"# A model\n\n```\n{text}\n```\n")
    assert "README.md" in look(model)


@pytest.mark.parametrize("text", STILL)
def test_what_only_resembles_placeholders_is_found(model, text):
    (model / "README.md").write_text(f"# A model\n\n```\n{text}\n```\nor {ORDINARY[0]}\n")
    with pytest.raises(ValueError, match="Nothing was sent"):
        look(model)


def test_many_placeholders_pass_quickly(model):
    (model / "README.md").write_text("\n".join(ORDINARY) * 300)
    began = time.process_time()
    assert "README.md" in look(model)
    assert time.process_time() - began < 8  # half a megabyte, a fraction of a second


def test_control_characters_of_vocabularies(model):
    (model / "tokenizer.json").write_text(json.dumps({"vocab": {"\x7f": 0}}, ensure_ascii=False))
    (model / "vocab.txt").write_text("the\n\x1f\n\x7f\n\x01\nof\n")
    assert {"tokenizer.json", "vocab.txt"} <= set(look(model))
    (model / "vocab.txt").write_bytes("hello\n".encode("utf-16-le"))
    with pytest.raises(ValueError, match="is not a text"):
        look(model)


def test_variables_that_hold_no_secret(model, monkeypatch):
    for name, value in (("TOKEN_CLASSIFICATION_MODEL", "bert-base-cased"), ("EOS_TOKEN", "<|endoftext|>"),
                        ("VLLM_API_KEY", "token-abc123"), ("KEY_FIELD", "some-field-1234")):  # fmt: skip
        monkeypatch.setenv(name, value)
        (model / "config.json").write_text(json.dumps({"_name_or_path": value}))
        assert look(model)
    for name in ("MY_TOKEN", "SERVICE_SECRET", "DB_PASSWORD", "x_api_key", "HF_TOKEN_2"):
        monkeypatch.setenv(name, "kW9-bert-7Qz-cased")
        (model / "config.json").write_text('{"_name_or_path": "kW9-bert-7Qz-cased"}')
        with pytest.raises(ValueError, match=f"what the environment variable {name} holds"):
            look(model)
        monkeypatch.delenv(name)


def test_code_and_settings_of_sentence_transformers(model):
    modules = [{"idx": 0, "name": "0", "path": "", "type": "custom_st.Transformer"},
               {"idx": 1, "name": "1", "path": "1_Own", "type": "1_Own.own.Own"},
               {"idx": 2, "name": "2", "path": "2_P", "type": "sentence_transformers.models.Pooling"},
               {"idx": 3, "name": "3", "path": "", "type": "me/other--else.Module"}]  # fmt: skip
    (model / "modules.json").write_text(json.dumps(modules))
    (model / "router_config.json").write_text(json.dumps({"types": {"query_0_R": "routed.R"}, "structure": {}}))
    for folder in ("1_Own", "sentence_transformers"):
        (model / folder).mkdir()
    code = {"custom_st.py", "helper_st.py", "1_Own/own.py", "routed.py"}
    for name in (*code, "sentence_transformers/models.py", "else.py", "stray.py"):
        (model / name).write_text("from .helper_st import x\n" if name == "custom_st.py" else "x = 1\n")
    (model / "sentence_xlm-roberta_config.json").write_text('{"max_seq_length": 512}')
    files = set(look(model))
    assert {name for name in files if name.endswith(".py")} == code
    assert "sentence_xlm-roberta_config.json" in files
    for broken in ("{", "[1, null]", '[{"type": 3}]', '"x"'):
        (model / "modules.json").write_text(broken)
        assert find_uploads(model)
