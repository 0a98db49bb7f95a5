"""What of a folder goes into its enriched copies and onto the Hub: everything that loading needs, nothing else."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertConfig, BertModel

from know_hf import Trajectory, TrajectoryError, enrich
from know_hf.enrichment.companions import companions
from know_hf.hub.push import check_files, find_uploads, push
from know_hf.trajectory import Checkpoint


def files(folder) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
    {"idx": 3, "name": "3", "path": "3_Router", "type": "sentence_transformers.models.Router"},
]
NEEDED = {
    "config.json", "model.safetensors", "modules.json", "config_sentence_transformers.json", "1_Pooling/config.json",
    "2_Dense/config.json", "2_Dense/model.safetensors", "3_Router/router_config.json",
    "3_Router/query_0_Static/model.safetensors", "3_Router/query_0_Static/tokenizer.json",
    "qformer_tokenizer/tokenizer.json", "qformer_tokenizer/special_tokens_map.json",
}  # fmt: skip


@pytest.fixture
def stages(tmp_path, text_model_folder) -> list:
    """Three stages of a sentence encoder: a small BERT with modules and further tokenizers in sub-folders."""
    torch.manual_seed(0)
    model = BertModel(BertConfig(vocab_size=10, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                 intermediate_size=32))  # fmt: skip
    made = []
    for stage in range(3):
        made.append(folder := tmp_path / f"stage{stage}")
        model.save_pretrained(folder)
        (folder / "modules.json").write_text(json.dumps(MODULES))
        for name in NEEDED - files(folder):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if name.endswith(".safetensors"):
                save_file({"linear.weight": torch.randn(8, 16)}, folder / name, metadata={"format": "pt"})
            else:
                (folder / name).write_text("{}")
        AutoTokenizer.from_pretrained(text_model_folder).save_pretrained(folder)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.01)
    return made


def enriched(stages, tmp_path, **options):
    trajectory = Trajectory.from_checkpoints(stages, kinds={"pooler.dense.weight": "fc"})
    return enrich(trajectory, tmp_path / "out", steps=1, **options).checkpoints["x2"]


def test_sub_folders_travel_bit_for_bit(stages, tmp_path, hub):
    folder = enriched(stages, tmp_path)
    assert files(folder) == files(stages[0]) | {"README.md", "enrichment.json"}
    for name in files(stages[0]) - {"model.safetensors"}:
        assert (folder / name).read_bytes() == (stages[0] / name).read_bytes(), name
    assert not torch.equal(*(load_file(f / "model.safetensors")["pooler.dense.weight"] for f in (folder, stages[0])))
    push(folder, "tester/sentences")
    assert files(folder) == set(hub.model("tester/sentences").files())
    assert (
        hub.model("tester/sentences").files()["2_Dense/model.safetensors"]
        == (folder / "2_Dense" / "model.safetensors").read_bytes()
    )
    assert AutoTokenizer.from_pretrained(folder)("a good film").input_ids


def test_plain_folders_push_what_their_modules_need(stages):
    (stages[0] / "checkpoint-5" / "2_Dense").mkdir(parents=True)
    for name in ("other/model.safetensors", "other/notes.txt", "other/tokenizer.json", "checkpoint-5/config.json"):
        (stages[0] / name).parent.mkdir(exist_ok=True)
        (stages[0] / name).write_bytes(b"{}")
    upload = find_uploads(stages[0])[1][0]
    assert NEEDED <= set(upload.files) and "other/tokenizer.json" in upload.files
    assert {"other/model.safetensors", "other/notes.txt", "checkpoint-5/config.json"} <= set(upload.left_out)
    check_files(upload)
    (stages[0] / "2_Dense" / "model.safetensors").write_bytes(b"\x80\x04pickled")
    with pytest.raises(TrajectoryError, match="2_Dense/model.safetensors is damaged"):
        check_files(upload)


def test_weights_that_stay_behind_are_named(stages, tmp_path, caplog):
    source = stages[0]
    left = ["pytorch_model.bin", "tf_model.h5", "weights.npz", "other.safetensors", "onnx/model.onnx",
            "2_Dense/pytorch_model.bin", "model.safetensors.index.json"]  # fmt: skip
    silent = ["training_args.bin", "optimizer.pt", "rng_state_0.pth", "checkpoint-5/model.safetensors", ".hidden",
              "trajectory.json", "README.md"]  # fmt: skip
    kept = ["2_Dense/README.md", "2_Dense/table.npz"]
    for name in (*left, *silent, *kept):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(b"x")
    (tmp_path / "secret.safetensors").write_bytes(b"secret")
    (source / "2_Dense" / "linked.safetensors").symlink_to(tmp_path / "secret.safetensors")
    with caplog.at_level(logging.WARNING, "know_hf"):
        folder = enriched(stages, tmp_path, method="naive")
    assert files(folder) == (NEEDED | set(kept) | files(stages[1]) | {"README.md", "enrichment.json"})
    (said,) = [record.getMessage() for record in caplog.records if "stay behind" in record.getMessage()]
    assert all(name in said for name in (*left, "2_Dense/linked.safetensors"))
    assert not any(name in said for name in silent)
    assert "Save 2_Dense/pytorch_model.bin as safetensors if loading needs it" in said


def test_weights_that_lead_out_of_their_folder_are_refused(stages, tmp_path):
    (stages[0] / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    (stages[0] / "model.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(TrajectoryError, match="is a link that leads out of its folder"):
        enriched(stages, tmp_path)
    assert not (tmp_path / "out").exists()


def test_room_is_counted_with_what_travels(stages, tmp_path, monkeypatch):
    size = companions(Checkpoint(stages[0])).nbytes
    assert size == sum((stages[0] / name).stat().st_size for name in files(stages[0]))
    usage = shutil.disk_usage(tmp_path)._replace(free=size - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match="the disk is too full"):
        enriched(stages, tmp_path)


def test_a_single_file_counts_more_than_an_index(stages, tmp_path):
    """As from_pretrained has it; the index is of other files and stays behind."""
    (stages[0] / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "gone.safetensors"}}))
    folder = enriched(stages, tmp_path)
    assert "model.safetensors.index.json" not in files(folder) and BertModel.from_pretrained(folder)


def test_folders_that_are_links(stages, tmp_path, caplog):
    """What lies in the folder travels under each of its names; what does not is named, as are links to nothing."""
    (stages[0] / "4_Dense").symlink_to("2_Dense")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "config.json").write_text("{}")
    (stages[0] / "5_Dense").symlink_to(tmp_path / "elsewhere")
    (stages[0] / "2_Dense" / "up").symlink_to("..")
    (stages[0] / "3_Router" / "dense").symlink_to("../2_Dense")
    (stages[0] / "2_Dense" / "router").symlink_to("../3_Router")
    (stages[0] / "nothing.json").symlink_to("nowhere")
    folder = enriched(stages, tmp_path)
    assert (folder / "4_Dense/model.safetensors").read_bytes() == (stages[0] / "2_Dense/model.safetensors").read_bytes()
    assert "5_Dense/config.json" not in files(folder) and NEEDED < files(folder)
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    assert "5_Dense" in caplog.text and "nothing.json" in caplog.text and "2_Dense/up" in caplog.text


def test_an_adapter_beside_the_whole_model_stays_behind(stages, tmp_path, caplog):
    (stages[0] / "adapter_config.json").write_text("{}")
    save_file({"lora": torch.zeros(2)}, stages[0] / "adapter_model.safetensors", metadata={"format": "pt"})
    folder = enriched(stages, tmp_path)
    assert not any(name.startswith("adapter_") for name in files(folder)) and BertModel.from_pretrained(folder)
    assert "adapter_config.json, adapter_model.safetensors stay behind" in caplog.text


def test_other_weights_of_a_module_are_another_result(stages, tmp_path):
    folder = enriched(stages, tmp_path)
    assert enriched(stages, tmp_path) == folder
    save_file({"linear.weight": torch.ones(8, 16)}, stages[0] / "2_Dense" / "model.safetensors")
    with pytest.raises(FileExistsError, match="holds another result \\(different modules\\)"):
        enriched(stages, tmp_path)


def test_shards_in_sub_folders_are_said(stages):
    for shard, message in (("2_Dense/model.safetensors", r"lists shards in sub-folders \(2_Dense/model.safetensors\)"),
                           ("../x.safetensors", "points outside its folder")):  # fmt: skip
        (stages[0] / "model.safetensors").unlink(missing_ok=True)
        index = {"weight_map": {"linear.weight": shard}}
        (stages[0] / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(TrajectoryError, match=message):
            Checkpoint(stages[0]).tensors  # noqa: B018


def test_tokenizers_of_all_forms_are_pushed(stages):
    names = {"source.spm", "target.spm", "dict.txt", "bpe.codes", "normalizer.json", "emoji.json", "entity_vocab.json",
             "vocab-src.json", "qwen.tiktoken", "prophetnet.tokenizer", "byte_maps.json"}  # fmt: skip
    for name in names:
        content = {".json": b"{}", ".spm": b"\x0a\x03\x0a\x01x", ".tiktoken": b"eA== 0\n"}.get(Path(name).suffix, b"x")
        (stages[0] / name).write_bytes(content)
        (stages[0] / "qformer_tokenizer" / name).write_bytes(content)
    upload = find_uploads(stages[0])[1][0]
    assert names | {f"qformer_tokenizer/{name}" for name in names} <= set(upload.files)
    check_files(upload)
