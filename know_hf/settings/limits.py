"""What numbers settings may be, whoever gives them: beyond, nothing that this package does makes sense or ends."""

from collections.abc import Mapping
from typing import Any

from know_hf.reading import shown

#: Smallest and largest value of a setting, both allowed.
Limits = tuple[float, float]

#: Seeds of NumPy, which knows no others.
SEED: Limits = (0, 2**32 - 1)
COUNT = 2**40
#: The least and the largest number of float32: below, a rate is nothing, and beyond, infinite.
TINY, HUGE = 1.2e-38, 3.4e38
#: Steps of a prediction.
STEPS: Limits = (1, 100)


def check_range(name: str, value: Any, limits: Limits, where: str = "") -> None:
    """Looks at the numbers of one setting; what is no number passes.

    Args:
        name: Of the setting, for the message.
        value: A value, or a list of them.
        limits: What they may be.
        where: What to say before the name.

    Raises:
        ValueError: If one is out of its limits, which no NaN is within.

    Example:
        >>> from know_hf.settings import check_range
        >>> check_range("steps", 3, (1, 100))
        >>> check_range("steps", 10**9, (1, 100))
        Traceback (most recent call last):
        ...
        ValueError: steps is 1000000000; it must be at most 100.
    """
    low, high = limits
    for one in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(one, bool) or not isinstance(one, (int, float)):
            continue
        if not one >= low:
            least = f"at least {low:g}" if low != TINY else "more than 0"
            raise ValueError(f"{where}{name} is {shown(one)}; it must be {least}.")
        if one > high:
            raise ValueError(f"{where}{name} is {shown(one)}; it must be at most {high:.10g}.")


def check_limits(given: Mapping[str, Any], limits: Mapping[str, Limits]) -> None:
    """Looks at the numbers of several settings, by name; those that have no limits pass.

    Raises:
        ValueError: As [`check_range`].
    """
    for name, value in given.items():
        if name in limits:
            check_range(name, value, limits[name])
