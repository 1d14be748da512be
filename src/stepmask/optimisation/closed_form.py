"""Timesteps from the noise schedule alone: those that make a bound of the solver's error small.

After Xue et al., "Accelerating Diffusion Sampling with Optimized Time Steps" (arXiv 2402.17376). The solver integrates
``exp(lambda) * clean`` over lambda, the logarithm of the ratio of signal to noise, with the clean samples that the
model predicted interpolated by polynomials. The final sample is then a sum of these predictions with known
coefficients, and an error of each that is taken to grow with the noise adds up by their size. No model runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepmask.errors import StepMaskError
from stepmask.runtime.given_run import takes_timesteps

MOST_ORDER = 3
"""Of the polynomials, as solvers of higher orders are not in use."""
LOWERED_BELOW = 15
"""Solvers of runs of fewer steps lower the order at the end."""
CLEANEST = 1e-3
"""Sigma of flows where the integral ends."""
NODES, WEIGHTS = np.polynomial.legendre.leggauss(8)


def optimised_timesteps(scheduler: Any, num_inference_steps: int, *, latent: bool = True) -> tuple[float, ...]:
    """Timesteps for a run of so many steps, by the schedule alone. It takes seconds.

    Args:
        scheduler: A scheduler of diffusers that can be told its timesteps.
        num_inference_steps: The number of steps.
        latent: Whether samples are latents. The error of a prediction is taken to be sigma squared over alpha there,
            and sigma over alpha for pixels, as the authors found best.

    Raises:
        StepMaskError: The scheduler takes no timesteps, or was not trained on so many.
    """
    if not takes_timesteps(scheduler):
        raise StepMaskError(f"{type(scheduler).__name__} sets its timesteps itself, so that there are none to optimise")
    times, logs = _schedule(scheduler)
    if num_inference_steps > len(times) - 1:
        raise StepMaskError(f"{num_inference_steps} steps are more than the {len(times)} of the schedule")
    order = order_of(scheduler)
    evenly = [
        np.linspace(logs[0], logs[-1], num_inference_steps + 1),
        np.interp(np.linspace(0, len(logs) - 1, num_inference_steps + 1), np.arange(len(logs)), logs),
    ]
    found = [_minimised(torch.tensor(start), order, 2 if latent else 1) for start in evenly]
    best = min(found, key=lambda pair: pair[0])[1].numpy()
    return distinct(np.interp(best[:-1], logs, times), whole=_is_whole(scheduler))


def order_of(scheduler: Any) -> int:
    """Order of a solver: how many of the last predictions it interpolates."""
    return min(MOST_ORDER, int(scheduler.config.get("solver_order") or 1))


def error_bound(logs: Tensor, order: int, power: int) -> Tensor:
    """What the predictions' errors add up to at most.

    Args:
        logs: (N + 1,) lambda of the N steps, rising, and of the end.
        order: That of the solver.
        power: An error is taken to be sigma to this power over alpha.
    """
    count = len(logs) - 1
    coefficients: list[Any] = [0.0] * count
    nodes, weights = torch.tensor(NODES), torch.tensor(WEIGHTS)
    for step in range(count):
        last = count - step if count < LOWERED_BELOW else order
        known = list(range(max(0, step + 1 - min(order, last)), step + 1))
        half = (logs[step + 1] - logs[step]) / 2
        places = logs[step] + half * (nodes + 1)
        for one in known:
            basis = torch.ones_like(places)
            for other in known:
                if other != one:
                    basis = basis * (places - logs[other]) / (logs[one] - logs[other])
            coefficients[one] = coefficients[one] + (weights * places.exp() * basis).sum() * half
    sigma = torch.sigmoid(-2 * logs[:-1]).sqrt()
    alpha = torch.sigmoid(2 * logs[:-1]).sqrt()
    return (torch.stack(coefficients).abs() * sigma**power / alpha).sum()


def distinct(times: np.ndarray, whole: bool) -> tuple[float, ...]:
    """Falling timesteps not below 0 that differ by at least 1, or a thousandth; whole ones where they must be."""
    apart = 1.0 if whole else 1e-3
    found = np.round(times) if whole else np.array(times)
    for i in range(1, len(found)):
        found[i] = min(found[i], found[i - 1] - apart)
    found[-1] = max(found[-1], 0.0)
    for i in reversed(range(len(found) - 1)):
        found[i] = max(found[i], found[i + 1] + apart)
    return tuple(float(time) for time in found)


def _is_whole(scheduler: Any) -> bool:
    return "FlowMatch" not in type(scheduler).__name__ and "Euler" not in type(scheduler).__name__


def _schedule(scheduler: Any) -> tuple[np.ndarray, np.ndarray]:
    """All timesteps, falling, and their lambda, rising."""
    trained = scheduler.config.num_train_timesteps
    if "FlowMatch" in type(scheduler).__name__ or scheduler.config.get("use_flow_sigmas"):
        sigma = np.linspace(1 - CLEANEST, CLEANEST, trained)
        times = np.append(sigma * trained, 0.0)
        times[0] = trained  # all noise, whose lambda is no number
        return times[:-1], np.log((1 - sigma) / sigma)
    kept = scheduler.alphas_cumprod.double().numpy()[::-1]
    return np.arange(trained - 1, -1, -1, dtype=float), 0.5 * np.log(kept / (1 - kept))


def _minimised(start: Tensor, order: int, power: int) -> tuple[float, Tensor]:
    """The smallest bound from a start on, with its first and last lambda kept."""
    span = start[-1] - start[0]
    free = (start.diff() / span).log().requires_grad_()
    optimiser = torch.optim.LBFGS([free], max_iter=200, line_search_fn="strong_wolfe")

    def logs() -> Tensor:
        return torch.cat([start[:1], start[0] + span * free.softmax(0).cumsum(0)])

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = error_bound(logs(), order, power)
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(loss)
    with torch.no_grad():
        return float(error_bound(logs(), order, power)), logs()
