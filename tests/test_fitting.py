"""Fitting the best point of a trajectory's own subspace: gradients, gains, continuation, refusals."""

import json
from pathlib import Path

import pytest
import torch
from conftest import run_cli

from know_hf import enrich
from know_hf.choice.candidates import FitData, fitted
from know_hf.enrichment.selection import select
from know_hf.enrichment.stream import Enrichment
from know_hf.fitting import fit as module
from know_hf.fitting.fit import fit, planned_steps
from know_hf.fitting.options import Fitting
from know_hf.fitting.subspace import Subspace
from know_hf.forgetting.making import make_trainer
from know_hf.forgetting.weights import load_weights
from know_hf.retrodiction.subspace import combined
from know_hf.trajectory import Checkpoint, Trajectory, TrajectoryError


@pytest.fixture(scope="module")
def trainer(tmp_path_factory, image_model_folder, image_data_folder):
    made = make_trainer(
        image_model_folder, image_data_folder, tmp_path_factory.mktemp("fitting") / "run", num_stages=3,
        num_train_epochs=2, per_device_train_batch_size=16, learning_rate=5e-3, train_stage_zero=True,
    )  # fmt: skip
    made.train()
    return made


@pytest.fixture(scope="module")
def predicted(trainer):
    from accelerate import PartialState

    return select(trainer.trajectory, PartialState(cpu=True))[0]


@pytest.mark.slow
def test_slopes_are_those_of_finite_differences(trainer, predicted):
    trajectory = trainer.trajectory
    load_weights(trainer.model, trajectory.checkpoints[0].folder)
    subspace = Subspace(trainer.model, trajectory, dict(predicted))
    trainer.model.double().eval()
    batch = {
        name: value.double() if value.is_floating_point() else value
        for name, value in trainer._prepare_inputs(
            trainer.data_collator([trainer.train_dataset[i] for i in range(8)])
        ).items()
    }

    def loss(coefficients):
        subspace.put(coefficients)
        return trainer.compute_loss(trainer.model, batch)

    here = subspace.zeros + 0.1
    trainer.model.zero_grad()
    loss(here).backward()
    slopes = subspace.slopes()
    for row, column in ((0, 0), (1, 1), (2, 2)):
        ahead = here.clone()
        ahead[row, column] += 1e-4
        behind = here.clone()
        behind[row, column] -= 1e-4
        measured = float(loss(ahead).detach() - loss(behind).detach()) / 2e-4
        assert slopes[row, column] == pytest.approx(measured, rel=2e-2, abs=1e-5)
    trainer.model.float()


def test_a_fit_is_better_on_its_data_and_the_writer_makes_the_same(trainer, predicted, tmp_path):
    trajectory, data = trainer.trajectory, trainer.train_dataset
    made = fit(trainer, trajectory, predicted, data, tmp_path / "fitted.json", fitting=Fitting(fit_steps=40))
    assert made.record["steps"] == 40 and made.furthest > 0.01
    assert sum(made.record["losses"][-5:]) < sum(made.record["losses"][:5])
    written = enrich(trajectory, tmp_path / "out", method="fitted", steps=1, parameters={"coefficients": made.table})
    weights = Checkpoint(written.checkpoints["x2"]).tensors
    for name, row in made.table.items():
        expected = combined(trajectory.read(name), row)
        assert torch.allclose(Checkpoint(written.checkpoints["x2"]).read(name), expected, rtol=1e-6, atol=1e-8)
    assert weights.keys() == trajectory.tensors.keys()
    live = trainer.model.state_dict()
    stage_zero = Checkpoint(trajectory.checkpoints[0].folder)
    assert all(torch.equal(live[name].reshape(-1), stage_zero.read(name)) for name in predicted)  # ends as Θ^0


def test_killed_and_continued_gives_the_same_bytes(trainer, predicted, tmp_path, monkeypatch):
    trajectory, data, asked = trainer.trajectory, trainer.train_dataset, Fitting(fit_steps=25)
    whole = tmp_path / "whole.json"
    fit(trainer, trajectory, predicted, data, whole, fitting=asked)

    def dies(trainer, subspace, batches, step):
        if step == 17:
            raise KeyboardInterrupt
        return backward(trainer, subspace, batches, step)

    backward = module._backward
    part = tmp_path / "part.json"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(module, "_backward", dies)
        fit(trainer, trajectory, predicted, data, part, fitting=asked)
    assert not part.exists() and json.loads(part.with_suffix(".state.json").read_text())["step"] == 10
    fit(trainer, trajectory, predicted, data, part, fitting=asked)
    assert part.read_bytes() == whole.read_bytes() and not part.with_suffix(".state.json").exists()
    with pytest.raises(TrajectoryError, match="another fit"):
        fit(trainer, trajectory, predicted, data, part, fitting=Fitting(fit_steps=26))


def other_tensors(predicted):
    return dict(list(predicted.items())[1:])


@pytest.mark.parametrize("change", ["tensors", "kinds", "loss", "batches"])
def test_a_fit_of_something_else_is_another(trainer, predicted, tmp_path, monkeypatch, change):
    trajectory, data, place = trainer.trajectory, trainer.train_dataset, tmp_path / "fitted.json"
    asked = Fitting(fit_steps=2, fit_groups="kind" if change == "kinds" else "tensor")
    made = fit(trainer, trajectory, predicted, data, place, fitting=asked)
    before = place.read_bytes()
    assert fit(trainer, trajectory, predicted, data, place, fitting=asked).table == made.table
    wanted = predicted
    if change == "tensors":  # as with other kinds, or norms="bias"
        wanted = other_tensors(predicted)
    elif change == "kinds":
        wanted = dict.fromkeys(predicted, "fc")
    elif change == "loss":
        monkeypatch.setattr(
            trainer, "compute_loss_func", lambda outputs, labels, **more: outputs["logits"].square().sum()
        )
    else:
        monkeypatch.setattr(trainer.args, "per_device_train_batch_size", 8)
    with pytest.raises(
        TrajectoryError, match=f"another fit .different {'tensors' if change in ('tensors', 'kinds') else 'loss'}"
    ):
        fit(trainer, trajectory, wanted, data, place, fitting=asked)
    assert place.read_bytes() == before
    again = fit(trainer, trajectory, wanted, data, place, fitting=asked, anew=True)
    fresh = fit(trainer, trajectory, wanted, data, tmp_path / "fresh.json", fitting=asked)
    assert again.table == fresh.table != made.table and again.table.keys() == wanted.keys()


def test_an_unfinished_fit_of_other_tensors_is_not_continued(trainer, predicted, tmp_path, monkeypatch):
    trajectory, data, asked = trainer.trajectory, trainer.train_dataset, Fitting(fit_steps=12)

    def dies(trainer, subspace, batches, step):
        if step == 11:
            raise KeyboardInterrupt
        return backward(trainer, subspace, batches, step)

    backward, part, fewer = module._backward, tmp_path / "part.json", other_tensors(predicted)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(module, "_backward", dies)
        fit(trainer, trajectory, predicted, data, part, fitting=asked)
    state = part.with_suffix(".state.json")
    left = json.loads(state.read_text())
    made = fit(trainer, trajectory, fewer, data, part, fitting=asked)
    fresh = fit(trainer, trajectory, fewer, data, tmp_path / "fresh.json", fitting=asked)
    assert made.table == fresh.table and made.record["losses"] == fresh.record["losses"]
    # One whose rows are not as many as it says, or that lacks something, is none.
    for broken in ({"coefficients": left["coefficients"][1:]}, {"first": None}, {"best": [[0.0], [0.0, 1.0]]}):
        part.unlink(missing_ok=True)
        state.write_text(json.dumps({**left, **broken}))
        fit(trainer, trajectory, predicted, data, part, fitting=asked)
        assert json.loads(part.read_text())["steps"] == 12


def test_stages_from_the_disk_give_the_same_bytes(trainer, predicted, tmp_path):
    made = [
        fit(trainer, trainer.trajectory, predicted, trainer.train_dataset, tmp_path / name, keep=keep,
            fitting=Fitting(fit_steps=5))
        for name, keep in (("kept.json", 1 << 30), ("read.json", 0))
    ]  # fmt: skip
    assert made[0].table == made[1].table


def test_the_scale_may_be_left_out(trainer, predicted, tmp_path):
    asked = Fitting(fit_steps=5, fit_scale=False, fit_groups="kind")
    made = fit(trainer, trainer.trajectory, predicted, trainer.train_dataset, tmp_path / "f.json", fitting=asked)
    assert all(row[-1] == 0 for row in made.table.values())
    assert len({tuple(row) for row in made.table.values()}) == len(set(predicted.values()))


def test_at_most_a_twentieth_of_the_steps(trainer):
    taken = sum(stage.steps for stage in trainer.trajectory.record.stages)
    assert planned_steps(trainer.trajectory, Fitting()) == max(1, taken // 20)


def test_coefficients_of_another_model_are_refused(trainer, predicted, tmp_path):
    first = next(iter(predicted))
    for table, match in (
        ({"elsewhere": [0.0, 0.0, 0.0]}, "another model"), ({first: [0.0]}, "another trajectory"), ({}, "is empty"),
        ({first: [0.0, 0.0, 0.0], "elsewhere": [0.0, 0.0, 0.0]}, "1 of 2 are not"),
    ):  # fmt: skip
        with pytest.raises(TrajectoryError, match=match):
            enrich(trainer.trajectory, tmp_path, method="fitted", steps=1, parameters={"coefficients": table})
    assert not list(tmp_path.iterdir())


def test_a_fit_of_one_step_goes_somewhere(trainer, predicted, tmp_path):
    found = fit(trainer, trainer.trajectory, predicted, trainer.train_dataset, str(tmp_path / "fitted.json"),
                fitting=Fitting(fit_steps=1))  # fmt: skip
    assert found.record["steps"] == 1 and found.furthest > 0
    (tmp_path / "fitted.json").write_text("{ damaged")
    with pytest.raises(TrajectoryError, match="delete it"):
        fit(trainer, trainer.trajectory, predicted, trainer.train_dataset, tmp_path / "fitted.json")
    again = fit(trainer, trainer.trajectory, predicted, trainer.train_dataset, tmp_path / "fitted.json",
                fitting=Fitting(fit_steps=1), anew=True)  # fmt: skip
    assert again.table == found.table


@pytest.fixture(scope="module")
def own_fit(trainer):
    """What a run leaves behind that was fitted for its choice."""
    made = fitted(trainer, Enrichment(trainer.trajectory), FitData("", trainer.train_dataset), Fitting(fit_steps=3))
    return Path(trainer.args.output_dir) / "choice" / "fitted.json", made.coefficients


def test_the_fit_of_a_run_is_found_there(trainer, own_fit, tmp_path):
    run, (file, made) = Path(trainer.args.output_dir), own_fit
    run_cli("predict", run, "--method", "fitted", "--steps", 1, "--output-dir", tmp_path / "found")
    stages = [checkpoint.folder for checkpoint in trainer.trajectory.checkpoints]
    run_cli(
        "predict", *stages, "--method", "fitted", "--steps", 1, "--parameters", f"coefficients={file}",
        "--output-dir", tmp_path / "given",
    )  # fmt: skip
    content = json.loads(file.read_text())
    for number, given in enumerate((content, content["coefficients"], made, str(file), file)):
        enrich(run, tmp_path / str(number), method="fitted", steps=1, parameters={"coefficients": given})
    first, *others = sorted(tmp_path.glob("*/x2/model.safetensors"))
    assert len(others) == 6 and all(other.read_bytes() == first.read_bytes() for other in others)
    assert Checkpoint(first.parent).read(next(iter(made.table))) is not None
    described = json.loads((tmp_path / "found" / "x2" / "enrichment.json").read_text())
    assert described["parameters"] == {"coefficients": made.table}


def test_coefficients_of_another_run_with_the_same_names_are_refused(trainer, own_fit, tmp_path):
    file, made = own_fit
    stages = [checkpoint.folder for checkpoint in trainer.trajectory.checkpoints]
    exchanged = Trajectory.from_checkpoints([stages[0], stages[2], stages[1]])
    for given in (file, str(file), json.loads(file.read_text()), made):
        with pytest.raises(TrajectoryError, match="fitted to other stages .stage 1 was another"):
            enrich(exchanged, tmp_path / "out", method="fitted", steps=1, parameters={"coefficients": given})
    with pytest.raises(TrajectoryError, match="other stages .3, and here are 2"):
        enrich(
            Trajectory.from_checkpoints(stages[:2]), tmp_path / "out", method="fitted", steps=1,
            parameters={"coefficients": file},
        )  # fmt: skip
    assert not (tmp_path / "out").exists()
    # Who passes the table alone insists.
    enrich(exchanged, tmp_path / "out", method="fitted", steps=1, parameters={"coefficients": made.table})
    copied = {next(iter(made.table)): "copy"}
    with pytest.raises(TrajectoryError, match="as it was for the fit"):
        enrich(trainer.trajectory, tmp_path / "fewer", method="fitted", steps=1, kinds=copied)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{}", "coefficients must be"),
        ("nothing", "cannot be read"),
        (None, "is missing"),
        ('{"coefficients": 3}', "must be"),
    ],
)
def test_a_file_that_holds_no_coefficients(trainer, tmp_path, content, said):
    file = tmp_path / "file.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(TrajectoryError, match=f"file.json.*{said}.*give a file that a fit made"):
        enrich(trainer.trajectory, tmp_path / "out", method="fitted", parameters={"coefficients": file})


def test_other_tensors_of_equal_number_are_another_prediction(trainer, predicted, tmp_path):
    kernels = [name for name, kind in predicted.items() if kind == "conv"][:2]
    assert len(kernels) == 2
    enrich(trainer.trajectory, tmp_path, method="shrink", steps=1, kinds={kernels[0]: "copy"})
    enrich(trainer.trajectory, tmp_path, method="shrink", steps=1, kinds={kernels[0]: "copy"})
    with pytest.raises(FileExistsError, match="different tensors"):
        enrich(trainer.trajectory, tmp_path, method="shrink", steps=1, kinds={kernels[1]: "copy"})
    # Folders of before do not tell.
    file = next(tmp_path.glob("*/enrichment.json"))
    content = json.loads(file.read_text())
    del content["tensors"]
    file.write_text(json.dumps(content))
    enrich(trainer.trajectory, tmp_path, method="shrink", steps=1, kinds={kernels[0]: "copy"})


def test_without_model_and_data(trainer, tmp_path):
    stages = Trajectory.from_checkpoints([checkpoint.folder for checkpoint in trainer.trajectory.checkpoints])
    with pytest.raises(ValueError, match="fitted with a model and data.*choice/fitted.json of its run"):
        enrich(stages, tmp_path / "out", method="fitted")
    with pytest.raises(ValueError, match="line search with a model and data"):
        enrich(trainer.trajectory, tmp_path / "out", method="damped")
    assert not Path(tmp_path / "out").exists()
