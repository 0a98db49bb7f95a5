"""How-tos with data of their own stay true: every command and block of code is run as it is written."""

import csv
import functools
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
from test_audio import write_listener, write_sounds

from know_hf import enrich_pretrained
from know_hf.cli.main import main
from know_hf.laboratory.benchmarks import compare_on_benchmarks

DOCS = Path(__file__).parents[1] / "docs" / "how-to"
MOODS = [("good", "yes", 0.9), ("bad", "no", 0.2)] * 16


def run_page(name: str) -> dict:
    """Runs a page's blocks in their order, in the working folder; returns the names that its Python code defines."""
    module = types.ModuleType("page_of_the_documentation")
    sys.modules[module.__name__] = module  # its classes are pickled beside checkpoints
    found = vars(module)
    text = (DOCS / name).read_text(encoding="utf-8")
    for kind, block in re.findall(r"^```(bash|python)\n(.*?)^```", text, re.M | re.S):
        if kind == "python":
            exec(compile(block, name, "exec"), found)
            continue
        for line in block.replace("\\\n", " ").splitlines():
            program, *arguments = shlex.split(line, comments=True) or [""]
            if program:
                assert program == "know-hf", line
                main(arguments)
    return found


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working folder, in which nothing is reported anywhere and no plots are made of a page's runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_DISABLED", "true")
    return tmp_path


def write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.slow
def test_chat(place, writer_folder):
    pytest.importorskip("trl")
    shutil.copytree(writer_folder, "my-chat-model")
    asked = [f"a {'very ' * (i % 3)}{mood} film" for i, (mood, _, _) in enumerate(MOODS)]
    write_lines(place / "chats.jsonl", [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]}
        for text, (_, answer, _) in zip(asked, MOODS, strict=True)
    ])  # fmt: skip
    pairs = [{"prompt": f"{text} ", "completion": answer} for text, (_, answer, _) in zip(asked, MOODS, strict=True)]
    write_lines(place / "pairs.jsonl", pairs)
    write_lines(place / "preferences.jsonl", [
        {"prompt": row["prompt"], "chosen": row["completion"], "rejected": "film"} for row in pairs
    ])  # fmt: skip
    found = run_page("chat.md")
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    record = json.loads(Path("runs/pairs/trajectory.json").read_text())
    assert record["model"]["task"] == "prompt-completion"
    assert found["result"].metrics["x2"]["eval_loss"] > 0
    AutoModelForCausalLM.from_pretrained(found["result"].checkpoints["x4"])
    AutoModelForCausalLM.from_pretrained(found["preferred"])
    adapter = AutoPeftModelForCausalLM.from_pretrained(found["adapter"])
    assert adapter.peft_config["default"].r == 2


@pytest.mark.slow
def test_qlora(place, writer_folder):
    pytest.importorskip("bitsandbytes")
    shutil.copytree(writer_folder, "my-chat-model")
    write_lines(place / "pairs.jsonl", [
        {"prompt": f"a {'very ' * (i % 3)}{mood} film ", "completion": answer}
        for i, (mood, answer, _) in enumerate(MOODS)
    ])  # fmt: skip
    before = {path: path.read_bytes() for path in Path("my-chat-model").iterdir()}
    found = run_page("qlora.md")
    kinds = {type(module).__name__ for module in found["adapted"].modules()}
    assert "Linear4bit" in kinds and all(path.read_bytes() == content for path, content in before.items())
    names = {path.name for path in found["result"].checkpoints["x2"].iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json"} <= names and "model.safetensors" not in names


def small_sentence_model(folder: Path, bert: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules as models

    inside = models.Transformer(str(bert))
    modules = [inside, models.Pooling(16), models.Dense(16, 4), models.Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder))


@pytest.mark.slow
def test_sentence_transformers(place, text_model_folder):
    pytest.importorskip("sentence_transformers")
    small_sentence_model(place / "my-sentence-model", text_model_folder)
    with open("pairs.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["sentence1", "sentence2", "score"])
        table.writerows([[f"a {mood} film", "a good film", score] for mood, _, score in MOODS])
    found = run_page("sentence-transformers.md")
    folder = found["result"].checkpoints["x2"]
    assert found["found"].shape == (2, 4), "the projection is there"
    assert json.loads((folder / "modules.json").read_text()) == json.loads(
        Path("my-sentence-model/modules.json").read_text()
    )
    card = (folder / "README.md").read_text()
    assert 'model = SentenceTransformer("path/to/this/folder")' in card
    assert "library_name: sentence-transformers" in card and "pipeline_tag: sentence-similarity" in card
    # The live model ended as stage 0, whose projection was trained as well.
    from safetensors.torch import load_file

    from know_hf.checkpoints import Checkpoint

    live = found["model"].state_dict()
    stage = Path("runs/pairs/stage-0")
    dense = load_file(stage / "2_Dense/model.safetensors")["linear.weight"]
    assert (live["2.linear.weight"].cpu() == dense).all()
    name = "encoder.layer.0.output.dense.weight"
    stored = Checkpoint(stage).read(name)
    (own,) = [tensor for key, tensor in live.items() if key.endswith(name)]
    assert (own.cpu().flatten() == stored).all()
    assert (Checkpoint(folder).read(name) != stored).any()


def reviews(count: int = 32) -> list[dict]:
    return [
        {"text": f"a {'very ' * (i % 3)}{mood} film", "label": mood} for i, (mood, _, _) in enumerate(MOODS[:count])
    ]


@pytest.mark.slow
def test_data(place, text_model_folder):
    shutil.copytree(text_model_folder, "my-model")
    write_lines(place / "topics.jsonl", [
        {"text": row["text"], "labels": ["praise"] if row["label"] == "good" else ["blame", "film"]}
        for row in reviews()
    ])  # fmt: skip
    with open("pairs.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["sentence1", "sentence2", "score"])
        table.writerows([[f"a {mood} film", "a good film", score] for mood, _, score in MOODS])
    write_lines(place / "words.jsonl", [
        {"tokens": row["text"].split(), "tags": ["MOOD" if w in ("good", "bad") else "O" for w in row["text"].split()]}
        for row in reviews()
    ])  # fmt: skip
    write_sounds(place / "my-sounds", "files")
    write_listener(place / "my-listener")
    (place / "my-glue").mkdir()
    (place / "my-glue/README.md").write_text(
        "---\nconfigs:\n- config_name: cola\n  data_files: cola.jsonl\n- config_name: other\n  data_files: o.csv\n---\n"
    )
    write_lines(place / "my-glue/cola.jsonl", reviews())
    (place / "my-glue/o.csv").write_text("nothing\n1\n")
    found = run_page("data.md")
    records = {one.parent.name: json.loads(one.read_text()) for one in place.glob("runs/*/trajectory.json")}
    tasks = {name: record["model"]["task"] for name, record in records.items()}
    assert tasks == {
        "topics": "multi-label-classification", "pairs": "text-regression", "words": "token-classification",
        "cola": "text-classification", "sounds": "audio-classification", "boxes": "object-detection",
    }  # fmt: skip
    assert found["result"].metrics["x2"]["eval_loss"] > 0 and found["found"].num_parameters() > 1000


@pytest.mark.slow
def test_streaming(place, text_model_folder):
    shutil.copytree(text_model_folder, "my-model")
    write_lines(place / "reviews.jsonl", reviews())
    found = run_page("streaming.md")
    assert len(found["data"]) == 32 and found["result"].checkpoints["x2"].is_dir()
    with pytest.raises(TypeError, match="an IterableDataset. .*Dataset.from_generator.lambda: iter.stream"):
        enrich_pretrained("my-model", found["stream"], place / "none")


@pytest.mark.slow
def test_a_stream_is_written_with_constant_memory(place):
    """A stream of 200 MB, in a process of its own."""
    code = """
import resource
from datasets import Dataset, Features, IterableDataset, Value
def rows():
    for number in range(200):
        yield {"text": chr(97 + number % 26) * 1_000_000}
features = Features({"text": Value("string")})
stream = IterableDataset.from_generator(rows, features=features)
list(stream.take(2))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
data = Dataset.from_generator(lambda: iter(stream), features=stream.features, writer_batch_size=10)
print(len(data), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    env = {**os.environ, "HF_DATASETS_CACHE": str(place / "cache")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    count, more = done.stdout.split()
    assert count == "200" and float(more) < 100, "MB more than before"


@pytest.mark.slow
def test_tracking(place, text_model_folder):
    pytest.importorskip("tensorboard")
    pytest.importorskip("trackio")
    shutil.copytree(text_model_folder, "my-model")
    write_lines(place / "reviews.jsonl", reviews())
    run_page("tracking.md")
    from test_tracking import scalars
    from trackio.sqlite_storage import SQLiteStorage

    (run,) = Path("runs/mine/tensorboard").iterdir()
    told = scalars(run)
    assert {"train/loss", "eval/accuracy", "eval/x2/accuracy", "eval/x8/accuracy"} <= told.keys()
    assert len(told["eval/accuracy"]) == 5, "of every stage one"
    assert SQLiteStorage.get_runs("my-project") == [run.name]
    (compared,) = Path("runs/compared/tensorboard").iterdir()
    assert [step for step, _ in scalars(compared)["eval/second/accuracy"]] == [0, 1]


TASK = """
task: moods
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{text}}"
doc_to_choice: ["yes", "no"]
doc_to_target: answer
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


def test_benchmarks(place, writer_folder, monkeypatch):
    lm_eval = pytest.importorskip("lm_eval.tasks") and importlib.import_module("lm_eval")
    from transformers import GPT2LMHeadModel

    write_lines(place / "moods.jsonl", [
        {"text": row["text"], "answer": 0 if row["label"] == "good" else 1} for row in reviews()
    ])  # fmt: skip
    (place / "my-tasks").mkdir()
    (place / "my-tasks/moods.yaml").write_text(TASK.replace("DATA", str(place / "moods.jsonl")))
    main([
        "enrich", "--model", str(writer_folder), "--dataset", "moods.jsonl", "--task", "text-generation",
        "--output-dir", "runs/mine", "--choose", "none", "--num_stages", "2", "--max_steps", "1", "--steps", "1",
        "--max_length", "8", "--report_to", "none",
    ])  # fmt: skip
    other = GPT2LMHeadModel.from_pretrained(writer_folder)
    other.transformer.ln_f.bias.data += other.transformer.wte.weight[12].data * 1e3  # always yes
    other.save_pretrained("runs/mine/enriched/x2")
    result = run_page("lm-eval.md")["result"]
    assert result.scores["x2"]["moods/acc"] == 0.5, "half of the 16 are good"
    stage, difference = result.scores["stage-0"]["moods/acc"], result.differences["x2"]["moods/acc"]
    assert difference.mean == pytest.approx(0.5 - stage) and difference.seeds == 16
    assert "| moods/acc | x2 | 0.5000 | " in result.markdown()
    stored = json.loads(Path("runs/benchmarks/benchmarks.json").read_text())
    assert stored["scores"] == result.scores
    assert json.loads(Path("runs/scores/benchmarks.json").read_text()) == stored, "the command says the same"
    assert Path("runs/scores/benchmarks.md").read_text() == result.markdown()
    with pytest.raises(FileExistsError, match="holds the scores of stage-0, x2, not of stage-0, x4; choose another"):
        compare_on_benchmarks({"stage-0": "runs/mine/stage-0", "x4": "runs/mine/stage-0"}, ["moods"], "runs/scores")
    few = functools.partial(lm_eval.tasks.TaskManager, include_defaults=False)
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", lambda **given: few(**{**given, "include_defaults": False}))
    with pytest.raises(ValueError, match="There is no task 'moodz'"):
        compare_on_benchmarks({"a": "runs/mine/stage-0", "b": "runs/mine/stage-0"}, ["moodz"], include_path="my-tasks")


def test_optional_libraries_are_extras():
    import tomllib

    extras = tomllib.loads((DOCS.parents[1] / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"trl", "sentence-transformers", "trackio", "tensorboard", "audio"} <= extras.keys()
    assert importlib.util.find_spec("know_hf")
