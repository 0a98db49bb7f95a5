"""Task vectors: what forgetting took away, ``u_t = Θ^0 − Θ^t``, added to Θ^0 once more, in part.

All of them read Θ^1 … Θ^s for step s, so that s is at most S − 1.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from know_hf.retrodiction.registry import method


@method
def task_vector(stages: Tensor, kind: str, steps: int = 1, *, lam: float = 0.2) -> Tensor:
    """Adds ``λ·u_s`` to Θ^0.

    Args:
        stages: ``(S, *shape)`` floating point in stage order.
        kind: Not looked at.
        steps: Number of steps, at most S − 1.
        lam: Scale λ of the update.

    Returns:
        ``(steps, *shape)`` in the type of ``stages``, at least float32.

    Raises:
        ValueError: If ``steps`` exceeds S − 1 or λ is not finite.

    Limits: s at most S − 1 (an error that says so).

    Source: paper section 5, λ = 0.2 (after Ilharco et al., "Editing models with task arithmetic").

    Example:
        >>> import torch
        >>> from know_hf.retrodiction import task_vector
        >>> task_vector(torch.tensor([1.0, 0.8, 0.6]), "fc", 2)
        tensor([1.0400, 1.0800])
    """
    stages, updates = _updates(stages, steps, lam)
    return _applied(stages, lam, updates)


@method
def magmax(stages: Tensor, kind: str, steps: int = 1, *, lam: float = 0.2, candidates: str = "upto_s") -> Tensor:
    """Adds, weight by weight, the largest of the updates ``u_1 … u_s``; of equal ones the later.

    Args:
        stages: ``(S, *shape)`` floating point in stage order.
        kind: Not looked at.
        steps: Number of steps, at most S − 1.
        lam: Scale λ of the update.
        candidates: ``"upto_s"``, or ``"all"`` to choose among all S − 1 at every step.

    Returns:
        ``(steps, *shape)`` in the type of ``stages``, at least float32.

    Raises:
        ValueError: As [`task_vector`], or if ``candidates`` is unknown.

    Limits: s at most S − 1; one noisy stage decides.

    Source: paper section 5 (after Marczak et al., "MagMax").

    Example:
        >>> import torch
        >>> from know_hf.retrodiction import magmax
        >>> magmax(torch.tensor([0.3, -0.1, 0.2]), "fc", 2)
        tensor([0.3800, 0.3800])
    """
    if candidates not in ("upto_s", "all"):
        raise ValueError(f"candidates={candidates!r} is not known; use 'upto_s' or 'all'.")
    stages, updates = _updates(stages, steps, lam)
    every = _updates(stages, len(stages) - 1, lam)[1] if candidates == "all" else updates
    largest, chosen = every[0], []
    for update in every:
        largest = torch.where(update.abs() >= largest.abs(), update, largest)
        chosen.append(largest)
    return _applied(stages, lam, chosen[-1:] * steps if candidates == "all" else chosen)


@method
def consensus_ta(
    stages: Tensor, kind: str, steps: int = 1, *, lam: float = 0.2, tall_lambda: float = 0.4, aggregate: str = "sum"
) -> Tensor:
    """Adds the updates' sum where a majority of them claims the weight; below three updates, a task vector.

    Update t claims a weight if ``|u_t| > tall_lambda·|Σ_{j≠t} u_j|``.

    Args:
        stages: ``(S, *shape)`` floating point in stage order.
        kind: Not looked at.
        steps: Number of steps, at most S − 1.
        lam: Scale λ of the update.
        tall_lambda: Threshold of a claim.
        aggregate: ``"sum"``, ``"mean"`` or ``"last"`` of the updates.

    Returns:
        ``(steps, *shape)`` in the type of ``stages``, at least float32.

    Raises:
        ValueError: As [`task_vector`], or if ``aggregate`` is unknown.

    Limits: s at most S − 1; drops weights whose drift accelerates.

    Source: paper section 5 (after Wang et al., "Localizing task information"); threshold and aggregate are ours.

    Example:
        >>> import torch
        >>> from know_hf.retrodiction import consensus_ta
        >>> consensus_ta(torch.tensor([1.0, 0.8, 0.6, 0.4, 0.2]), "fc", 3)
        tensor([1.0400, 1.0800, 1.2400])
    """
    if aggregate not in ("sum", "mean", "last"):
        raise ValueError(f"aggregate={aggregate!r} is not known; use 'sum', 'mean' or 'last'.")
    stages, updates = _updates(stages, steps, lam)
    chosen = list(updates[:2])
    for step in range(3, steps + 1):
        candidates = updates[:step]
        total = candidates.sum(0)
        claims = (candidates.abs() > tall_lambda * (total - candidates).abs()).sum(0)
        merged = {"sum": total, "mean": total / step, "last": candidates[-1]}[aggregate]
        chosen.append(torch.where(claims >= step // 2 + 1, merged, 0.0))
    return _applied(stages, lam, chosen)


@method(whole_tensors=True)
def tsv(
    stages: Tensor, kind: str, steps: int = 1, *, lam: float = 0.2, frac: float = 0.1, merge: bool = False
) -> Tensor:
    """Adds the part of ``u_s`` along its largest singular directions; kernels as matrices of outputs × the rest.

    Args:
        stages: ``(S, *shape)`` floating point in stage order, a whole tensor.
        kind: Of ``"fc"`` with three dimensions (a mixture's experts) each matrix is treated by itself; tensors of fewer
            than two dimensions take the whole update.
        steps: Number of steps, at most S − 1.
        lam: Scale λ of the update.
        frac: Share of the directions that stays, at least one of them.
        merge: Merge the directions of ``u_1 … u_s``, made orthogonal, instead of taking those of ``u_s``; each gives
            ``frac`` of the rank, or 1/s of it when that is less.

    Returns:
        ``(steps, *shape)`` in the type of ``stages``, at least float32.

    Raises:
        ValueError: As [`task_vector`], or if ``frac`` is not in (0, 1].

    Limits: s at most S − 1; an SVD of every tensor.

    Source: paper section 5, top 10 % (after Gargiulo et al., "Task singular vectors"); treatment of kernels is ours.

    Example:
        >>> import torch
        >>> from know_hf.retrodiction import tsv
        >>> tsv(torch.stack([torch.zeros(2, 3), -torch.tensor([[1.0, 0, 3], [2, 0, 6]])]), "fc")
        tensor([[[0.2000, 0.0000, 0.6000],
                 [0.4000, 0.0000, 1.2000]]])
    """
    if not 0 < frac <= 1:
        raise ValueError(f"frac is {frac}; it must lie in (0, 1].")
    stages, updates = _updates(stages, steps, lam)
    if updates.ndim - 1 < 2:
        return _applied(stages, lam, updates)
    if kind == "fc" and updates.ndim - 1 == 3:
        experts = (tsv(expert, kind, steps, lam=lam, frac=frac, merge=merge) for expert in stages.unbind(1))
        return torch.stack(list(experts), dim=1)
    matrices = updates.reshape(steps, updates.shape[1], -1)
    rank = min(matrices.shape[1:])
    chosen, parts = [], []
    for step, matrix in enumerate(matrices, start=1):
        if not merge:
            u, s, vh = _leading(matrix, _kept(rank, frac))
            chosen.append((u * s) @ vh)
        else:
            parts.append(_leading(matrix, _kept(rank, min(frac, 1 / step))))
            # Earlier steps may have kept more directions than there is room for now.
            kept = [(u[:, :k], s[:k], vh[:k]) for k in [_kept(rank, min(frac, 1 / step))] for u, s, vh in parts]
            chosen.append(merge_singular(kept))
    return _applied(stages, lam, [matrix.reshape(updates.shape[1:]) for matrix in chosen])


def merge_singular(parts: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Merges decompositions ``(u, s, vh)`` of matrices of one shape: concatenated, with bases made orthogonal.

    Source: Gargiulo et al., "Task singular vectors" (TSV-M).
    """
    u, s, vh = (torch.cat(items, dim=dim) for items, dim in zip(zip(*parts, strict=True), (1, 0, 0), strict=True))
    if not s.any():
        return u @ torch.diag(s) @ vh
    left, _, left_vh = torch.linalg.svd(u, full_matrices=False)
    right, _, right_vh = torch.linalg.svd(vh, full_matrices=False)
    return left @ left_vh @ torch.diag(s) @ right @ right_vh


def _kept(rank: int, frac: float) -> int:
    # The small addend keeps exact products, such as 0.1 · 30, from falling below themselves.
    return max(1, min(rank, math.floor(frac * rank + 1e-9)))


def _leading(matrix: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :count], s[:count], vh[:count]


def _updates(stages: Tensor, steps: int, lam: float) -> tuple[Tensor, Tensor]:
    """The stages and ``u_1 … u_steps``, ``(steps, *shape)``, in at least float32: 16 bits lose small updates."""
    if not math.isfinite(lam):
        raise ValueError(f"lam is {lam}; it must be finite.")
    if not 1 <= steps <= len(stages) - 1:
        raise ValueError(
            f"step {steps} needs stage {steps}, and {len(stages)} stages end at {len(stages) - 1}: methods of the "
            f"task vector family take at most {len(stages) - 1} steps here."
        )
    stages = stages.to(torch.promote_types(stages.dtype, torch.float32))
    return stages, stages[0] - stages[1 : steps + 1]


def _applied(stages: Tensor, lam: float, updates: Tensor | Sequence[Tensor]) -> Tensor:
    return torch.stack([stages[0] + lam * update for update in updates])
