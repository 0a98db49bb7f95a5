"""KNOW prediction: the learned retrodictor."""

from torch import Tensor

from know_hf.known.plain import PlainPredictor
from know_hf.known.predicting import Predicting
from know_hf.retrodiction.predictors import load_predictor
from know_hf.retrodiction.registry import PredictorFamily, method
from know_hf.trajectory import to_history

KNOWN = PredictorFamily("KNOWN", load_predictor, bundled=True)


@method(predictor=KNOWN, reference=True, title="KNOW")
def known(
    stages: Tensor,
    kind: str,
    steps: int = 1,
    *,
    predictor: Predicting | None = None,
    sampling_ratio: float | None = None,
    precision: str = "float32",
) -> Tensor:
    """Retrodicts with a learned predictor, sliding the window one stage a step.

    Args:
        stages: ``(S, *shape)`` in stage order; a whole tensor if ``predictor.reads_whole_tensors``.
        kind: Kind of the tensor; the predictor has one network for each.
        steps: Number of steps.
        predictor: A [`KnownPredictor`]; the bundled one by default.
        sampling_ratio: Ratio r of the forgetting, for predictors that are told it; [`enrich`] fills it in.
        precision: ``"bfloat16"`` for reduced precision where the hardware has it, as for [`KnownPredictor.predict`].

    Returns:
        ``(steps, *shape)`` float32 on the predictor's device.

    Raises:
        ValueError: If the predictor reads another number of stages, has no network for ``kind``, or lacks the
            ratio; if the precision is not to be had.

    Limits: movements far from those it was trained on (run the self-check), as its error does not shrink with them;
        a predictor of differences (``KnownConfig(inputs="differences")``) sees movements in their own size instead.

    Source: paper Eq. 4 and section 4.6.

    Example:
        >>> import torch
        >>> from know_hf.retrodiction import known
        >>> known(torch.full((5, 4), 0.05), "bias").shape
        torch.Size([1, 4])
    """
    predictor = predictor or PlainPredictor.default(len(stages))
    return predictor.predict(to_history(stages), kind, steps, sampling_ratio=sampling_ratio, precision=precision)
