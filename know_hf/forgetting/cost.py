"""What forgetting costs, counted in trainings on all the data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ForgettingCost:
    """Optimizer steps of a run's parts, as multiples of those of one training on all of D⁰ (everything but what is set
    aside): a stage takes as many epochs as that, of a share rⁱ of the data.

    Args:
        stages: Number S of stages, without the self-check's.
        ratio: Sampling ratio r.
        fitting: Share of all steps that fitting takes at most.

    Source: paper section 3.

    Example:
        >>> from know_hf.forgetting.cost import ForgettingCost
        >>> ForgettingCost(5, 0.5).further
        0.9375
    """

    stages: int
    ratio: float
    fitting: float = 0.0

    @property
    def parts(self) -> list[float]:
        """Of each stage after stage 0."""
        return [self.ratio**index for index in range(1, self.stages)]

    @property
    def further(self) -> float:
        """Of all stages after stage 0, and so of a control of equal compute."""
        return sum(self.parts)

    @property
    def self_check(self) -> float:
        """Of the further stage that the self-check needs."""
        return float(self.ratio**self.stages)

    def __str__(self) -> str:
        shown = [f"{part:.2g}" for part in self.parts]
        terms = " + ".join(shown if len(shown) < 6 else [*shown[:3], "…", shown[-1]])
        fitted = self.fitting * self.further, self.fitting * (1 + self.further)
        return (
            f"Forgetting in {self.stages} stages (0–{self.stages - 1}) with r = {self.ratio:g} takes "
            f"{terms if len(shown) == 1 else f'{terms} = {self.further:.2f}'} trainings on all the data after stage 0, "
            "which is one more where it\nis trained (--until_converged: one for each round); a step back stands for "
            f"{1 / self.ratio:.3g} times the data. On top come\n--self_check {self.self_check:.2g} "
            f"(a stage of its own, {self.stages}); "
            f"fitting at most {fitted[0]:.2g} ({fitted[1]:.2g} with stage 0); training on for as long "
            f"as the forgetting\ntakes {self.further:.2f} (--also none leaves it out); --also once_more 1. Counted in "
            "optimizer steps of --num_train_epochs;\nwith --max_steps every stage takes "
            f"as many, {self.stages - 1} in all. Scoring comes on top."
        )
