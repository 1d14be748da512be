"""The package cache-dit (1.5.3): DBCache, alone and with its TaylorSeer calibrator, and its step masks.

DBCache computes the first `Fn` blocks at every step; where their residual has changed by less than a threshold since
the latest full step, the other blocks add what they added then, or what TaylorSeer extrapolates. A step mask says
beforehand which steps compute in full. It finds out by the class of a transformer whether it knows it.

Settings: F1B0, thresholds 0.08 (the default), 0.12 and 0.24, and 0.24 with at most 3 cached steps in a row; the default
warm-up of 8 steps is taken for 50 and scaled. TaylorSeer has order 1. The masks are its policies slow to ultra, with
static caching and TaylorSeer. It decides for a whole batch, so an image depends on the others in its batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from stepmask.inspection.registry import denoiser_of
from stepmask_lab.method import Subject, Unmasked
from stepmask_lab.shipped._enabling import Rival, num_rows, silent

WARM_UP = 8 / 50
"""Share of the steps that are never cached."""
POLICIES = ("slow", "medium", "fast", "ultra")


def methods() -> list[Unmasked]:
    """DBCache with and without forecasts, and step masks."""
    return [
        Rival("cache-dit DBCache", "cache_dit", _thresholds, partial(_enable, order=None)).method(),
        Rival("cache-dit DBCache + TaylorSeer", "cache_dit", _thresholds, partial(_enable, order=1)).method(),
        Rival("cache-dit masks + TaylorSeer", "cache_dit", _policies, partial(_enable, order=1)).method(),
    ]


def _thresholds(subject: Subject) -> Mapping[str, dict[str, Any]]:
    settings = {f"{value:g}": {"residual_diff_threshold": value} for value in (0.08, 0.12, 0.24)}
    return settings | {"0.24, 3 in a row": {"residual_diff_threshold": 0.24, "max_continuous_cached_steps": 3}}


def _policies(subject: Subject) -> Mapping[str, dict[str, Any]]:
    return {policy: {"policy": policy} for policy in POLICIES}


@contextmanager
def _enable(subject: Subject, options: dict[str, Any], order: int | None) -> Iterator[None]:
    import cache_dit

    # given a pipeline, it replaces the call of its class, for all others too
    transformer, rows = denoiser_of(subject.pipe), num_rows(subject)
    options = dict(options)
    policy = options.pop("policy", None)
    if policy is not None:
        options["steps_computation_mask"] = cache_dit.steps_mask(mask_policy=policy, total_steps=rows)
        options["steps_computation_policy"] = "static"
    config = cache_dit.DBCacheConfig(
        Fn_compute_blocks=1,
        Bn_compute_blocks=0,
        max_warmup_steps=round(WARM_UP * rows),
        num_inference_steps=rows,
        **options,
    )
    calibrator = None if order is None else cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=order)
    with silent():
        cache_dit.enable_cache(transformer, cache_config=config, calibrator_config=calibrator)
    try:
        yield
    finally:
        with silent():
            cache_dit.disable_cache(transformer)
