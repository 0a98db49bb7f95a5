"""Options of fitting."""

from dataclasses import dataclass

from know_hf.settings import COUNT, HUGE, SEED, TINY, Options, documented, option

#: What shares its coefficients.
GROUPS = ("tensor", "layer", "kind")


@documented
@dataclass(frozen=True, kw_only=True)
class Fitting(Options):
    """How coefficients are fitted.

    Example:
        >>> from know_hf.fitting.options import Fitting
        >>> Fitting(fit_scale=False).fit_groups
        'tensor'
    """

    fit_groups: str = option(
        "tensor", help="What shares its coefficients: tensor, layer or kind.", choices=GROUPS, flag=True
    )
    fit_scale: bool = option(
        True,
        help="Fit a multiple of stage 0 as well. Smaller weights before a normalisation are a higher learning rate in "
        "disguise, so look at the fit without it, too.",
    )
    fit_steps: int | None = option(
        None,
        help="Most optimizer steps of a fit; by default a twentieth of the forgetting's, at most 150.",
        limits=(0, COUNT),
    )
    fit_learning_rate: float | None = option(
        None,
        help="Adam's peak learning rate of the coefficients; by default 0.02, and where there are fewer than 150 steps "
        "for it more, at most 0.1.",
        limits=(TINY, HUGE),
    )
    fit_penalty: float = option(
        1e-3, help="Weight of the mean square of the coefficients in the loss: it draws towards stage 0.",
        limits=(0, HUGE),
    )  # fmt: skip
    fit_seed: int = option(0, help="Seed of the examples that fitting draws.", limits=SEED)
