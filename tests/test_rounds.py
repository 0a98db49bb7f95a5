"""Stage 0 trained in rounds before anything is forgotten: how many, what is kept, what is said, what is refused."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import QUICK, run_cli, slow, tiny_image_model
from datasets import Dataset
from safetensors.torch import load_file
from test_best import named
from test_trainer import KillAt, Killed
from transformers import default_data_collator

from know_hf import ForgettingArguments, ForgettingTrainer, enrich_pretrained
from know_hf.choice import rounds as module
from know_hf.choice.rounds import train_converged
from know_hf.choice.rule import Gain
from know_hf.enrichment.verdict import verdict
from know_hf.forgetting.making import make_trainer
from know_hf.reading import read_fields
from know_hf.report.run import round_rows
from know_hf.training.set_aside import SetAside
from know_hf.trajectory import TrajectoryError, TrajectoryRecord
from know_hf.trajectory.rounds import Rounds

#: Learns slowly enough that a round shows, fast enough that some rounds are enough.
SLOWLY = {**QUICK, "learning_rate": 4e-3, "num_train_epochs": 2, "lr_scheduler_type": "cosine", "num_stages": 2}
SPLIT = 60


def make(folder, images, model=None, **settings):
    settings = {**SLOWLY, "train_stage_zero": True, "selection_split": SPLIT, **settings}
    return make_trainer(tiny_image_model() if model is None else model, images, folder, **settings)


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(next(Path(folder).glob("*.safetensors")))


def equal(one, other) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def rounds_of(folder) -> Rounds:
    found = Rounds.of(TrajectoryRecord.load(folder).recipe)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def under_trained(tmp_path_factory, images):
    """A run whose budget of two rounds ends it."""
    folder = tmp_path_factory.mktemp("rounds") / "run"
    train_converged(make(folder, images), 2)
    return folder


@pytest.fixture(scope="module")
def converged(tmp_path_factory, images):
    """Folder of a network that gets nothing from a further training at a tiny rate."""
    folder = tmp_path_factory.mktemp("converged")
    trainer = make(folder / "run", images, num_train_epochs=12)
    trainer.train()
    return folder / "run" / "stage-0"


def test_an_under_trained_start_gets_rounds_within_the_budget(under_trained, images):
    found, record = rounds_of(under_trained), TrajectoryRecord.load(under_trained)
    assert found.count == 2 and found.kept == 1 and not found.converged and found.trained
    assert found.scores[1] > found.scores[0] and found.chances[0] is None and found.chances[1] <= 0.1
    assert found.examples == SPLIT and record.dataset["set_aside"]["examples"] == SPLIT
    assert record.stages[0].steps == sum(found.steps) == 2 * found.steps[0] and record.recipe["train_stage_zero"]
    assert [stage.finished for stage in record.stages] == [True, True]
    assert [path.name for path in (under_trained / "rounds").iterdir()] == ["rounds.json"]
    assert "trained for 2 rounds, all that --converge_rounds allows" in found.words


def test_rounds_begin_with_the_ordinary_training_and_follow_one_another(images, tmp_path, monkeypatch):
    kept = {}
    monkeypatch.setattr(module, "remove", lambda path: kept.setdefault(path.name, weights(path / "stage-0")))
    trainer = make(tmp_path / "rounds", images)
    train_converged(trainer, 2)
    make(tmp_path / "plain", images).train()
    assert equal(weights(tmp_path / "plain" / "stage-0"), kept["round-0"])
    assert equal(weights(tmp_path / "rounds" / "stage-0"), kept["round-1"])
    assert not equal(kept["round-0"], kept["round-1"])
    assert trainer.args.train_stage_zero and trainer.args.recipe == "forgetting" and trainer.args.seed == 42
    assert trainer.args.output_dir == str(tmp_path / "rounds") and trainer.rounds is None


@pytest.mark.slow
def test_a_converged_model_stops_after_one_round_and_stays_what_it_was(converged, images, tmp_path):
    trainer = make(tmp_path, images, converged, train_stage_zero=False, learning_rate=1e-7)
    train_converged(trainer, 5)
    found = rounds_of(tmp_path)
    assert found.count == 1 and found.kept == 0 and found.converged and not found.trained
    assert found.steps[0] is None and found.names == ["as given", "round 1"]
    assert equal(weights(tmp_path / "stage-0"), weights(converged))
    record = TrajectoryRecord.load(tmp_path)
    assert record.stages[0].steps is None and record.recipe["train_stage_zero"] is False
    assert found.words.startswith("Stage 0 was trained for 1 round until accuracy on the 60 examples set aside")
    assert found.words.endswith("Θ⁰ is the model as it was given.")


@pytest.mark.slow
def test_the_last_round_that_gained_is_kept(converged, images, tmp_path):
    train_converged(make(tmp_path, images, converged, learning_rate=1e-7), 5)
    found = rounds_of(tmp_path)
    assert found.count == 2 and found.kept == 0 and found.converged and found.trained
    assert TrajectoryRecord.load(tmp_path).stages[0].steps == found.steps[0]
    assert "trained for 2 rounds until" in found.words and "Θ⁰ is the end of round 1" in found.words


@pytest.mark.parametrize("first", [False, *slow(True)])
def test_an_adapter_of_another_name_is_judged_by_its_loss(tmp_path, first):
    data = Dataset.from_dict(
        {"input_ids": [[1 + 20 * (i % 2), 2] for i in range(64)], "labels": [i % 2 for i in range(64)]}
    )
    torch.manual_seed(0)
    settings = {**SLOWLY, "learning_rate": 0.01, "num_train_epochs": 2, "train_stage_zero": first}
    trainer = ForgettingTrainer(
        model=named(), args=ForgettingArguments(str(tmp_path), **settings), train_dataset=data.select(range(40)),
        data_collator=default_data_collator,
    )  # fmt: skip
    trainer.set_aside = SetAside(data.select(range(40, 64)), "given")
    train_converged(trainer, 2)
    found = rounds_of(tmp_path)
    assert found.metric == "eval_loss" and not found.percent and found.scores[1] < found.scores[0]
    assert found.count == 2 and found.kept == 2 - first
    assert (tmp_path / "stage-0" / "adapter_model.safetensors").is_file()


class KillRound(KillAt):
    """Dies in the training of one round, or of one stage of the forgetting."""

    def __init__(self, where, step):
        super().__init__(0, step)
        self.where = where

    def on_step_end(self, args, state, control, **kwargs):
        if self.where in args.output_dir and state.global_step == self.step:
            raise Killed


DEATHS = ["round-1/training", "run/training/stage-1", "round-0/training", "answer", "_save", "remove"]


@pytest.mark.parametrize("death", [*DEATHS[:2], *slow(*DEATHS[2:])])
@pytest.mark.slow
def test_resumed_equals_uninterrupted(under_trained, images, tmp_path, monkeypatch, death):
    again = {"save_strategy": "steps", "save_steps": 2}
    with monkeypatch.context() as patched, pytest.raises(Killed):
        callbacks = None
        if "/" in death:
            callbacks = [KillRound(death, 5)]
        else:
            owner = module._Run if death == "_save" else module
            original, calls = getattr(owner, death), []

            def dies(*args, **kwargs):
                calls.append(args)
                if len(calls) == 2:
                    raise Killed
                return original(*args, **kwargs)

            patched.setattr(owner, death, dies)
        train_converged(make(tmp_path / "run", images, callbacks=callbacks, **again), 2)
    torch.manual_seed(99)  # a new process comes with other random numbers
    train_converged(make(tmp_path / "run", images, **again), 2)
    for name in ("stage-0", "stage-1"):
        assert equal(weights(tmp_path / "run" / name), weights(under_trained / name))
    assert rounds_of(tmp_path / "run") == rounds_of(under_trained)
    assert [path.name for path in (tmp_path / "run" / "rounds").iterdir()] == ["rounds.json"]
    before = (tmp_path / "run" / "trajectory.json").read_bytes()
    train_converged(make(tmp_path / "run", images, **again), 2)  # a finished one is left as it is
    assert (tmp_path / "run" / "trajectory.json").read_bytes() == before


def test_the_weights_of_stage_0_are_made_again_where_they_were_lost(under_trained, images, tmp_path):
    shutil.copytree(under_trained, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "stage-0")
    train_converged(make(tmp_path / "run", images), 2)
    assert equal(weights(tmp_path / "run" / "stage-0"), weights(under_trained / "stage-0"))


def test_another_run_is_refused_before_anything_is_trained(under_trained, images, tmp_path):
    with pytest.raises(TrajectoryError, match=r"rounds of another run \(different most\)"):
        train_converged(make(under_trained, images), 3)
    with pytest.raises(TrajectoryError, match=r"rounds of another run \(different recipe\)"):
        train_converged(make(under_trained, images, learning_rate=1e-5), 2)
    with pytest.raises(TrajectoryError, match="recipe.rounds was"):
        make(under_trained, images).train()
    make(tmp_path, images, num_train_epochs=1).train()
    with pytest.raises(TrajectoryError, match="begun without until_converged"):
        train_converged(make(tmp_path, images, num_train_epochs=1), 2)
    assert not (tmp_path / "rounds").exists()


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"choose": "none"}, "none are: leave choose at 'best' without choose_on, or say with selection_split="),
        ({"selection_split": None}, "of 160 training examples none are by default: set selection_split="),
        ({"average_stage_zero": "ema", "selection_split": SPLIT}, "average_stage_zero='ema' do not go together"),
    ],
)
def test_what_cannot_be_judged_is_refused_before_anything_is_trained(images, tmp_path, settings, match):
    with pytest.raises(ValueError, match=match):
        enrich_pretrained(
            tiny_image_model(), images, tmp_path / "run", until_converged=True, train_stage_zero=True,
            **{**SLOWLY, **settings},
        )  # fmt: skip
    assert not list((tmp_path / "run").glob("[!.]*"))


def test_without_a_score_that_decides(images, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "judged_by", lambda *_: None)
    with pytest.raises(ValueError, match="no score to judge the rounds by"):
        train_converged(make(tmp_path / "run", images), 2)
    assert not (tmp_path / "run" / "rounds").exists()


@pytest.mark.slow
def test_record_card_and_verdict_say_so(images, tmp_path):
    result = enrich_pretrained(
        tiny_image_model(), images, tmp_path / "run", eval_dataset=images.select(range(32)), until_converged=True,
        converge_rounds=2, selection_split=SPLIT, train_stage_zero=True, steps=1, fit_steps=1,
        **{**SLOWLY, "num_stages": 3},
    )  # fmt: skip
    found = rounds_of(tmp_path / "run")
    assert result.verdict.startswith(found.words) and found.words.startswith("Stage 0 was trained for 2 rounds")
    assert "or --until_converged)" not in result.verdict
    report = (result.report / "report.md").read_text()
    assert "## Rounds of stage 0" in report and "| round 2 |" in report and found.words in report
    for folder in (result.best, *result.checkpoints.values()):
        assert f"| rounds | {found.words} |" in (folder / "README.md").read_text()
    assert verdict(result, None).startswith(found.words)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"scores": "high"}, "scores must be a list"), ({"kept": 7}, "kept is 7"), ({"scores": []}, "as many"),
        ({"steps": [1]}, "as many"), ({"metric": 3}, "metric must be text"), ({"scores": [True, 1.0]}, "a number"),
    ],
)  # fmt: skip
def test_hostile_records_are_refused(under_trained, tmp_path, change, match):
    content = read_fields(under_trained / "trajectory.json", {})
    content["recipe"]["rounds"] |= change
    (tmp_path / "trajectory.json").write_text(json.dumps(content))
    with pytest.raises(TrajectoryError, match=match):
        TrajectoryRecord.load(tmp_path)


def test_scores_that_are_no_number_are_words():
    found = Rounds("eval_loss", "loss", False, 20, [None, 0.25], [None, 1.0], [3, 3], 0, True, True)
    assert "(not a number → 0.25)" in found.words and Rounds.of(json.loads(json.dumps(found.recorded))) == Rounds(
        "eval_loss", "loss", False, 20, [None, 0.25], [None, 1.0], [3, 3], 0, True, True
    )


@pytest.mark.slow
def test_two_processes_come_to_the_same_rounds(tmp_path, image_model_folder, image_data_folder):
    command = [
        "enrich", "--model", image_model_folder, "--dataset", image_data_folder, "--until_converged",
        "--converge_rounds", 2, "--choose", "none", "--selection_split", SPLIT, "--train_stage_zero", "True",
        "--num_stages", 2, "--num_train_epochs", 4, "--learning_rate", 4e-3, "--disable_tqdm", "True", "--steps", 1,
        "--save_strategy", "no",
    ]  # fmt: skip
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    run_cli(*command, "--per_device_train_batch_size", 16, "--output-dir", tmp_path / "one")
    two = run_cli(
        *command, "--per_device_train_batch_size", 8, "--output-dir", tmp_path / "two",
        launcher=launcher, env={"GLOO_SOCKET_IFNAME": "lo"},
    )  # fmt: skip
    found = [rounds_of(tmp_path / name) for name in ("one", "two")]
    assert found[0].steps == found[1].steps and found[0].examples == found[1].examples == SPLIT
    assert found[0].count == found[1].count == 2
    assert "Stage 0 was trained for 2 rounds" in two.stdout


def test_words_say_where_the_loss_decided():
    """Else a score that stays the same looks like no reason."""
    about = Rounds(
        "eval_accuracy", "accuracy", True, 60, [0.65, 0.65, 0.65], [None, 0.06, 0.49], [8, 8, 8], 1, True, True
    )
    told = replace(about, losses=[None, 0.0213, None])
    assert "round 2 was taken for its loss, 0.0213 lower beyond chance" in told.words and "loss" not in about.words
    assert "got no better, nor the loss lower, beyond chance (65.0 % → 65.0 % → 65.0 %; round 2" in told.words
    assert round_rows(told)[2][3] == "0.060 (loss)" and round_rows(told)[3][3] == "0.490"
    assert Rounds.of(json.loads(json.dumps(told.recorded))) == told
    # A record of a run in which it never did is what it always was.
    assert "losses" not in replace(about, losses=[None] * 3).recorded["rounds"] and Rounds.of(about.recorded) == about
    with pytest.raises(ValueError, match="scores and losses must be as many"):
        Rounds.of(replace(about, losses=[0.1]).recorded)


@pytest.mark.parametrize("decides", [True, False])
def test_rounds_remember_that_the_loss_decided(tmp_path, images, monkeypatch, decides):
    def gained(origin, answers, measure, longer=()):
        loss = {"loss": 0.25, "loss_chance": 0.01} if decides else {}
        return "after", {"after": Gain(0.5, 0.0 if decides else 0.1, 0.0, 0.0, 0.01, **loss)}

    monkeypatch.setattr(module, "judge", gained)
    train_converged(make(tmp_path / "run", images), 2)
    found = rounds_of(tmp_path / "run")
    assert found.by_loss == [False, decides]
    assert ("round 2 was taken for its loss, 0.25 lower" in found.words) == decides
