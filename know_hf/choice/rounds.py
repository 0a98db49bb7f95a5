"""Trains stage 0 in rounds, until examples set aside show no gain, before anything is forgotten.

Forgetting from a Θ⁰ that is not trained to its end shows training, not what data are worth, and training on is the
better use of the same time. Every round is a whole ordinary training with the arguments of the run and a schedule of
its own, in ``rounds/round-<i>``, from the weights of the last that gained.
"""

import json
import logging
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

from know_hf.choice.losses import LossParts
from know_hf.choice.rule import judge
from know_hf.choice.scoring import Answers, answer, judged_by, predict
from know_hf.forgetting.beside import another_run
from know_hf.forgetting.checks import check_sizes
from know_hf.forgetting.folder import RunFolder
from know_hf.forgetting.stages import stage_sizes
from know_hf.forgetting.start import FIELD, check_start, describe_start, save_given
from know_hf.forgetting.weights import load_weights
from know_hf.reading import read_fields
from know_hf.store import inside, remove, write_json
from know_hf.training.set_aside import NEEDED
from know_hf.trajectory import TrajectoryError, TrajectoryRecord
from know_hf.trajectory.identity import as_told, describe_dataset, describe_recipe
from know_hf.trajectory.record import FILE_NAME
from know_hf.trajectory.rounds import Rounds

logger = logging.getLogger(__name__)

#: Of a run's folder, where the rounds lie.
FOLDER = "rounds"
_RECORD = "rounds.json"
_FORM = {"of": dict, "scores": list[float | None], "chances": list[float | None], "steps": list[int | None],
         "kept": int, "ended": str | None, "losses": list[float | None] | None, FIELD: str | None}  # fmt: skip
_RECIPE = "once_more"
# Seeds of rounds lie so far apart, so that none repeats the order of another's epochs.
_APART = 1000


def train_converged(trainer: Any, most: int) -> None:
    """Trains stage 0 in rounds, then forgets from what they came to. Killed and called again, it continues.

    Args:
        trainer: A ForgettingTrainer that has not been trained, with examples set aside.
        most: Number of rounds at most.

    Raises:
        TrajectoryError: If the folder holds another run, or training diverged.
        ValueError: If there is nothing to judge by: no examples set aside, or no score that decides.
    """
    check_convergence(trainer)
    args, trained = trainer.args, bool(trainer.args.train_stage_zero)
    trainer.rounds = _Run(trainer, most).run()
    args.train_stage_zero = False  # it has been
    try:
        trainer.train()
    finally:
        args.train_stage_zero, trainer.rounds = trained, None
    if trainer.is_world_process_zero():  # Θ⁰ lies in the run's own folder now
        for path in inside(args.output_dir, FOLDER).glob("round-*"):
            remove(path)
    trainer.accelerator.wait_for_everyone()


def check_convergence(trainer: Any) -> None:
    """Looks, before anything is trained, whether convergence can be judged and the run be continued.

    Raises:
        TrajectoryError: If the folder holds a run that was begun otherwise.
        ValueError: If there are no examples set aside, or an average of stage 0 is asked for.
    """
    args, aside, asked = trainer.args, trainer.set_aside, "until_converged (--until_converged)"
    if aside.dataset is None:
        size = len(trainer.train_dataset)
        if aside.how == "none":
            why = "none are"
            advice = "leave choose at 'best' without choose_on, or say with selection_split= how many or which"
        else:
            why = f"of {size:,} training examples none are by default"
            advice = (
                f"set selection_split= to a number (from {NEEDED}) or to other data, give more data, or leave it out "
                "and train longer (num_train_epochs)"
            )
        raise ValueError(f"{asked} judges by examples set aside, and {why}: {advice}.")
    if args.average_stage_zero is not None:
        raise ValueError(
            f"{asked} and average_stage_zero={args.average_stage_zero!r} do not go together: the rounds record no "
            "averages. Leave one of them out."
        )
    root = Path(args.output_dir)
    if (root / FILE_NAME).exists() and Rounds.of(TrajectoryRecord.load(root).recipe) is None:
        raise TrajectoryError(
            f"{root} holds a run that was begun without until_converged: choose another output_dir, or leave it out to "
            "continue that run."
        )
    check_sizes(stage_sizes(trainer.train_dataset, args), args, trainer.model)


class _Run:
    """The rounds of one run, continued where an earlier process left them.

    Args:
        trainer: The run's trainer.
        most: Number of rounds at most.
    """

    def __init__(self, trainer: Any, most: int) -> None:
        self.trainer, self.most = trainer, most
        self.root = inside(trainer.args.output_dir, FOLDER)
        self.trained = bool(trainer.args.train_stage_zero)
        self.selection = trainer.set_aside.dataset
        self.state = self._begun()

    def run(self) -> Rounds:
        """Trains what is missing; the model ends with the weights to forget from."""
        trainer, state = self.trainer, self.state
        measured = judged_by(trainer, predict(trainer, self.selection)[0], len(self.selection))
        if measured is None:
            raise ValueError(
                "until_converged finds no score to judge the rounds by: name one with metric_for_best_model, give "
                "compute_metrics, or use a model that returns a loss."
            )
        deciding, measure = measured
        known: tuple[int, Answers] | None = None
        losses = LossParts(trainer, self.selection)

        def answers_of(index: int) -> Answers:
            load_weights(trainer.model, self.weights(index))
            return answer(trainer, self.selection, measure, losses)

        while state["ended"] is None:
            index, kept = len(state["scores"]), state["kept"]
            steps = self._make(index)
            own, chance, better, lower = answers_of(index), None, True, None
            if index and (known is None or known[0] != kept or known[1].way != own.way):
                known = kept, answers_of(kept)
                if own.way != losses.way:  # which that one showed to be wrong
                    own = answers_of(index)
            if known is not None:
                name, gains = judge("before", {"before": known[1], "after": own}, measure, longer=("after",))
                chance, better = gains["after"].chance, name == "after"
                lower = gains["after"].loss if better and gains["after"].by_loss else None
            value = own.scores[measure.metric]
            state["scores"].append(value if math.isfinite(value) else None)
            state["chances"].append(chance)
            state["steps"].append(steps)
            state["losses"].append(lower)
            known = (index, own) if better else known
            state["kept"] = index if better else kept
            if not better:
                state["ended"] = "converged"
            elif index + self.trained >= self.most:
                state["ended"] = "budget"
            by_loss = "" if lower is None else f", and the loss is {lower:.3g} lower"
            logger.info("%s: %s %s%s.", self._name(index), deciding.name, deciding.shown(value), by_loss)
            self._save(leftover=kept if better else index)
        if self.weights(state["kept"]).is_dir():
            load_weights(trainer.model, self.weights(state["kept"]))
        return Rounds(
            measure.metric, deciding.name, deciding.score.percent, len(self.selection), state["scores"],
            state["chances"], state["steps"], state["kept"], self.trained, state["ended"] == "converged",
            state["losses"],
        )  # fmt: skip

    def weights(self, index: int) -> Path:
        """Where the weights lie that a round ended with."""
        return RunFolder(self.root / f"round-{index}").stage(0)

    def _name(self, index: int) -> str:
        return f"Round {index + self.trained} of at most {self.most}" if index + self.trained else "Stage 0 as given"

    def _begun(self) -> dict[str, Any]:
        """What earlier processes came to."""
        args, own = self.trainer.args, self.trainer
        content = {
            "most": self.most, "recipe": describe_recipe(args), "train": describe_dataset(own.train_dataset),
            "selection": describe_dataset(self.selection),
        }  # fmt: skip
        about = json.loads(json.dumps(content, default=str))
        fresh = {"of": about, "scores": [], "chances": [], "steps": [], "losses": [], "kept": 0, "ended": None}
        with suppress(FileNotFoundError):
            found = read_fields(self.root / _RECORD, _FORM)
            told = as_told(found["of"], about)
            if found["of"] != told:
                different = [name for name in told if found["of"].get(name) != told[name]]
                raise TrajectoryError(
                    f"{self.root} holds rounds of another run (different {', '.join(different)}): choose another "
                    "output_dir, or repeat the settings to continue that run."
                )
            # What was not always written down.
            found["losses"] = found.get("losses") or [None] * len(found["scores"])
            # The weights go once the forgetting has them.
            if self.weights(found["kept"]).is_dir() or RunFolder(args.output_dir).stage(0).is_dir():
                return found
            check_start(own, args.output_dir, found.get(FIELD))
        return fresh

    def _make(self, index: int) -> int | None:
        """Trains a round, or saves the model as it was given; its steps."""
        trainer, folder = self.trainer, self.weights(index)
        if not index and not self.trained:
            self.state |= describe_start(trainer)
            if not folder.is_dir():
                save_given(trainer, folder)
            trainer.accelerator.wait_for_everyone()
            return None
        if index:
            load_weights(trainer.model, self.weights(self.state["kept"]))
        logger.info("%s.", self._name(index))
        seed = (trainer.args.seed + _APART * index) % 2**32
        with another_run(trainer, folder.parent, _RECIPE, known_start=index > 0, seed=seed):
            trainer.train()
        record = TrajectoryRecord.load(folder.parent)
        if not index and FIELD in record.model:
            self.state[FIELD] = record.model[FIELD]
        return record.stages[0].steps

    def _save(self, leftover: int) -> None:
        """Writes down what the rounds came to, then deletes the weights that nothing starts from any more."""
        if self.trainer.is_world_process_zero():
            write_json(self.root / _RECORD, self.state)
            if leftover != self.state["kept"]:
                remove(self.root / f"round-{leftover}")
        self.trainer.accelerator.wait_for_everyone()
