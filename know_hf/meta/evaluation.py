"""How well retrodiction does on held-out trials: how near it comes to a known stage, and what that is worth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from know_hf.known.predicting import Predicting
from know_hf.meta.data_set import MetaDataSet
from know_hf.meta.networks import NETWORKS
from know_hf.meta.shards import check_tensors
from know_hf.meta.trials import CONVERGED, STAGES
from know_hf.retrodiction import ALL, DEFAULT, get_method, retrodict
from know_hf.retrodiction.predictors import predictor_parameters
from know_hf.store import write_json, write_text
from know_hf.tables import rounded, table
from know_hf.training.examples import Examples
from know_hf.training.scoring import network_score
from know_hf.trajectory.kinds import PREDICTED_KINDS

#: Name → kind → step → ``mean``, ``pooled``, ``trials``.
Errors = dict[str, dict[str, dict[str, dict[str, float]]]]
#: Name, kind and step → error and distance, summed over a trial's tensors.
_Sums = dict[tuple[str, str, int], list[float]]
#: Methods that bring nothing learned, to compare predictors with.
PLAIN = [name for name in ALL if get_method(name).reads({}) is None and not get_method(name).baseline]
#: Those that take after another method, here after each predictor.
FOLLOWING = [name for name in ALL if get_method(name).hands_on]


@dataclass(frozen=True)
class _Reader:
    """A method and how many stages it reads."""

    method: str
    length: int
    predictor: Predicting | None = None

    def __call__(self, stages: torch.Tensor, kind: str, steps: int, ratio: float) -> torch.Tensor:
        """Predicts from the first of the stages."""
        parameters = {} if self.predictor is None else predictor_parameters(self.predictor, ratio)
        return retrodict(stages[: self.length], kind, steps, self.method, **parameters)


def _readers(predictors: Mapping[str, Predicting] | None, methods: Sequence[str], longest: int) -> dict[str, _Reader]:
    """Predictors, each followed by the control that takes on its norms, then further methods."""
    readers, following = {}, [name for name in methods if name in FOLLOWING]
    for name, predictor in (predictors or {}).items():
        stages = predictor.config.history_length
        readers[name] = _Reader(DEFAULT, stages, predictor)
        readers |= {f"{method} to {name}": _Reader(method, stages, predictor) for method in following}
    return readers | {name: _Reader(name, min(5, longest)) for name in methods if name not in following}


def compare_errors(meta: MetaDataSet, names: Sequence[str], predictors: Mapping[str, Predicting]) -> dict[str, Errors]:
    """Errors of predictors, of shrinking to their norms, and of every method that learned nothing.

    Takes two steps where the trials have the stages for it. See [`retrodiction_errors`].

    Args:
        meta: The meta-data set.
        names: The trials to look at.
        predictors: Name → predictor.

    Returns:
        ``all`` trials, then ``unconverged`` and ``converged`` ones apart where there are both: the errors of each.

    Raises:
        TrajectoryError: If a trial's file is damaged.
    """
    longest = max(predictor.config.history_length for predictor in predictors.values())
    sums = _measure(meta, names, predictors, [*FOLLOWING, *PLAIN], min(2, STAGES - longest))
    converged = {name: meta.settings(name)["regime"] == CONVERGED for name in names}
    apart = {
        "unconverged": [name for name in names if not converged[name]],
        "converged": [name for name in names if converged[name]],
    }
    return {"all": _summed(sums, names)} | (
        {group: _summed(sums, own) for group, own in apart.items()} if all(apart.values()) else {}
    )


def retrodiction_errors(
    meta: MetaDataSet,
    names: Sequence[str],
    predictors: Mapping[str, Predicting] | None = None,
    methods: Sequence[str] = (),
    *,
    steps: int = 2,
) -> Errors:
    """Retrodicts Θ^0 of trials from the stages after it, by one step from Θ^1 …, by two from Θ^2 …, and so on.

    Args:
        meta: The meta-data set.
        names: The trials to look at.
        predictors: Name → predictor; each reads as many stages as it wants.
        methods: Names of further methods, which read five stages; ``shrink`` takes on the norms of each predictor.
        steps: Largest number of steps; the history then begins that many stages after Θ^0.

    Returns:
        Name → kind → step (``"1"`` …) → ``mean``: ‖Θ̂^0−Θ^0‖₁/‖Θ^s−Θ^0‖₁ of each trial, averaged; ``pooled``: of all
        trials' sums; ``trials``: their number.

    Raises:
        TrajectoryError: If a trial's file is damaged.
        ValueError: If there are too few stages for so many steps.

    Source: paper section 4.6 (retrodicting a known stage).
    """
    return _summed(_measure(meta, names, predictors, methods, steps), names)


def _measure(
    meta: MetaDataSet,
    names: Sequence[str],
    predictors: Mapping[str, Predicting] | None,
    methods: Sequence[str],
    steps: int,
) -> dict[str, _Sums]:
    """Trial → sums of errors and of the distances that there were, of its tensors."""
    readers = _readers(predictors, methods, STAGES - steps)
    if steps < 1 or any(reader.length + steps > STAGES for reader in readers.values()):
        raise ValueError(f"{steps} steps do not fit: trials have {STAGES} stages.")
    measured: dict[str, _Sums] = {}
    for trial in names:
        sums: _Sums = {}
        for tensor in meta.read(trial):
            stages = torch.from_numpy(tensor.values).reshape(STAGES, *tensor.shape)
            for name, reader in readers.items():
                for step in range(1, steps + 1):
                    guess = reader(stages[step:], tensor.kind, step, tensor.trial["sampling_ratio"])
                    total = sums.setdefault((name, tensor.kind, step), [0.0, 0.0])
                    total[0] += (guess[-1].double() - stages[0]).abs().sum().item()
                    total[1] += (stages[step].double() - stages[0]).abs().sum().item()
        measured[trial] = sums
    return measured


def _summed(measured: Mapping[str, _Sums], names: Sequence[str]) -> Errors:
    """Errors of some of the trials, each method's own in the order that they were measured in."""
    kept: dict[tuple[str, str, int], list[list[float]]] = {}
    for trial in names:
        for key, total in measured[trial].items():
            if total[1] > 0:
                kept.setdefault(key, []).append(total)
    order = list(dict.fromkeys(name for sums in measured.values() for name, _, _ in sums))
    errors: Errors = {}
    for (name, kind, step), trials in sorted(kept.items(), key=lambda item: (order.index(item[0][0]), item[0])):
        errors.setdefault(name, {}).setdefault(kind, {})[str(step)] = {
            "mean": sum(error / distance for error, distance in trials) / len(trials),
            "pooled": sum(error for error, _ in trials) / sum(distance for _, distance in trials),
            "trials": len(trials),
        }
    return errors


def functional_scores(
    meta: MetaDataSet,
    names: Sequence[str],
    images: Mapping[str, tuple[Examples, Examples]],
    predictors: Mapping[str, Predicting] | None = None,
    methods: Sequence[str] = (),
) -> dict[str, dict[str, float]]:
    """Runs the retrodicted Θ̂^0 of trials as networks, on all of the task.

    What is never predicted is that of Θ^1. BatchNorm statistics are re-estimated on training images for all alike, the
    true Θ^0 and Θ^1 included.

    Args:
        meta: The meta-data set.
        names: The trials to look at.
        images: Name of the data → training and test examples, as the trials were run on.
        predictors: Name → predictor.
        methods: Names of further methods, which read five stages.

    Returns:
        ``stage-0``, ``stage-1`` and every name → trial → accuracy, as a share.

    Raises:
        TrajectoryError: If a trial's file is damaged.
    """
    readers = _readers(predictors, methods, STAGES - 1)
    scores: dict[str, dict[str, float]] = {}
    for trial in names:
        settings = meta.settings(trial)
        train, test = images[settings["data_set"]]
        channels = train.inputs["pixel_values"].shape[1]
        model = NETWORKS[settings["architecture"]](channels, settings["width"])
        tensors = list(meta.read(trial, None))
        live = check_tensors(meta.path(trial), tensors, model)
        states = {f"stage-{i}": {t.tensor: torch.from_numpy(t.values[i]) for t in tensors} for i in (0, 1)}
        for name, reader in readers.items():
            state = dict(states["stage-1"])
            for tensor in tensors:
                if tensor.kind in PREDICTED_KINDS:
                    stages = torch.from_numpy(tensor.values[1:]).reshape(STAGES - 1, *tensor.shape)
                    guess = reader(stages, tensor.kind, 1, settings["sampling_ratio"])
                    state[tensor.tensor] = guess[0].float()
            states[name] = state
        for name, state in states.items():
            live_state = model.state_dict()
            loaded = {live[key]: value.reshape(live_state[live[key]].shape) for key, value in state.items()}
            model.load_state_dict({**live_state, **loaded})
            scores.setdefault(name, {})[trial] = network_score(model, test, train)
    return scores


def evaluate_predictors(
    meta: MetaDataSet,
    names: Sequence[str],
    predictors: Mapping[str, Predicting],
    output_dir: str | Path,
    images: Mapping[str, tuple[Examples, Examples]] | None = None,
) -> Path:
    """Compares predictors with each other and with every method, and writes ``evaluation.json`` and ``evaluation.md``.

    Args:
        meta: The meta-data set.
        names: The trials to look at.
        predictors: Name → predictor.
        output_dir: Folder for the two files.
        images: As for [`functional_scores`]; without them only errors are compared.

    Returns:
        The Markdown file.

    Raises:
        TrajectoryError: If a trial's file is damaged.
    """
    errors = compare_errors(meta, names, predictors)
    scores = None if images is None else functional_scores(meta, names, images, predictors, [*FOLLOWING, *PLAIN])
    output_dir = Path(output_dir)
    content = {"trials": list(names), "errors": errors, "scores": scores}
    write_json(output_dir / "evaluation.json", content)
    text = f"# {len(names)} trials of {meta.folder.name}\n\n{error_tables(errors)}\n"
    if scores:
        text += f"\n{score_table(scores)}\n"
    write_text(output_dir / "evaluation.md", text)
    return output_dir / "evaluation.md"


def error_tables(errors: Mapping[str, Errors]) -> str:
    """The tables of all trials, and of those apart whose Θ^0 had converged or not, in Markdown."""
    tables = []
    for group, own in errors.items():
        trials = max(step["trials"] for kinds in own.values() for steps in kinds.values() for step in steps.values())
        heading = "" if len(errors) == 1 else f"{_GROUPS[group]} ({trials} trials):\n\n"
        tables.append(heading + error_table(own))
    return "\n\n".join(tables)


_GROUPS = {"all": "All of them", "unconverged": "Θ⁰ had not converged", "converged": "Θ⁰ had converged"}


def error_table(errors: Errors) -> str:
    """‖Θ̂^0−Θ^0‖₁/‖Θ^s−Θ^0‖₁ as a Markdown table: mean of trials, and all trials as one, by kind and steps."""
    columns = sorted({(int(step), kind) for own in errors.values() for kind, steps in own.items() for step in steps})
    rows = [["method", *(f"{kind}, {step} step{'s' * (step > 1)}" for step, kind in columns)]]
    for name, own in errors.items():
        cells = [own.get(kind, {}).get(str(step)) for step, kind in columns]
        rows.append(
            [name, *("" if c is None else f"{rounded(c['mean'], 3)} / {rounded(c['pooled'], 3)}" for c in cells)]
        )
    return table(rows)


def score_table(scores: Mapping[str, Mapping[str, float]]) -> str:
    """Accuracy of the retrodicted Θ̂^0 as networks, mean over trials, and in how many they beat Θ^1, in Markdown."""
    before = scores["stage-1"]
    rows = [["network", "accuracy, mean of trials", "trials better than Θ¹"]]
    for name, own in scores.items():
        better = sum(own[trial] > before[trial] for trial in own)
        rows.append([name, rounded(100 * sum(own.values()) / len(own), 1), f"{better} of {len(own)}"])
    return table(rows)
