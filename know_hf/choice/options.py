"""Options of choosing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from know_hf.forgetting.controls import BESIDE
from know_hf.settings import COUNT, HUGE, TINY, Options, documented, meant, option

BEST, NONE = "best", "none"
#: Controls that are tried where none are named: of all candidates training on was better than Θ^0 most often.
BY_DEFAULT = ("equal_compute",)
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
    unscaled: bool = option(
        False, help="Make a candidate of the fit without a multiple of stage 0 (no fit_scale), too."
    )
    keep_candidates: bool = option(
        False, help="Keep the folders of all candidates, in choice of the run's folder; else only the best is kept."
    )
    also: Sequence[str] | None = option(
        None,
        help="Controls to train beside the forgetting, as further candidates: equal_compute, which is Θ^0 trained on "
        "for as long as the forgetting took; once_more; soup, which makes several of its branches, averaged "
        "uniformly, greedily on the selection data, by Model Stock's ratio and with fitted coefficients; none. By "
        "default equal_compute, but with until_converged, after which nothing is left to train, none.",
        usual=lambda: (*BESIDE, NONE),
        off=NONE,
    )
    until_converged: bool = option(
        False,
        help="Before anything is forgotten, train stage 0 in rounds, each a whole training with these arguments and a "
        "schedule of its own, until the score on the examples set aside gets no better beyond chance. The forgetting "
        "starts from the last round that gained, with fresh optimizer moments.",
    )
    converge_rounds: int = option(
        5, help="Of until_converged: number of rounds at most, the first training included.", limits=(2, 1000)
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

    def __post_init__(self) -> None:
        if isinstance(self.also, str):
            object.__setattr__(self, "also", (self.also,))
        super().__post_init__()
        if self.also is not None and NONE in self.also:
            if len(self.also) > 1:
                raise ValueError(f"also: {NONE} stands alone; found {', '.join(self.also)}.")
            object.__setattr__(self, "also", ())
        if wrong := [name for name in self.also or () if name not in BESIDE]:
            raise ValueError(
                f"also: {wrong[0]!r} is no control that can be trained from stage 0{meant(wrong[0], BESIDE, 'use')}"
            )
        if self.also and self.choose == NONE:
            raise ValueError(
                f"also={', '.join(self.also)} are candidates for a choice, and choose={NONE!r} makes none: leave one "
                "of them out."
            )

    @property
    def beside(self) -> tuple[str, ...]:
        """The controls that are trained as candidates."""
        if self.also is not None:
            return tuple(self.also)
        return () if self.choose == NONE or self.until_converged else BY_DEFAULT
