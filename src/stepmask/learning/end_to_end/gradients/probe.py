"""What switching each cell would do to the final image: a quadratic model of the error, from one run backwards.

With e_i the final error of image i and d_j its first-order change by switch j, the error after a set S of switches is
``|e_i + sum d_j|^2``. Its linear part is the inner product of d_j with e_i; its quadratic part is estimated from the
inner products of d_j with random signs, whose mean square is ``|sum d_j|^2``, interactions included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepmask.inspection.registry import denoiser_of
from stepmask.learning.end_to_end.config import EndToEnd
from stepmask.learning.end_to_end.gradients.chain import Chain
from stepmask.learning.interception import frozen, weights_cast
from stepmask.learning.refusals import no_gradient
from stepmask.liveness import Plan
from stepmask.mask import Action

TINY = 1e-30
"""In place of the size of a cotangent that is 0."""


@dataclass(frozen=True)
class Probe:
    """The quadratic model around one plan, per image: n images, R random directions.

    Attributes:
        square: (n,) squared error of the final image now.
        linear: (T, B, actions, n), first-order change of the squared error by taking that action.
        projections: (T, B, actions, n, R): squares of their sums over a set of switches, summed over R, estimate
            the quadratic part. 0 for the action that is taken now, and where it has no effect.
        size: Number of values in an image.
    """

    square: np.ndarray
    linear: np.ndarray
    projections: np.ndarray
    size: int

    @classmethod
    def of_parts(cls, parts: Sequence[Probe]) -> Probe:
        """One plan probed on some images after the others."""
        joined = {
            "square": np.concatenate([part.square for part in parts]),
            "linear": np.concatenate([part.linear for part in parts], axis=3),
            "projections": np.concatenate([part.projections for part in parts], axis=3),
        }
        return cls(**joined, size=parts[0].size)

    @property
    def sizes(self) -> np.ndarray:
        """(T, B, actions, n) squared size of what each action adds to the error, compared with computing."""
        away = self.projections - self.projections[:, :, Action.compute, None]
        return np.square(away).sum(-1)

    @property
    def known(self) -> np.ndarray:
        """(T, B) cells that were measured: others are dead, or have no older value to hand out."""
        return np.abs(self.projections).sum((-1, -2, -3)) > 0


def probe(
    pipe: Any,
    plan: Plan,
    call: Callable[[int], Tensor],
    target: Tensor,
    features: Callable[[Tensor], Tensor],
    config: EndToEnd,
    seed: int,
) -> Probe:
    """Run a plan forwards and backwards.

    Args:
        pipe: What samples.
        plan: Its mask computes nothing that is dead.
        call: Runs `pipe` on that many copies of the probing noise; returns the final images (copies * n, ...).
        target: (n, ...) features of the full run's images.
        features: What is compared, of images (N, ...); differentiable.
        config: The number of random directions per image, and how the chain is run.
        seed: The seed of the directions.
    """
    num_projections = config.num_projections
    chain = Chain(pipe, plan, len(target), 1 + num_projections, config, probing=True)

    def cotangents(error: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        signs = torch.randint(0, 2, (num_projections, *error.shape), generator=generator) * 2 - 1
        return torch.cat([2 * error, *signs.to(error)])

    error = forth_and_back(chain, lambda: call(1 + num_projections), target, cotangents, features)
    effects = _overflow_as_worst(chain.effects.by_action)
    projections = np.moveaxis(effects[..., 1:, :], -2, -1) / max(num_projections, 1) ** 0.5
    square = error.flatten(1).square().sum(1).double().cpu().numpy()
    return Probe(square, effects[..., 0, :], projections, error[0].numel())


def _overflow_as_worst(effects: np.ndarray) -> np.ndarray:
    """What overflowed, as if it did a thousand times what the worst of the others does: such cells are left alone."""
    known = np.isfinite(effects)
    worst = np.abs(effects, where=known, out=np.zeros_like(effects)).max()
    return np.where(known, effects, 1e3 * (worst or 1.0))


def forth_and_back(
    chain: Chain,
    call: Callable[[], Tensor],
    target: Tensor,
    cotangents: Callable[[Tensor], Tensor],
    features: Callable[[Tensor], Tensor],
) -> Tensor:
    """Run a chain, and what its final images shall be differentiated along back through it.

    All cotangents go back at one size, so that float16 holds their gradients however small the error is.

    Args:
        chain: Fresh.
        call: Runs its pipeline; returns the final images (copies * n, ...).
        target: (n, ...) features of the full run's images.
        cotangents: Of the error (n, ...): (copies * n, ...).
        features: What is compared, of images (N, ...); differentiable.

    Returns:
        The error (n, ...), float32.

    Raises:
        UnsupportedModelError: No gradient reaches the images.
    """
    denoiser = denoiser_of(chain.pipe)
    with frozen(denoiser, chain.checkpointing), weights_cast(denoiser), chain.intercepting():
        images = call()
        with torch.enable_grad():
            found = features(images)
            if not found.requires_grad:
                raise no_gradient("the images", chain.pipe)
            error = found[: len(target)].detach().float() - target.to(found.device).float()
            along = cotangents(error)
            sizes = along.flatten(1).square().mean(1).sqrt().clamp_min(TINY)
            unit = along / sizes.view(-1, *[1] * (along.dim() - 1))
            # to the chain alone: decoders and objectives have weights of their own
            found.backward(unit.to(found.dtype), inputs=[chain.anchor])
    chain.effects.scale(sizes.view(chain.copies, chain.num_images))
    return error
