"""What numbers settings may be, whoever gives them: beyond, nothing that this package does makes sense or ends."""

import math
from collections.abc import Mapping
from typing import Any

from know_hf.reading import shown

#: Seeds of NumPy, which knows no others.
_SEED = (0, 2**32 - 1)
_COUNT = 2**40
#: The least and the largest number of float32: below, a rate is nothing, and beyond, infinite.
_TINY, _HUGE = 1.2e-38, 3.4e38
#: Name of a setting → smallest and largest value, both allowed.
LIMITS: dict[str, tuple[float, float]] = {
    # prediction
    "steps": (1, 100),
    # forgetting and training
    "num_stages": (2, 1000),
    "num_train_epochs": (0, 1e9),
    "max_steps": (-1, _COUNT),
    "per_device_train_batch_size": (1, _COUNT),
    "per_device_eval_batch_size": (1, _COUNT),
    "gradient_accumulation_steps": (1, _COUNT),
    "learning_rate": (0, _HUGE),
    "weight_decay": (0, 1e9),
    "adam_beta1": (0, 1),
    "adam_beta2": (0, 1),
    "adam_epsilon": (0, 1e9),
    "max_grad_norm": (0, math.inf),
    "label_smoothing_factor": (0, 1),
    "neftune_noise_alpha": (0, 1e9),
    "warmup_steps": (0, _COUNT),
    "logging_steps": (0, _COUNT),
    "eval_steps": (0, _COUNT),
    "save_steps": (0, _COUNT),
    "eval_delay": (0, _COUNT),
    "eval_accumulation_steps": (1, _COUNT),
    "dataloader_num_workers": (0, 4096),
    "seed": _SEED,
    "data_seed": _SEED,
    "subset_seed": _SEED,
    # data
    "image_size": (1, 1 << 16),
    "max_length": (1, 1 << 30),
    # comparisons and experiments
    "learning_rates": (_TINY, _HUGE),
    "seeds": (1, 100_000),
    "head_epochs": (0, 1e9),
    "batch_size": (1, _COUNT),
    "validation_examples": (0, _COUNT),
    "evaluations": (1, 1_000_000),
    "processes": (1, 4096),
    "landscape": (0, 1000),
    # meta-data and meta-training
    "trials": (1, 10_000_000),
    "first_seed": (0, 2**31),
    "branches": (0, 10),
    "history_length": (2, 1000),
    "rows": (1, _COUNT),
    "patience": (1, _COUNT),
    "functional_epochs": (0, _COUNT),
    "inner_steps": (0, 10_000),
    # of the number of examples and epochs, one or a range
    "examples": (1, _COUNT),
    "epochs": (_TINY, 1e9),
}


def check_limits(given: Mapping[str, Any], where: str = "") -> None:
    """Looks at the numbers among settings; names that have no limits, and what is no number, pass.

    Args:
        given: Name → value or list of values.
        where: What to say before a name in messages.

    Raises:
        ValueError: If one is out of its limits, which no NaN is within; it is named.

    Source: ours.

    Example:
        >>> from know_hf.limits import check_limits
        >>> check_limits({"steps": 3, "seed": 42})
        >>> check_limits({"steps": 10**9})
        Traceback (most recent call last):
        ...
        ValueError: steps is 1000000000; it must be at most 100.
    """
    for name, value in given.items():
        low, high = LIMITS.get(name, (None, None))
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if low is None or isinstance(one, bool) or not isinstance(one, (int, float)):
                continue
            if not one >= low:
                least = f"at least {low:g}" if low != _TINY else "more than 0"
                raise ValueError(f"{where}{name} is {shown(one)}; it must be {least}.")
            if one > high:
                raise ValueError(f"{where}{name} is {shown(one)}; it must be at most {high:.10g}.")
