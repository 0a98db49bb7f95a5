"""Checkpoints that one already has, from the command line: folders, the Hub, a recipe, and words for what is wrong."""

import json
import shutil

import pytest
import torch
import yaml
from hub_server import Repository
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from test_cli import fails
from test_given import CONFIG, changed, drifting
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
)

from know_hf import Trajectory, TrajectoryError, enrich
from know_hf.cli.main import main
from know_hf.records import ENRICHMENT_FILE
from know_hf.retrodiction import retrodict
from know_hf.retrodiction.predict import evened

WEIGHT = "bert.encoder.layer.0.output.dense.weight"


@pytest.fixture
def five(tmp_path) -> list:
    return drifting(tmp_path, BertForSequenceClassification(CONFIG), stages=5)


def run(*arguments) -> None:
    main([str(a) for a in ("predict", *arguments)])


def stages_of(folders, name: str = WEIGHT) -> torch.Tensor:
    return torch.stack([load_file(folder / "model.safetensors")[name] for folder in folders])


def test_folders_become_a_model_with_a_card(five, tmp_path, capsys):
    out = tmp_path / "out"
    (five[0] / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    run(*five, "--sampling-ratio", 0.5, "--steps", 2, "--output-dir", out)
    assert f"x4: {out / 'x4'}" in capsys.readouterr().out
    made = AutoModelForSequenceClassification.from_pretrained(out / "x2").state_dict()
    expected = retrodict(stages_of(five), "fc")[0]
    assert torch.allclose(made[WEIGHT], expected, atol=1e-6) and not torch.equal(made[WEIGHT], stages_of(five)[0])
    embedding = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(made[embedding], stages_of(five, embedding)[0])
    card = (out / "x2" / "README.md").read_text()
    assert "## What it was made of" in card and all(f"| {i} | given{i} |" in card for i in range(5))
    assert "pipeline_tag: text-classification" in card and "license: mit" in card
    assert str(tmp_path) not in card and "put together by know-hf's method `known` from 5 checkpoints" in card
    recipe = out / "run.yaml"
    run(recipe, "--output-dir", tmp_path / "again")  # the recipe that it leaves makes the same
    for step in ("x2", "x4"):
        same = [(folder / step / "model.safetensors").read_bytes() for folder in (out, tmp_path / "again")]
        assert same[0] == same[1]


def test_every_method_in_one_pass(five, tmp_path):
    run(*five, "--method", "all", "--steps", 1, "--output-dir", tmp_path / "out")
    stages = stages_of(five)
    for method in ("mean", "linear_fit", "naive"):
        made = load_file(tmp_path / "out" / method / "x2" / "model.safetensors")[WEIGHT]
        own = {"first": 5} if method == "mean" else {}
        assert torch.allclose(made, retrodict(stages, "fc", 1, method, **own)[0], atol=1e-6)


def test_a_recipe_of_a_user(five, tmp_path):
    recipe = tmp_path / "merge.yaml"
    settings = {"checkpoints": [str(folder) for folder in five[:3]], "sampling_ratio": 0.25, "method": "linear_fit",
                "steps": 1, "output_dir": str(tmp_path / "out")}  # fmt: skip
    recipe.write_text(yaml.safe_dump(settings))
    run(recipe, "--method", "mean")  # flags win
    assert json.loads((tmp_path / "out" / "x4" / ENRICHMENT_FILE).read_text())["method"] == "mean"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"checkpoint": ["a"]}, "unknown setting 'checkpoint'; did you mean checkpoints"),
        ({"method": "mean"}, "names no checkpoints"),
        ({"checkpoints": ["a", "b"]}, "missing --output-dir"),
        ({"checkpoints": ["a", "b"], "steps": 0, "output_dir": "o"}, "steps is 0"),
        ([1], "must hold name: value pairs"),
    ],
)
def test_recipes_that_are_none(capsys, tmp_path, content, message):
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(content))
    assert message in fails(capsys, "predict", tmp_path / "r.yaml")


def test_sharded_beside_single_files(five, tmp_path):
    model = BertForSequenceClassification.from_pretrained(five[1])
    shutil.rmtree(five[1])
    model.save_pretrained(five[1], max_shard_size="10KB")
    assert (five[1] / "model.safetensors.index.json").exists()
    run(*five, "--method", "mean", "--steps", 1, "--output-dir", tmp_path / "out")
    others = stages_of([five[0], *five[2:]])
    expected = (others.sum(0) + model.state_dict()[WEIGHT]) / 5
    assert torch.allclose(load_file(tmp_path / "out/x2/model.safetensors")[WEIGHT], expected, atol=1e-6)


def half(folder) -> None:
    changed(folder, lambda t: t.update({name: value.half() for name, value in t.items() if value.is_floating_point()}))


def pickled(folder) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def another(folder) -> None:
    shutil.rmtree(folder)
    GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=20)).save_pretrained(folder)


def adapter(folder) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    save_file({"base_model.model.w": torch.ones(2)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "some/bert"}')


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: changed(f, lambda t: t.update({WEIGHT: torch.zeros(8, 32)})), "is F32 [16, 32] in"),
        (lambda f: changed(f, lambda t: t.pop(WEIGHT)), f"hold different tensors: 1 only in the latter, 0 .*{WEIGHT}"),
        (half, "dtype=…"),
        (pickled, "holds no safetensors weights: it has pytorch_model.bin; load it with from_pretrained"),
        (another, "different models: model_type is 'bert' in the former, 'gpt2' in the latter"),
        (adapter, "is a PEFT adapter, .* a whole model: merge the adapter"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 100), "is damaged or truncated"),
        (lambda f: (f / "config.json").write_text("{"), "config.json"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_before_anything_is_written(capsys, five, tmp_path, harm, message):
    import re

    harm(five[2])
    said = fails(capsys, "predict", *five, "--output-dir", tmp_path / "out")
    pattern = message if ".*" in message else re.escape(message)
    assert re.search(pattern, said) and "given2" in said
    assert not (tmp_path / "out").exists()


def test_calls_that_name_too_little(capsys, five, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = ["--output-dir", tmp_path / "out"]
    assert "is one checkpoint; a prediction needs at least two" in fails(capsys, "predict", five[0], *out)
    assert "missing --output-dir" in fails(capsys, "predict", *five)
    assert "given1 is given twice, as stage 1 and as stage 2" in fails(capsys, "predict", *five[:2], five[1], *out)
    assert "lies in, an input" in fails(capsys, "predict", *five, "--output-dir", five[1])
    assert "lies in, an input" in fails(capsys, "predict", *five, "--output-dir", five[1] / "inner")
    assert "strictly between 0 and 1" in fails(capsys, "predict", *five, "--sampling-ratio", 2, *out)
    assert "3 numbers, and there are 5" in fails(capsys, "predict", *five, *out, "--examples", 9, 8, 7)
    assert "8 does not fit after 7" in fails(capsys, "predict", *five, *out, "--examples", 9, 7, 8, 6, 5)
    both = ["--examples", 9, 8, 7, 6, 5, "--sampling-ratio", 0.5]
    assert "either sampling_ratio or examples" in fails(capsys, "predict", *five, *both, *out)
    assert "fitted needs coefficients" in fails(capsys, "predict", *five, "--method", "fitted", *out)
    assert not (tmp_path / "out").exists()
    assert not [path for folder in five for path in folder.iterdir() if path.is_dir()]


def test_a_ratio_is_of_checkpoints(capsys, trajectory):
    assert "the record of" in fails(capsys, "predict", trajectory.root, "--sampling-ratio", 0.5)


def test_tied_weights_are_stored_once_or_refused_in_words(capsys, tmp_path):
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=20))
    folders = drifting(tmp_path, model, stages=5)
    run(*folders, "--embeddings", "fc", "--steps", 1, "--output-dir", tmp_path / "out")
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "x2")
    assert made.lm_head.weight.data_ptr() == made.transformer.wte.weight.data_ptr()
    assert not torch.equal(made.lm_head.weight, model.lm_head.weight)
    changed(folders[1], lambda t: t.update({"lm_head.weight": t["transformer.wte.weight"].clone()}))
    said = fails(capsys, "predict", *folders, "--output-dir", tmp_path / "more")
    assert "'lm_head.weight'" in said and "tied" in said


def on_the_hub(hub, name: str, folders) -> None:
    """One repository with a branch for each folder, the first on main."""
    branches = {}
    for i, folder in enumerate(folders):
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        files["pytorch_model.bin"] = b"never downloaded"
        branches["main" if i == 0 else f"part{i}"] = [{"id": f"{i:x}" * 40, "files": files, "message": "upload"}]
    hub.repositories["models", name] = Repository(branches)


def test_revisions_on_the_hub(hub, five, tmp_path):
    on_the_hub(hub, "tester/course", five[1:])
    ids = ["tester/course", "tester/course@part1", "tester/course@part2", "tester/course@part3"]
    run(five[0], *ids, "--sampling-ratio", 0.5, "--steps", 1, "--output-dir", tmp_path / "out")
    run(*five, "--sampling-ratio", 0.5, "--steps", 1, "--output-dir", tmp_path / "folders")
    made = [(tmp_path / where / "x2/model.safetensors").read_bytes() for where in ("out", "folders")]
    assert made[0] == made[1] and not hub.sent("GET", "pytorch_model.bin")
    card = ModelCard.load(tmp_path / "out/x2/README.md")
    assert card.data.base_model == ["tester/course"] and card.data.base_model_relation == "merge"
    assert f"tester/course@{'1' * 40}" in card.text
    with pytest.raises(TrajectoryError, match="given twice, as stage 0 and as stage 1"):
        Trajectory.from_checkpoints(["tester/course", "tester/course@main", five[0]])
    with pytest.raises(TrajectoryError, match="given twice, as stage 0 and as stage 1"):
        Trajectory.from_checkpoints(["tester/course", f"tester/course@{'0' * 40}", five[0]])
    with pytest.raises(
        TrajectoryError, match=r"'tester/nothing@v1', given as stage 1, is neither a folder nor a model"
    ):
        Trajectory.from_checkpoints(["tester/course", "tester/nothing@v1"])
    hub.repositories["models", "tester/pickle"] = Repository(
        {"main": [{"id": "f" * 40, "files": {"config.json": b"{}", "pytorch_model.bin": b"x"}, "message": ""}]}
    )
    with pytest.raises(TrajectoryError, match="holds no safetensors weights"):
        Trajectory.from_checkpoints(["tester/course", "tester/pickle"])


def test_only_the_files_that_loading_takes_are_downloaded(hub, five):
    model = BertForSequenceClassification.from_pretrained(five[0])
    shutil.rmtree(five[0])
    model.save_pretrained(five[0], max_shard_size="10KB")
    (five[0] / "consolidated.safetensors").write_bytes(b"the same once more")
    on_the_hub(hub, "tester/shards", five[:1])
    trajectory = Trajectory.from_checkpoints(["tester/shards", *five[1:]])
    assert trajectory.tensors[WEIGHT].file.name.startswith("model-000")
    assert not hub.sent("GET", "consolidated|pytorch_model")


def test_adapters_are_predicted_if_they_are_scaled_alike(capsys, tmp_path):
    peft = pytest.importorskip("peft")
    BertForSequenceClassification(CONFIG).save_pretrained(tmp_path / "base")
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    lora = peft.LoraConfig(task_type="SEQ_CLS", r=2, lora_alpha=4, target_modules=["query", "value"])
    folders = drifting(tmp_path, peft.get_peft_model(base, lora), stages=5)
    run(*folders, "--method", "linear_fit", "--steps", 1, "--output-dir", tmp_path / "out")
    files = [folder / "adapter_model.safetensors" for folder in (*folders, tmp_path / "out" / "x2")]
    *stages, made = map(load_file, files)
    name = next(name for name in made if "lora_B" in name)
    expected = retrodict(torch.stack([stage[name] for stage in stages]), "fc", 1, "linear_fit")[0]
    assert torch.allclose(made[name], expected, atol=1e-6)
    loaded = peft.AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "out" / "x2")
    assert loaded.active_peft_config.r == 2
    config = folders[3] / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "lora_alpha": 8}))
    said = fails(capsys, "predict", *folders, "--output-dir", tmp_path / "more")
    assert "lora_alpha is 4 in the former, 8 in the latter" in said and not (tmp_path / "more").exists()


def test_unequal_ratios_place_the_stages(five, tmp_path):
    """A weight on a straight line in the logarithm of the data goes on along it, whatever the distances."""
    counts = [1600, 1100, 400, 300, 100]
    step = (1600 / 100) ** (1 / 4)
    depth = [torch.tensor(1600 / count).log() / torch.tensor(step).log() for count in counts]
    start, slope = torch.randn(16, 32) * 0.1, torch.randn(16, 32) * 0.01
    for folder, below in zip(five, depth, strict=True):
        changed(folder, lambda t, below=below: t.update({WEIGHT: start - below * slope}))
    run(*five, "--examples", *counts, "--method", "linear_fit", "known", "mean", "extra_merge",
        "--steps", 2, "--output-dir", tmp_path / "out")  # fmt: skip
    for number, name in enumerate(("x2", "x4"), start=1):
        made = load_file(tmp_path / "out/linear_fit" / name / "model.safetensors")[WEIGHT]
        assert torch.allclose(made, start + number * slope, atol=1e-6)
    stages = stages_of(five)
    positions = [float(below) for below in depth]
    expected = retrodict(evened(stages, positions), "fc", 1, "known")[0]
    assert torch.allclose(load_file(tmp_path / "out/known/x2/model.safetensors")[WEIGHT], expected, atol=1e-5)
    even = torch.stack([start - i * slope for i in range(5)])
    assert torch.allclose(evened(stages, positions), even, atol=1e-5)
    assert torch.allclose(load_file(tmp_path / "out/mean/x2/model.safetensors")[WEIGHT], stages.mean(0), atol=1e-6)
    kept = json.loads((tmp_path / "out/known/x2" / ENRICHMENT_FILE).read_text())["positions"]
    assert kept == pytest.approx(positions, abs=1e-6)
    assert "| 1 | given1 | 1100 |" in (tmp_path / "out/known/x2/README.md").read_text()


def test_equal_counts_are_a_ratio(five):
    given = Trajectory.from_checkpoints(five, examples=[1601, 800, 400, 200, 100])
    assert given.positions is None and given.record.sampling_ratio == pytest.approx(0.5, abs=1e-3)


def test_iterating_over_unequal_steps_slides_the_window():
    stages, positions = torch.tensor([3.0, 2.5, 1.0]), [0.0, 0.5, 2.0]
    made = retrodict(stages, "fc", 3, "linear_fit", iterate=True, positions=positions)
    assert torch.allclose(made, torch.tensor([4.0, 5.0, 6.0]))


def test_no_configuration_and_no_kinds(tmp_path):
    folders = drifting(tmp_path, BertModel(CONFIG))
    for folder in folders:
        (folder / "config.json").unlink()
    with pytest.raises(ValueError, match="What the tensors are cannot be read off the configuration"):
        Trajectory.from_checkpoints(folders)
    made = enrich(
        Trajectory.from_checkpoints(folders, kinds={"pooler.dense.weight": "fc"}), tmp_path / "o", method="mean"
    )
    assert made.checkpoints["x2"].is_dir()


def test_the_mean_is_that_of_all_of_them(five, tmp_path):
    run(*five, "--method", "mean", "--steps", 1, "--output-dir", tmp_path / "mean")
    found = load_file(tmp_path / "mean" / "x2" / "model.safetensors")[WEIGHT]
    assert torch.allclose(found, stages_of(five).mean(0), atol=1e-6)
    assert not torch.allclose(found, stages_of(five)[:3].mean(0), atol=1e-4)
    run(*five, "--method", "mean", "--parameters", "first=3", "--steps", 1, "--output-dir", tmp_path / "three")
    found = load_file(tmp_path / "three" / "x2" / "model.safetensors")[WEIGHT]
    assert torch.allclose(found, stages_of(five)[:3].mean(0), atol=1e-6)
    card = (tmp_path / "mean" / "x2" / "README.md").read_text()
    assert "no sampling ratio is recorded" in card or "Every step of this method is the same" in card


def test_two_will_do(five, tmp_path, caplog):
    run(*five[:2], "--method", "mean", "--steps", 1, "--output-dir", tmp_path / "mean")
    found = load_file(tmp_path / "mean" / "x2" / "model.safetensors")[WEIGHT]
    assert torch.allclose(found, stages_of(five[:2]).mean(0), atol=1e-6)
    run(*five[:2], "--method", "all", "--output-dir", tmp_path / "all")
    made = {path.name for path in (tmp_path / "all").iterdir() if path.is_dir()}
    assert {"known", "mean", "linear_fit"} <= made and "task_vector" not in made
    assert "task_vector is left out: " in caplog.text
