"""Options of choosing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from know_hf.settings import COUNT, HUGE, TINY, Options, documented, option

BEST, NONE = "best", "none"
#: Data that coefficients are fitted to.
FIT_ON = ("train", "selection", "both")


@documented
@dataclass(frozen=True, kw_only=True)
class Choosing(Options):
    """Whether and among what the best checkpoint is chosen.

    Example:
        >>> from know_hf.choice.options import Choosing
        >>> Choosing().choose
        'best'
    """

    choose: str = option(
        BEST,
        help="best: set some examples aside, choose on them among stage 0, the other stages, and everything predicted "
        "or fitted, and write enriched/best; none: the paper's procedure, which trains on all examples and chooses "
        "nothing.",
        choices=(BEST, NONE),
    )
    fit_on: str = option(
        "train",
        help="What fitted and damped are fitted to: train, the training examples; selection, half of those set aside "
        "(the other half is chosen on); both, which makes a candidate of each.",
        choices=FIT_ON,
    )
    also: Sequence[str] = option(
        (), help="Controls to train beside the forgetting, as further candidates, such as equal_compute."
    )
    choose_on: Any = option(
        None,
        help="Downstream data that the best is chosen for: Hub id, folder or file (in Python also a data set). The "
        "candidates are then compared by fine-tuning on a sample of them, and scored on others of their examples: "
        "those of a test or validation split, else a fifth. No example of the run's own data is set aside for it.",
        kind=str,
    )
    choose_budget: int | None = option(
        None,
        help="Most examples that all those fine-tunings together may train on, repeated ones counted each time; by "
        "default as many as the run itself trained on.",
        limits=(1, COUNT),
    )
    choose_rates: Sequence[float] | None = option(
        None,
        help="Learning rates that every candidate is fine-tuned at, of which each keeps its best; by default 0.4, 1 "
        "and 2.5 times the run's own, if that is one of Adam's, else those of compare.",
        limits=(TINY, HUGE),
    )
