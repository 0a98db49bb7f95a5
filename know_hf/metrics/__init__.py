"""Metric modules of the ``evaluate`` library that come with the package and need no network."""

import os
from pathlib import Path

#: What there is; each is a module of its name in this folder.
NAMES = ("accuracy", "masked_accuracy", "mean_class_accuracy", "mean_iou", "perplexity")


def load_metric(name: str):
    """Loads one, as ``evaluate.load`` loads those of the Hub.

    Args:
        name: One of ``NAMES``.

    Returns:
        An ``evaluate.Metric``; ``compute(predictions=…, references=…)`` returns ``{name: score}``.

    Raises:
        ImportError: If ``evaluate`` is not installed.
        ValueError: If there is none of that name.

    Source: ours.

    Example:
        >>> from know_hf.metrics import load_metric
        >>> load_metric("masked_accuracy").compute(predictions=[[1, 2, 0]], references=[[1, 3, -100]])
        {'masked_accuracy': 0.5}
    """
    if name not in NAMES:
        raise ValueError(f"There is no metric {name!r} here, only {', '.join(NAMES)}.")
    try:
        import evaluate
    except ImportError as error:
        raise ImportError('Metrics need evaluate: pip install "know-hf[evaluate]"') from error
    return evaluate.load(str(Path(__file__).with_name(f"{name}.py")), experiment_id=str(os.getpid()))
