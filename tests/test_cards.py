"""What records say is text in cards and reports: no code, no links, no tags, no metadata of its own."""

import ast
import json
import re
from dataclasses import asdict, replace

import pytest
import yaml
from conftest import ink
from huggingface_hub import ModelCard

from know_hf import enrich
from know_hf.hub.cards import enriched_card, loader, meta_card, plain_predictor_card, predictor_card
from know_hf.records import ENRICHMENT_FILE
from know_hf.report.page import Page
from know_hf.report.plots import BLUE, plot_forgetting_curve
from know_hf.report.write import write_page
from know_hf.tables import table
from know_hf.text import as_code, as_markdown
from know_hf.trajectory import Trajectory, TrajectoryError

HOSTILE = [
    'x"\n```\n\n# Taken over\n\n[click](http://evil.example/?a) <script>alert(1)</script> | `y`',
    "AutoModel; import os; os.system('true') #",
    "]\n---\nlicense: evil\n---\n![p](https://evil.example/p.png)",
    "a\\](http://evil.example) www.evil.example {{ 7 * 7 }} {% raw %} $x^{$",
    "<img src=x onerror=alert(1)>\r\n\x1b[31m\u2028---\u2028x: y",
]
KEYS = {
    "base_model",
    "base_model_relation",
    "license",
    "library_name",
    "pipeline_tag",
    "tags",
    "datasets",
    "model-index",
}


@pytest.fixture(scope="module")
def made(image_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cards") / "enriched"
    enrich(image_run.trajectory, folder, steps=1)
    return image_run.trajectory, json.loads((folder / "x2" / ENRICHMENT_FILE).read_text())


def is_harmless(text: str) -> None:
    """No tag, link, image or address that was not ours, and no block of code but the one that loads."""
    assert not re.search(r"<\s*(script|img|a|iframe|svg)\b", text, re.IGNORECASE)
    ours = r"index|[\w.-]+\.png\)|https://arxiv\.org/abs/2508\.05059\)"
    assert not re.search(rf"(?<!\\)\]\((?!{ours})", text), re.search(r"(?<!\\)\]\(", text)
    assert "://evil" not in text and "www.evil" not in re.sub(r"\(`.*?`", "", text)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\u2028]", text) and "# Taken over" not in text.splitlines()


def replaced(value, hostile: str):
    """Every text in plain data replaced, names included; numbers stay."""
    if isinstance(value, dict):
        return {f"{name}{hostile}" if name not in _OURS else name: replaced(v, hostile) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [replaced(v, hostile) for v in value]
    return hostile if isinstance(value, str) else value


_OURS = {"method", "step", "scale", "versions", "statistics", "copied", "metrics", "baseline", "predictor",
         "batch_norm", "unmoved", "weights", "relative_change", "norm_ratio", "source", "revision", "sha256", "ratios",
         "scores", "retrodicted", "stage_0", "stage_1", "id", "class", "auto_class", "task", "local", "license",
         "parameters", "adapter", "examples", "num_train_epochs", "learning_rate",
         "optim", "lr_scheduler_type", "seed"}  # fmt: skip


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("adapter", [None, "LORA"])
def test_cards_show_what_records_say(made, hostile, adapter):
    trajectory, enrichment = made
    record = trajectory.record
    stages = [replace(s, metrics={f"eval_{hostile}": 0.5}) for s in record.stages]
    model = {**replaced(record.model, hostile), "license": hostile, "id": hostile, "task": hostile, "local": False}
    changed = replace(
        record, stages=stages, model={**model, "adapter": hostile if adapter else None},
        recipe=replaced(record.recipe, hostile), dataset={"id": hostile, "examples": 3},
    )  # fmt: skip
    spoilt = Trajectory.__new__(Trajectory)
    spoilt.__dict__ = {**trajectory.__dict__, "record": changed}
    content = {
        **replaced(enrichment, hostile), "metrics": {f"eval_{hostile}": 0.5}, "unmoved": {hostile: [hostile]},
        "predictor": {"source": hostile, "revision": hostile, "sha256": hostile}, "versions": {hostile: hostile},
    }  # fmt: skip
    checked = {"ratios": {hostile: 0.5}, "scores": {hostile: {"retrodicted": 1.0, "stage_0": 1.0, "stage_1": 1.0}}}
    card = enriched_card(spoilt, content, "x2", checked)
    _, front, body = card.split("---\n", 2)
    found = yaml.safe_load(front)
    assert set(found) <= KEYS and found["library_name"] == ("peft" if adapter else "transformers")
    assert not {"base_model", "license", "datasets", "pipeline_tag"} & set(found)
    assert found["tags"] == ["know-hf", "know-prediction", "weight-prediction", "arxiv:2508.05059"]
    assert ModelCard(card).data.model_name and "\n" not in ModelCard(card).data.model_name
    is_harmless(body)
    (code,) = re.findall(r"```python\n(.*?)```", body, re.DOTALL)
    package, name = ("peft", "AutoPeftModel") if adapter else ("transformers", "AutoModel")
    expected = f'from {package} import {name}\nmodel = {name}.from_pretrained("path/to/this/folder")'
    assert ast.dump(ast.parse(code)) == ast.dump(ast.parse(expected))
    assert body.count("```") == 4  # that, and the citation
    rows = [line for line in body.splitlines() if line.startswith("| ")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) in (3, 4, 5) for row in rows)


def test_lists_and_sentences_of_ordinary_cards(made):
    trajectory, enrichment = made
    card = enriched_card(trajectory, {**enrichment, "unmoved": {"not trained": ["a.b", "c"], "same": ["d"]}}, "x2")
    versions = ", ".join(f"{package} {version}" for package, version in enrichment["versions"].items())
    assert f"| versions | {versions} |" in card
    assert "Of these, 2 could have been predicted but were not trained (`a.b` …).\nLikewise, 1 could" in card


def test_names_of_classes_are_those_that_there_are():
    assert loader({"auto_class": "ViTMAEForPreTraining"}) == "ViTMAEForPreTraining"
    assert loader({"auto_class": "AutoModelForCausalLM", "adapter": "LORA"}) == "AutoPeftModelForCausalLM"
    for name in (*HOSTILE, "os", "pipeline", "AutoModelForNothing", "automodel", None, 3, "AutoModel\n"):
        assert loader({"auto_class": name}) == "AutoModel"
        assert loader({"auto_class": name, "adapter": "x"}) == "AutoPeftModel"


@pytest.mark.parametrize("hostile", HOSTILE)
def test_records_with_classes_that_are_none_are_refused(image_run, tmp_path, hostile):
    content = asdict(image_run.trajectory.record)
    content["model"]["auto_class"] = hostile
    (tmp_path / "trajectory.json").write_text(json.dumps(content))
    with pytest.raises(TrajectoryError, match="auto_class of the model is .*no name of a class"):
        Trajectory.load(tmp_path)
    content["model"] |= {"auto_class": "AutoModel", "parameters": hostile}
    (tmp_path / "trajectory.json").write_text(json.dumps(content))
    with pytest.raises(TrajectoryError, match="parameters must be a whole number"):
        Trajectory.load(tmp_path)


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.slow
def test_cards_of_data_and_predictors(collected, hostile):
    notes = [{**note, "settings": {**note["settings"], "architecture": hostile, "data_set": hostile}}
             for note in collected.trials]  # fmt: skip
    card = meta_card(notes, 0, 7, 1000, 1.0, {})
    assert set(yaml.safe_load(card.split("---\n")[1])) == {"tags", "pretty_name", "configs"}
    is_harmless(card)
    config = {"history_length": 5, "kinds": [hostile], "inputs": "differences", "conditions": [hostile]}
    result = {
        "config": config, "split": {"train": [1], "choice": [2], "report": [3]},
        "epochs": {hostile: {"epoch": 1, "best_epoch": 0}},
        "held_out": {"architectures": [hostile], "data": [hostile]},
        "settings": {hostile: hostile, "functional": {"epochs": 1, hostile: hostile}},
    }  # fmt: skip
    for card in (predictor_card(result, 9425, "| a |\n|---|\n| **0.5** |"), plain_predictor_card(config)):
        assert set(yaml.safe_load(card.split("---\n")[1])) == {"library_name", "tags"}
        is_harmless(card)
        assert card.count("```") == 2


@pytest.mark.parametrize("hostile", HOSTILE)
def test_reports_show_what_records_say(hostile, tmp_path):
    page = Page(hostile).section(hostile).heading(hostile).text(hostile).table([[hostile, "b"], [hostile, "**1**"]])
    (tmp_path / "a.png").write_bytes(b"")
    page.image(tmp_path / "a.png", hostile)
    is_harmless(page.markdown())
    shown = page.html()
    assert shown.count("<script") == 1 and "<img src=x" not in shown and "onerror=alert(1)>" not in shown
    assert len(table([[hostile, "b"], [hostile, "**1**"]]).splitlines()) == 3


def test_a_page_of_a_run_with_hostile_names(image_run, tmp_path):
    record = image_run.trajectory.record
    for name in ("a$b$", "$x^{$", "<script>alert(1)</script>"):
        stages = [replace(s, metrics={name: 0.5}) for s in record.stages]
        spoilt = Trajectory.__new__(Trajectory)
        spoilt.__dict__ = {**image_run.trajectory.__dict__, "record": replace(record, stages=stages)}
        assert ink(plot_forgetting_curve(tmp_path / "curve.png", spoilt), BLUE) > 1e-3  # the line of the stages
    assert callable(write_page)


def test_plain_values_stay_as_they_are():
    for text in ("tester/base_know-1.0", "eval_accuracy", "−0.37 [−0.70, −0.05]", "**0.45**", "5e-05", "Θ̂⁰ ‖x‖₁"):
        assert as_markdown(text) == text
    assert as_markdown("x" * 1000).endswith(" …") and as_code("a`b\nc") == "a_b c"
