"""How much of a sample is noise at each step of a run, and how far an error of the model's output moves the sample."""

from __future__ import annotations

from typing import Any

import numpy as np

from stepmask.errors import StepMaskError

FLOW = "flow"


def prediction_of(scheduler: Any) -> str:
    """What the model predicts, by its scheduler: ``"epsilon"``, ``"v_prediction"``, ``"sample"``, or `FLOW`."""
    return getattr(scheduler.config, "prediction_type", FLOW)


def noise_levels(scheduler: Any) -> tuple[np.ndarray, np.ndarray]:
    """(T,) factors of the image and of the noise in the sample at each step.

    Raises:
        StepMaskError: The scheduler says none.
    """
    kept = getattr(scheduler, "alphas_cumprod", None)
    sigmas = getattr(scheduler, "sigmas", None)
    if kept is not None:
        kept = np.asarray(kept, dtype=float)
        timesteps = np.asarray(scheduler.timesteps, dtype=float)
        kept = np.interp(timesteps, np.arange(len(kept)), kept)
        return np.sqrt(kept), np.sqrt(1 - kept)
    if sigmas is not None:
        sigmas = np.asarray(sigmas, dtype=float)[: len(scheduler.timesteps)]
        if sigmas.max() <= 1:
            return 1 - sigmas, sigmas
    raise StepMaskError(
        f"{type(scheduler).__name__} says neither alphas_cumprod nor sigmas of a flow, which this method needs: set "
        "another scheduler on the pipeline"
    )


def flow_times(scheduler: Any) -> np.ndarray:
    """(T + 1,) the share of noise in the sample, once its factors add up to 1, at each step and at the run's end.

    With samples scaled so, a step of DDIM without noise is one of Euler's method over this time, as of a flow: its
    velocity is the noise less the image, and holds as long as the predicted noise does.

    Raises:
        StepMaskError: The scheduler says no noise levels.
    """
    signal, noise = noise_levels(scheduler)
    return np.append(noise / (signal + noise), 0.0)


def displacements(scheduler: Any) -> np.ndarray:
    """(T,) how far an error of 1 in the model's output moves the sample of a flow in its step.

    Raises:
        StepMaskError: The scheduler says no noise levels.
    """
    times = flow_times(scheduler)
    share, signal = times[:-1], noise_levels(scheduler)[0]
    velocity = {  # that an output of 1 makes
        "epsilon": 1 / np.maximum(1 - share, 1e-6),
        "v_prediction": signal / np.maximum(1 - share, 1e-6),
        "sample": 1 / np.maximum(share, 1e-6),
    }.get(prediction_of(scheduler), np.ones_like(share))
    return -np.diff(times) * velocity
