"""Retrodiction errors on held-out trials: how near a prediction comes to a stage that is known."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from know_hf.known import KnownPredictor
from know_hf.meta.collection import MetaDataSet
from know_hf.meta.networks import NETWORKS
from know_hf.meta.trials import STAGES
from know_hf.retrodiction import retrodict
from know_hf.transfer.examples import Examples
from know_hf.transfer.metrics import network_accuracy


def retrodiction_errors(
    meta: MetaDataSet,
    names: Sequence[str],
    predictors: Mapping[str, KnownPredictor] | None = None,
    methods: Sequence[str] = (),
    *,
    steps: int = 2,
) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Retrodicts Θ^0 of trials from the stages after it, by one step from Θ^1 …, by two from Θ^2 …, and so on.

    Args:
        meta: The meta-data set.
        names: The trials to look at.
        predictors: Name → predictor; each reads as many stages as it wants.
        methods: Names of further methods, which read five stages.
        steps: Largest number of steps; the history then begins that many stages after Θ^0.

    Returns:
        Name → kind → step (``"1"`` …) → ``mean``: ‖Θ̂^0−Θ^0‖₁/‖Θ^s−Θ^0‖₁ of each trial, averaged; ``pooled``: of all
        trials' sums; ``trials``: their number.

    Raises:
        TrajectoryError: If a trial's file is damaged.
        ValueError: If there are too few stages for so many steps.

    Source: paper section 4.6 (retrodicting a known stage).
    """
    readers: dict[str, tuple[str, int, dict[str, Any]]] = {
        name: ("known", p.config.history_length, {"predictor": p}) for name, p in (predictors or {}).items()
    }
    readers |= {name: (name, min(5, STAGES - steps), {}) for name in methods}
    if steps < 1 or any(length + steps > STAGES for _, length, _ in readers.values()):
        raise ValueError(f"{steps} steps do not fit: trials have {STAGES} stages.")
    sums: dict[tuple[str, str, int], list[list[float]]] = {}
    for trial in names:
        own: dict[tuple[str, str, int], list[float]] = {}
        for tensor in meta.read(trial):
            stages = torch.from_numpy(tensor.values).reshape(STAGES, *tensor.shape)
            for name, (method, length, options) in readers.items():
                for step in range(1, steps + 1):
                    window = stages[step : step + length]
                    guess = retrodict(window, tensor.kind, step, method, **options)
                    total = own.setdefault((name, tensor.kind, step), [0.0, 0.0])
                    total[0] += (guess[-1].double() - stages[0]).abs().sum().item()
                    total[1] += (stages[step].double() - stages[0]).abs().sum().item()
        for key, total in own.items():
            if total[1] > 0:
                sums.setdefault(key, []).append(total)
    found: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for (name, kind, step), trials in sorted(sums.items(), key=lambda item: (list(readers).index(item[0][0]), item[0])):
        found.setdefault(name, {}).setdefault(kind, {})[str(step)] = {
            "mean": sum(error / distance for error, distance in trials) / len(trials),
            "pooled": sum(error for error, _ in trials) / sum(distance for _, distance in trials),
            "trials": len(trials),
        }
    return found


def functional_scores(
    meta: MetaDataSet,
    names: Sequence[str],
    images: Mapping[str, tuple[Examples, Examples]],
    predictors: Mapping[str, KnownPredictor] | None = None,
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

    Source: ours.
    """
    readers: dict[str, tuple[str, int, dict[str, Any]]] = {
        name: ("known", p.config.history_length, {"predictor": p}) for name, p in (predictors or {}).items()
    }
    readers |= {name: (name, 5, {}) for name in methods}
    settings = {note["name"]: note["settings"] for note in meta.trials}
    found: dict[str, dict[str, float]] = {}
    for trial in names:
        train, test = images[settings[trial]["data_set"]]
        channels = train.inputs["pixel_values"].shape[1]
        model = NETWORKS[settings[trial]["architecture"]](channels, settings[trial]["width"])
        tensors = list(meta.read(trial, None))
        states = {f"stage-{i}": {t.tensor: torch.from_numpy(t.values[i]) for t in tensors} for i in (0, 1)}
        for name, (method, length, options) in readers.items():
            state = dict(states["stage-1"])
            for tensor in tensors:
                if tensor.kind in ("conv", "fc", "bias"):
                    window = torch.from_numpy(tensor.values[1 : 1 + length]).reshape(length, *tensor.shape)
                    state[tensor.tensor] = retrodict(window, tensor.kind, 1, method, **options)[0].float()
            states[name] = state
        for name, state in states.items():
            own = model.state_dict()
            model.load_state_dict({**own, **{key: value.reshape(own[key].shape) for key, value in state.items()}})
            found.setdefault(name, {})[trial] = network_accuracy(model, test, train)
    return found
