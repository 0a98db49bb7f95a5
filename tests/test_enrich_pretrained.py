"""The main job, end to end, for images and text; what comes out and what is refused."""

import html
import json
import re
import shutil

import datasets
import pytest
import torch
import yaml
from conftest import QUICK, tiny_image_model
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification, AutoTokenizer

from know_hf import KnownConfig, KnownPredictor, enrich_pretrained
from know_hf.pretrained import enrich_trained
from know_hf.report.write import write_page
from know_hf.trajectory import Checkpoint, TrajectoryError


@pytest.fixture(scope="module")
def enriched(tmp_path_factory, image_model_folder, image_data_folder):
    """A folder and a data folder in, everything out."""
    return enrich_pretrained(
        str(image_model_folder),
        str(image_data_folder),
        tmp_path_factory.mktemp("runs") / "run",
        eval_dataset=str(image_data_folder),
        self_check=True,
        train_stage_zero=True,
        **QUICK,
    )


def test_checkpoints_load_and_predict(enriched, images):
    assert list(enriched.checkpoints) == ["x2", "x4", "x8"]
    for folder in enriched.checkpoints.values():
        model = AutoModelForImageClassification.from_pretrained(folder)
        assert model(pixel_values=torch.zeros(2, 1, 16, 16)).logits.shape == (2, 3)


def test_every_candidate_is_scored(enriched):
    assert list(enriched.metrics) == ["stage-0", "stage-0 (BatchNorm re-estimated)", "x2", "x4", "x8"]
    for scores in enriched.metrics.values():
        assert set(scores) == {"eval_loss", "eval_accuracy"}


def test_scores_are_of_the_folders(enriched, images):
    from know_hf.tasks import find_columns
    from know_hf.training.data import make_preprocessing

    data = images.select(range(128, 160))
    model = AutoModelForImageClassification.from_pretrained(enriched.checkpoints["x4"]).eval()
    preprocessing = make_preprocessing(model, enriched.checkpoints["x4"], find_columns(data))
    batch = preprocessing.apply(data)[:]
    with torch.no_grad():
        guesses = model(pixel_values=torch.stack(batch["pixel_values"])).logits.argmax(-1)
    accuracy = (guesses == torch.tensor(batch["labels"])).float().mean().item()
    assert accuracy == pytest.approx(enriched.metrics["x4"]["eval_accuracy"], abs=1e-6)


def test_only_batch_norm_statistics_and_predictions_change(enriched):
    trajectory = enriched.trajectory
    zero = trajectory.checkpoints[0]
    for folder in enriched.checkpoints.values():
        other = Checkpoint(folder)
        changed = {name for name in zero.tensors if not torch.equal(zero.read(name), other.read(name))}
        kinds = {trajectory.parameters[name].kind for name in changed}
        assert kinds <= {"conv", "fc", "bias", "buffer"}
        buffers = {name for name in changed if trajectory.parameters[name].kind == "buffer"}
        assert buffers and all("running_" in name or "num_batches" in name for name in buffers)


def test_self_check(enriched):
    check = enriched.self_check
    assert set(check["ratios"]) == {"conv", "fc", "bias"}
    assert all(0 < ratio < 100 for ratio in check["ratios"].values())
    assert set(check["scores"]["eval_accuracy"]) == {"retrodicted", "stage_0", "stage_1"}
    zero, one = enriched.trajectory.checkpoints[:2]
    guess = Checkpoint(enriched.output_dir / "self-check" / "known")
    name = "timm_model.fc.weight"
    error = (guess.read(name) - zero.read(name)).abs().sum() / (one.read(name) - zero.read(name)).abs().sum()
    assert check["ratios"]["fc"] == pytest.approx(error.item(), rel=1e-4)


def test_naive_self_check_is_one_by_definition(image_run):
    result = enrich_trained(image_run, steps=1, method="naive")
    assert all(ratio == pytest.approx(1) for ratio in result.self_check["ratios"].values())


def test_of_several_methods_the_first_is_checked(image_run):
    result = enrich_trained(image_run, steps=1, method=["task_vector", "naive"], parameters={"task_vector.lam": 0.3})
    trajectory = image_run.trajectory
    name = "timm_model.fc.weight"
    zero, one, two = (trajectory.checkpoints[i].read(name) for i in range(3))
    error = (one + 0.3 * (one - two) - zero).abs().sum() / (one - zero).abs().sum()
    assert result.self_check["ratios"]["fc"] == pytest.approx(error.item(), rel=1e-4)
    assert set(result.checkpoints) == {"task_vector/x2", "naive/x2"}


@pytest.mark.parametrize(
    "expected",
    [
        "# tiny-resnet KNOW x4",
        "AutoModelForImageClassification.from_pretrained",
        "| sampling ratio | 0.5 |",
        "| learning_rate | 0.001 |",
        "## Forgetting curve",
        "| **x4 (predicted)** |",
        "0, BatchNorm re-estimated",
        "## Self-check",
        "re-estimated on 128 training examples",
        "@inproceedings",
        "shrinkage",
    ],
)
def test_card_says(enriched, expected):
    assert expected in (enriched.checkpoints["x4"] / "README.md").read_text()


def test_card_is_sound(enriched):
    card = (enriched.checkpoints["x2"] / "README.md").read_text()
    assert "\n\n\n" not in card and "None" not in card and "{{" not in card
    assert str(enriched.output_dir) not in card and "/tmp" not in card
    metadata = yaml.safe_load(card.split("---")[1])
    assert metadata["library_name"] == "transformers" and metadata["pipeline_tag"] == "image-classification"
    results = metadata["model-index"][0]["results"][0]["metrics"]
    assert {r["type"] for r in results} == {"loss", "accuracy"}


def test_the_verdict_ends_the_report(enriched, tmp_path):
    text = (enriched.report / "report.md").read_text()
    assert text.endswith(f"## Verdict\n\n{enriched.verdict}\n") and enriched.verdict.count(".") > 3
    assert "By the self-check" in enriched.verdict and "On the evaluation data" in enriched.verdict
    page = write_page(shutil.copytree(enriched.output_dir, tmp_path / "run"))
    shown = html.unescape(re.sub(r"</?(b|strong)[^>]*>", "", page.read_text()))
    assert enriched.verdict in shown


def test_report(enriched):
    assert {p.name for p in enriched.report.iterdir()} == {"report.md", "forgetting_curve.png", "self_check.json"}
    assert "| x8 " in (enriched.report / "report.md").read_text()
    assert json.loads((enriched.report / "self_check.json").read_text()) == enriched.self_check


def test_live_model_ends_with_stage_zero(tmp_path, images):
    model = tiny_image_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = enrich_pretrained(model, images, tmp_path, steps=1, **QUICK)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not result.metrics and not result.trajectory.record.recipe.get("train_stage_zero")


def test_batch_norm_can_be_left_alone(tmp_path, images, image_model_folder):
    result = enrich_pretrained(image_model_folder, images, tmp_path, steps=1, update_batch_norm=False, **QUICK)
    zero, other = result.trajectory.checkpoints[0], Checkpoint(result.checkpoints["x2"])
    name = next(n for n in zero.tensors if n.endswith("running_mean"))
    assert torch.equal(zero.read(name), other.read(name))
    assert "those of stage 0" in (result.checkpoints["x2"] / "README.md").read_text()


def test_text_with_a_new_head(tmp_path, text_model_folder, sentences):
    result = enrich_pretrained(text_model_folder, sentences, tmp_path, eval_dataset=sentences, steps=2, **QUICK)
    assert result.trajectory.record.recipe["train_stage_zero"] is True
    model = AutoModelForSequenceClassification.from_pretrained(result.checkpoints["x4"])
    tokenizer = AutoTokenizer.from_pretrained(result.checkpoints["x4"])
    assert model(**tokenizer("a good film", return_tensors="pt")).logits.shape == (1, 2)
    assert model.config.id2label == {0: "negative", 1: "positive"}
    kinds = {p.kind for p in result.trajectory.parameters.values()}
    assert {"fc", "bias", "norm", "embedding"} <= kinds


def test_mixed_precision_stores_full_precision(tmp_path, text_model_folder, sentences):
    result = enrich_pretrained(text_model_folder, sentences, tmp_path, steps=1, bf16=True, use_cpu=True, **QUICK)
    assert {spec.dtype for spec in Checkpoint(result.checkpoints["x2"]).tensors.values()} == {"F32"}
    assert result.trajectory.record.recipe["bf16"] is True


def test_new_head_is_the_same_every_time(tmp_path, text_model_folder, sentences):
    for name in "ab":
        torch.manual_seed(hash(name) % 1000)
        enrich_pretrained(text_model_folder, sentences, tmp_path / name, steps=1, **QUICK)
    a, b = ((tmp_path / n / "stage-0" / "model.safetensors").read_bytes() for n in "ab")
    assert a == b


@pytest.mark.slow
def test_fitting_head_is_taken_as_it_is_and_other_classes_are_not(tmp_path, images, sentences):
    model = tiny_image_model(id2label={0: "0", 1: "1", 2: "2"}, label2id={"0": 0, "1": 1, "2": 2})
    model.save_pretrained(tmp_path / "same")
    model.config.id2label = {0: "cat", 1: "dog", 2: "cow"}
    model.save_pretrained(tmp_path / "other")
    for name, trained in (("same", None), ("other", True)):
        result = enrich_pretrained(tmp_path / name, images, tmp_path / f"run-{name}", steps=1, **QUICK)
        assert (result.trajectory.record.recipe.get("train_stage_zero") or None) is trained


def test_own_collator_and_data(tmp_path):
    class Random(torch.utils.data.Dataset):
        def __len__(self):
            return 64

        def __getitem__(self, i):
            return torch.full((1, 16, 16), i / 64), i % 3

    def collate(rows):
        return {"pixel_values": torch.stack([p for p, _ in rows]), "labels": torch.tensor([c for _, c in rows])}

    result = enrich_pretrained(tiny_image_model(), Random(), tmp_path, data_collator=collate, steps=1, **QUICK)
    assert (result.checkpoints["x2"] / "model.safetensors").exists()


def test_plain_classifiers_without_eval_data_or_labels(tmp_path, images, image_model_folder):
    result = enrich_pretrained(image_model_folder, images, tmp_path, steps=1, num_stages=2, sampling_ratio=0.33,
                               predictor=KnownPredictor(KnownConfig(history_length=2)), **QUICK)  # fmt: skip
    assert list(result.checkpoints) == ["x3"] and not result.metrics


def untouched(folder) -> bool:
    return not folder.exists() or not list(folder.glob("stage-*"))


def test_refusals_before_anything_expensive(tmp_path, images, sentences, image_model_folder, text_model_folder):
    out = tmp_path / "out"
    model = image_model_folder

    def refused(error, message, *args, **kwargs):
        with pytest.raises(error, match=message):
            enrich_pretrained(*args, **{"output_dir": out, **QUICK, **kwargs})
        assert untouched(out)

    refused(FileNotFoundError, "Model 'nobody/nothing' is neither.*Offline, pass the path", "nobody/nothing", images)
    refused(FileNotFoundError, "Data set 'nobody/nothing' is neither.*Offline, pass the path", model, "nobody/nothing")
    refused(TypeError, "splits \\['train'\\]; pass one", model, datasets.DatasetDict(train=images))
    refused(TypeError, "are an IterableDataset", model, images.to_iterable_dataset())
    refused(ValueError, "No column can be the label", model, images.remove_columns("label"))
    refused(ValueError, "There is no column 'photo'; found image", model, images, input_columns=["photo"])
    refused(
        ValueError, "Several columns could be the input", text_model_folder, sentences.add_column("more", ["x"] * 64)
    )
    refused(ValueError, "No predictor for 7 stages", model, images, num_stages=7)
    refused(ValueError, "Unknown retrodiction method", model, images, method="magic")
    refused(ValueError, "no parameter matches", model, images, kinds={"nothing": "fc"})
    refused(ValueError, "3 outputs, the data have 2 classes", tiny_image_model(), two_classes(images))
    refused(ValueError, "timm has no architecture 'resnet10q'", "timm/resnet10q", images, from_scratch=True)
    refused(ValueError, "pass a live model", model, images, data_collator=lambda rows: rows)
    with pytest.raises(FileExistsError, match="the model's own folder"):
        enrich_pretrained(model, images, model, **QUICK)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty and holds no run to continue \\(notes.txt\\)"):
        enrich_pretrained(model, images, tmp_path / "full", **QUICK)
    assert (tmp_path / "full" / "notes.txt").read_text() == "mine"


def two_classes(images):
    return images.filter(lambda label: label < 2, input_columns="label").cast_column(
        "label", datasets.ClassLabel(names=["0", "1"])
    )


def test_missing_classes_are_a_warning(tmp_path, images, image_model_folder, caplog):
    enrich_pretrained(image_model_folder, images.select(range(40)), tmp_path, steps=1, **QUICK)
    assert "lacks" in caplog.text and "stratify_by='label' keeps the shares" in caplog.text


def test_diverged_training_is_named(tmp_path, images, image_model_folder):
    with pytest.raises(TrajectoryError, match="Stage 1 diverged: .* NaN or infinite values in tensor 'timm_model"):
        enrich_pretrained(
            image_model_folder, images, tmp_path, steps=1, **{**QUICK, "learning_rate": 1e30, "max_grad_norm": 0.0}
        )
    assert not list(tmp_path.rglob("x2")) and not (tmp_path / "stage-1").exists()


def test_second_call_continues(tmp_path, images, image_model_folder):
    first = enrich_pretrained(image_model_folder, images, tmp_path, steps=2, **QUICK)
    stamp = (first.checkpoints["x4"] / "model.safetensors").stat().st_mtime_ns
    second = enrich_pretrained(image_model_folder, images, tmp_path, steps=2, **QUICK)
    assert (second.checkpoints["x4"] / "model.safetensors").stat().st_mtime_ns == stamp
    with pytest.raises(TrajectoryError, match="another run"):
        enrich_pretrained(image_model_folder, images.select(range(100)), tmp_path, steps=2, **QUICK)
