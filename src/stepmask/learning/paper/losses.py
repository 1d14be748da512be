"""The terms of Eq. 8 and 11.

Legend (arXiv 2603.19939): ``s`` score, ``delta[t]`` relative change of the original end feature between neighbouring
steps (Eq. 9), ``w(t)`` its step weight (Eq. 10), ``lambda_1`` sparsity, ``lambda_2`` bi-modality.
"""

from __future__ import annotations

import torch
from torch import Tensor


def feature_loss(masked: Tensor, original: Tensor) -> Tensor:
    """Eq. 5, relative: L2 norm of the difference over the L2 norm of the original, mean over the batch.

    Args:
        masked: (N, ...) output of the masked model, the channels that the sampler uses.
        original: (N, ...) output of the original model on the same input.
    """
    return relative_norm(masked - original, original).mean()


def relative_norm(difference: Tensor, original: Tensor) -> Tensor:
    """(N,) L2 norms of `difference` over those of `original`; the gradient is 0, not NaN, where nothing differs."""
    squares = difference.float().flatten(1).square().sum(1)
    zero = squares == 0
    norms = torch.where(zero, squares, torch.where(zero, torch.ones_like(squares), squares).sqrt())
    return norms / original.float().flatten(1).norm(dim=1).clamp_min(1e-12)


def step_weights(delta: Tensor) -> Tensor:
    """Eq. 10: w(t) = 2 where features hardly change, 1.5 where they change somewhat, else 1.

    Args:
        delta: (T,) relative changes; ``delta[0]`` is undefined and ignored.
    """
    share = delta / delta.clone().index_fill_(0, torch.tensor(0), 0.0).max().clamp_min(1e-12)
    weights = torch.where(share < 0.1, 2.0, torch.where(share < 0.5, 1.5, 1.0))
    weights[0] = 1.0
    return weights


def regulariser_gradient(scores: Tensor, cell_cost: Tensor, lambda_1: float, lambda_2: float, w: Tensor) -> Tensor:
    """Derivative of ``w(t) (lambda_1 sum c s + lambda_2 sum s (1 - s))`` by the scores (Eq. 6, 7, 11).

    Args:
        scores: (T, B).
        cell_cost: (T, B) what a cell costs, mean 1.
        lambda_1: Sparsity.
        lambda_2: Bi-modality.
        w: (T,) step weights.
    """
    return w[:, None] * (lambda_1 * cell_cost + lambda_2 * (1 - 2 * scores))
