"""The laboratory: pairing, planted effects, continuation, refusals."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import QUICK, ink, tiny_image_model
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainingArguments

from know_hf.cli.main import main
from know_hf.laboratory.comparison import compare
from know_hf.laboratory.fast import LeanTrainer
from know_hf.laboratory.fine_tuning import FineTuning
from know_hf.laboratory.protocol import Protocol, fine_tune, split_pool
from know_hf.laboratory.result import ComparisonResult
from know_hf.models.building import load_with_new_head
from know_hf.quickstart import digits
from know_hf.report.comparison import comparison_markdown, write_comparison_report
from know_hf.report.plots import CYCLE, colour
from know_hf.tasks import Columns, find_columns
from know_hf.training.data import make_preprocessing
from know_hf.training.examples import Examples
from know_hf.trajectory import Checkpoint, TrajectoryError, kinds_of

FEW = Protocol(head_epochs=20, epochs=3, batch_size=16, examples=48, validation_examples=40, evaluations=3)


@pytest.fixture(scope="module")
def starts(tmp_path_factory):
    """A network trained on seven digits, itself under another name, and with kernels shuffled."""
    folder = tmp_path_factory.mktemp("starts")
    data = digits(tuple(range(7)))
    model = tiny_image_model(classes=7, channels=(8, 16, 16, 16))
    preprocessing = make_preprocessing(model, None, find_columns(data))
    args = TrainingArguments(
        str(folder / "work"),
        remove_unused_columns=False,
        **{**QUICK, "num_train_epochs": 30, "learning_rate": 5e-3, "per_device_train_batch_size": 32},
    )
    Trainer(model, args, preprocessing.collator, preprocessing.apply(data)).train()
    for name in ("naive", "naive again"):
        model.save_pretrained(folder / name)
    again = folder / "naive again" / "model.safetensors"  # the same weights in another file, which is trained by itself
    save_file(load_file(again), again, {"format": "pt", "copy": "another"})
    torch.manual_seed(1)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        for kernel in model.timm_model.layer4.parameters():
            kernel.copy_(kernel.flatten()[torch.randperm(kernel.numel())].view_as(kernel))
    model.save_pretrained(folder / "last layer scrambled")
    model.load_state_dict(state)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 4:
                parameter.copy_(parameter.flatten()[torch.randperm(parameter.numel())].view_as(parameter))
    model.save_pretrained(folder / "scrambled")
    return {name: folder / name for name in ("naive", "naive again", "scrambled", "last layer scrambled")}


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """Two networks of seven digits, for what does not ask what a start has learned."""
    folder = tmp_path_factory.mktemp("untrained")
    for seed, name in enumerate(("naive", "other")):
        tiny_image_model(seed, classes=7, channels=(8, 16, 16, 16)).save_pretrained(folder / name)
    return {name: folder / name for name in ("naive", "other")}


@pytest.fixture(scope="module")
def downstream():
    return digits((7, 8, 9)).train_test_split(test_size=0.5, seed=0)


@pytest.fixture(scope="module")
def compared(tmp_path_factory, starts, downstream):
    three = {name: starts[name] for name in ("naive", "naive again", "scrambled")}
    return compare(
        three, downstream["train"], tmp_path_factory.mktemp("transfer"), test_dataset=downstream["test"], protocol=FEW,
        learning_rates=(1e-3, 3e-3), seeds=5,
    )  # fmt: skip


@pytest.mark.slow
def test_the_same_start_under_another_name_makes_no_difference(compared):
    difference = compared.against("naive again", "naive")
    assert difference.low <= 0 <= difference.high and difference.verdict == "no difference shown"
    for rate in compared.learning_rates:
        assert compared.scores("naive", rate) == compared.scores("naive again", rate)


def test_the_same_files_are_trained_from_once(tmp_path, downstream, monkeypatch):
    trained, run = [], FineTuning.run
    model = tiny_image_model(classes=7)
    model.save_pretrained(tmp_path / "one")
    next(model.parameters()).data.mul_(2)
    model.save_pretrained(tmp_path / "other")
    monkeypatch.setattr(FineTuning, "run", lambda job: (trained.append(job.arm), run(job)))
    few = replace(FEW, head_epochs=1, epochs=1)
    arms = {"naive": tmp_path / "one", "again": tmp_path / "one", "scrambled": tmp_path / "other"}
    result = compare(arms, downstream["train"], tmp_path / "out", test_dataset=downstream["test"], protocol=few,
                     learning_rates=[1e-3], seeds=2)  # fmt: skip
    assert sorted(trained) == ["naive", "naive", "scrambled", "scrambled"]
    assert result.best("again") == result.best("naive") and result.against("again", "naive").mean == 0
    (tmp_path / "out" / "runs" / "again--0.001--1.json").unlink()  # killed before it was written
    again = compare(arms, downstream["train"], tmp_path / "out", test_dataset=downstream["test"], protocol=few,
                    learning_rates=[1e-3], seeds=2)  # fmt: skip
    assert len(trained) == 4 and again.fine_tunings == result.fine_tunings


@pytest.mark.slow
def test_a_scrambled_start_is_worse(compared):
    difference = compared.against("scrambled", "naive")
    assert difference.high < 0 and difference.verdict == "worse"
    assert compared.area("scrambled") < compared.area("naive")


@pytest.mark.slow
def test_a_scrambled_layer_before_the_head_is_worse(tmp_path, starts, downstream):
    """On the starts' own task, with their own head, which reads what that layer makes."""
    known = digits(tuple(range(7))).train_test_split(test_size=0.5, seed=1)
    result = compare(
        {name: starts[name] for name in ("naive", "naive again", "last layer scrambled")}, known["train"], tmp_path,
        test_dataset=known["test"], learning_rates=(3e-4,), seeds=5,
        protocol=Protocol(0, 2, 16, 64, 40, 1, new_head=False),
    )  # fmt: skip
    assert result.against("last layer scrambled", "naive").verdict == "worse"
    assert result.against("naive again", "naive").verdict == "no difference shown"


@pytest.mark.slow
def test_rates_are_chosen_on_validation(compared):
    for arm, rate in compared.chosen_rates.items():
        means = {r: np.mean(compared.scores(arm, r, "validation")) for r in compared.learning_rates}
        assert means[rate] == max(means.values())


@pytest.mark.slow
def test_curves_end_with_the_final_validation_score(compared):
    for run in compared.fine_tunings.values():
        assert len(run["curve"]) == 3 and run["curve"][-1] == [3.0, run["validation"]]
        assert 0 < run["training"] < run["seconds"]
    assert compared.epochs_to("naive", 0.0) == 1.0 and compared.epochs_to("naive", 100.1) is None


@pytest.mark.slow
def test_report(compared):
    folder = write_comparison_report(compared)
    text = (folder / "transfer.md").read_text()
    assert text == comparison_markdown(compared)
    assert "| scrambled " in text and "worse" in text and "best control" in text and "inside training steps" in text
    assert all(ink(folder / "bars.png", colour(arm, compared)) > 1e-4 for arm in compared.arms)
    assert all(ink(folder / "curves.png", color) > 1e-4 for color in CYCLE[:3])  # a line for each arm


@pytest.mark.slow
def test_continued_and_parallel_runs_give_the_same(tmp_path, starts, downstream, compared):
    def again(folder, **options):
        return compare(
            {name: starts[name] for name in ("naive", "scrambled")}, downstream["train"], folder,
            test_dataset=downstream["test"], protocol=FEW, learning_rates=(1e-3,), seeds=2, **options,
        )  # fmt: skip

    first = again(tmp_path / "one")
    kept = sorted((tmp_path / "one" / "runs").iterdir())
    stamp = kept[0].stat().st_mtime_ns
    kept[1].unlink()
    second = again(tmp_path / "one")
    assert kept[0].stat().st_mtime_ns == stamp
    third = again(tmp_path / "two", processes=2)
    for key, run in first.fine_tunings.items():
        for other in (second.fine_tunings[key], third.fine_tunings[key], compared.fine_tunings[key]):
            assert (run["test"], run["curve"]) == (other["test"], other["curve"])
    with pytest.raises(TrajectoryError, match="another comparison \\(different protocol\\)"):
        compare(starts, downstream["train"], tmp_path / "one", test_dataset=downstream["test"], seeds=2)


def test_everything_but_the_start_is_paired(untrained):
    columns = Columns("image-classification", ["image"], "label", ["7", "8", "9"])
    heads = [load_with_new_head(folder, columns, 7).timm_model.fc.weight for folder in untrained.values()]
    assert torch.equal(*heads)
    assert not torch.equal(heads[0], load_with_new_head(untrained["naive"], columns, 8).timm_model.fc.weight)
    pool = Examples({"labels": torch.arange(100)})
    train, validation = split_pool(pool, 3, FEW)
    assert len(train) == 48 and len(validation) == 40 and not set(train.rows.tolist()) & set(validation.rows.tolist())
    assert torch.equal(split_pool(pool, 3, FEW)[0].rows, train.rows)
    with pytest.raises(ValueError, match="have 100 training examples; 90 for validation"):
        split_pool(pool, 3, Protocol(examples=20, validation_examples=90))


def test_a_head_that_would_fit_is_new_all_the_same(untrained):
    columns = Columns("image-classification", ["image"], "label", list("abcdefg"))
    old = load_with_new_head(untrained["naive"], columns, 0).timm_model.fc.weight
    trained = tiny_image_model(classes=7).timm_model.fc.weight
    assert old.shape == trained.shape and old.abs().max() <= 1 / old.shape[1] ** 0.5


def test_only_head_and_norms_move_first(tmp_path, untrained, downstream, monkeypatch):
    from know_hf.laboratory import protocol as module

    seen = []
    train = module._train

    def watched(model, *args):
        seen.append({name for name, p in model.named_parameters() if p.requires_grad})
        return train(model, *args)

    monkeypatch.setattr(module, "_train", watched)
    columns = Columns("image-classification", ["image"], "label", ["7", "8", "9"])
    data = downstream["train"].select(range(100))
    rows = make_preprocessing(tiny_image_model(), None, columns).apply(data)[:]
    pool = Examples({"pixel_values": torch.stack(rows["pixel_values"]), "labels": torch.tensor(rows["labels"])})
    fine_tune(untrained["naive"], pool, pool, columns, 1e-3, 0, Protocol(1, 1, 16, 32, 32, 1), tmp_path)
    model = tiny_image_model()
    kinds = kinds_of(model)
    expected = {n for n, _ in model.named_parameters() if kinds[n].kind == "norm" or n.startswith("timm_model.fc")}
    assert seen[0] == expected and seen[1] == {n for n, _ in model.named_parameters()}


def test_refusals(tmp_path, untrained, downstream):
    with pytest.raises(ValueError, match="two arms and two seeds"):
        compare({"naive": untrained["naive"]}, downstream["train"], tmp_path)
    with pytest.raises(FileNotFoundError, match="Arm 'nobody/nothing'"):
        compare({"naive": untrained["naive"], "other": "nobody/nothing"}, downstream["train"], tmp_path)
    with pytest.raises(ValueError, match="Give a test_dataset"):
        compare(untrained, downstream["train"], tmp_path)


MODULE = """
import datasets
import evaluate


class Share(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        return {"wrong": sum(p != r for p, r in zip(predictions, references)) / len(references)}
"""


@pytest.mark.slow
def test_a_local_metric_module(tmp_path, starts, downstream, compared):
    (tmp_path / "wrong.py").write_text(MODULE)
    result = compare(
        {name: starts[name] for name in ("naive", "scrambled")}, downstream["train"], tmp_path / "out",
        test_dataset=downstream["test"], protocol=replace(FEW, metric=str(tmp_path / "wrong.py")),
        learning_rates=(3e-3,), seeds=2,
    )  # fmt: skip
    for seed in (0, 1):  # the same runs, judged otherwise
        assert result.fine_tunings["naive", 3e-3, seed]["test"] == pytest.approx(
            1 - compared.fine_tunings["naive", 3e-3, seed]["test"]
        )
    assert "Test wrong in percent" in comparison_markdown(result)
    with pytest.raises(FileNotFoundError, match="'f1' is neither 'accuracy' nor the path"):
        compare(starts, downstream["train"], tmp_path / "no", test_dataset=downstream["test"],
                 protocol=replace(FEW, metric="f1"))  # fmt: skip


@pytest.mark.slow
def test_some_arms_at_the_reference_rate_only(tmp_path, starts, downstream, compared):
    result = compare(
        {name: starts[name] for name in ("naive", "scrambled")}, downstream["train"], tmp_path, seeds=2,
        test_dataset=downstream["test"], protocol=FEW, learning_rates=(1e-3, 3e-3), one_rate=["scrambled"],
    )  # fmt: skip
    assert result.rates("scrambled") == [result.chosen_rates["naive"]] and len(result.rates("naive")) == 2
    run = ("scrambled", result.chosen_rates["naive"], 0)
    assert result.fine_tunings[run]["test"] == compared.fine_tunings[run]["test"]
    loaded = ComparisonResult.load(tmp_path)
    assert (loaded.fine_tunings, loaded.arms, loaded.learning_rates) == (
        result.fine_tunings,
        result.arms,
        result.learning_rates,
    )
    assert comparison_markdown(loaded) == comparison_markdown(result)


@pytest.mark.slow
def test_given_validation_data_are_not_trained_on(tmp_path, starts, downstream):
    halves = downstream["train"].train_test_split(test_size=0.5, seed=0)
    result = compare(
        {name: starts[name] for name in ("naive", "scrambled")}, halves["train"], tmp_path, seeds=2,
        validation_dataset=halves["test"], test_dataset=halves["test"], learning_rates=(1e-3,),
        protocol=replace(FEW, examples=None, new_head=True),
    )  # fmt: skip
    assert all(run["test"] == run["validation"] for run in result.fine_tunings.values())


def test_the_arms_own_head_may_stay(untrained):
    columns = Columns("image-classification", ["image"], "label", list("abcdefg"))
    kept = load_with_new_head(untrained["naive"], columns, 0, new_head=False).timm_model.fc.weight
    stored = Checkpoint(untrained["naive"]).read("timm_model.fc.weight")
    assert torch.equal(kept.flatten(), stored)


def test_text_arms(tmp_path, text_model_folder, sentences):
    result = compare(
        {"naive": text_model_folder, "same": text_model_folder}, sentences, tmp_path, test_dataset=sentences,
        protocol=Protocol(1, 2, 8, 24, 16, 2), learning_rates=(1e-3,), seeds=2,
    )  # fmt: skip
    assert result.against("same", "naive").mean == 0


@pytest.mark.slow
def test_command_line(tmp_path, image_run, image_data_folder, capsys):
    fast = [
        "--dataset", image_data_folder, "--seeds", 2, "--learning-rates", "1e-3", "--head-epochs", 1, "--epochs", 2,
        "--metric", "accuracy", "--batch-size", 16, "--examples", 64, "--validation-examples", 32,
    ]  # fmt: skip
    root, out = image_run.trajectory.root, tmp_path / "run"
    main([str(a) for a in ["compare", "--trajectory", root, "--output-dir", out, "--steps", 1, *fast]])
    text = capsys.readouterr().out
    assert "| known/x2 " in text and "| shrink/x2 " in text and "inside training steps" in text
    assert json.loads((out / "transfer.json").read_text())["protocol"]["examples"] == 64
    main(["compare", "--config", str(out / "run.yaml")])
    again = capsys.readouterr().out
    assert again.split("% of the time")[0].splitlines()[:-1] == text.split("% of the time")[0].splitlines()[:-1]
    arms = ["--arms", f"naive={root / 'stage-0'}", f"forgotten={root / 'stage-4'}"]
    other = ["--train-split", "test", "--test-split", "train[:40]", "--keep-head", "--evaluations", 1]
    few = [*fast, "--examples", 16, "--validation-examples", 8]
    main([str(a) for a in ["transfer", *arms, "--trajectory", root, "--method", "mean", "--steps", 1,
                           "--output-dir", tmp_path / "more", *few, *other]])  # fmt: skip
    text = capsys.readouterr().out
    settings = json.loads((tmp_path / "more" / "transfer.json").read_text())
    assert (settings["train"]["examples"], settings["test"]["examples"]) == (32, 40), "the splits asked for"
    assert settings["protocol"]["new_head"] is False and settings["protocol"]["evaluations"] == 1
    assert all(f"| {name} " in text for name in ("naive", "forgotten", "mean/x2"))
    with pytest.raises(SystemExit) as ended:
        main(["transfer", "--arms", "stage-0", "--dataset", "d", "--output-dir", "o"])
    assert ended.value.code == 2 and "expected NAME=FOLDER" in capsys.readouterr().err


@pytest.mark.parametrize("head_rate", [5e-4, None])
def test_head_and_norms_are_trained_at_their_own_constant_rate(tmp_path, untrained, head_rate, monkeypatch):
    seen = []

    class Watched(LeanTrainer):
        def training_step(self, *args, **kwargs):
            seen.append(round(self.optimizer.param_groups[0]["lr"], 12))
            return super().training_step(*args, **kwargs)

    monkeypatch.setattr("know_hf.laboratory.protocol.LeanTrainer", Watched)
    columns = Columns("image-classification", ["image"], "label", ["7", "8", "9"])
    pool = Examples({"pixel_values": torch.randn(48, 1, 16, 16), "labels": torch.arange(48) % 3})
    own = {"lr_scheduler_type": "linear"}  # of the epochs with everything
    protocol = Protocol(2, 1, 8, 16, 32, 1, head_learning_rate=head_rate, training_arguments=tuple(own.items()))
    fine_tune(untrained["naive"], pool, pool, columns, 2e-3, 0, protocol, tmp_path)
    decaying = [round(2e-3 * (1 - step / 4), 12) for step in range(4)]
    assert seen[:4] == ([5e-4] * 4 if head_rate else decaying) and seen[4:] == [2e-3, 1e-3]


@pytest.mark.slow
def test_a_comparison_that_knew_no_rate_of_heads_is_continued_as_it_began(tmp_path, starts, downstream):
    def again(seeds: int, protocol: Protocol) -> ComparisonResult:
        return compare(
            {name: starts[name] for name in ("naive", "scrambled")}, downstream["train"], tmp_path / "out",
            test_dataset=downstream["test"], protocol=protocol, learning_rates=(3e-3,), seeds=seeds,
        )  # fmt: skip

    short = replace(FEW, epochs=1, evaluations=1)
    again(2, replace(short, head_learning_rate=None))
    path = tmp_path / "out" / "transfer.json"
    former = json.loads(path.read_text())
    assert former["protocol"].pop("head_learning_rate") is None
    path.write_text(json.dumps(former))
    continued = again(3, short)
    assert json.loads(path.read_text())["protocol"]["head_learning_rate"] is None
    shutil.rmtree(tmp_path / "out")
    expected = again(3, replace(short, head_learning_rate=None))
    tests = [{key: run["test"] for key, run in result.fine_tunings.items()} for result in (continued, expected)]
    assert tests[0] == tests[1]
    with pytest.raises(TrajectoryError, match="another comparison \\(different protocol\\)"):
        again(3, short)
