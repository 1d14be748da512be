"""Block Caching, "Cache Me if You Can": a block is held until its changes add up to a threshold."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, get_args

import numpy as np

from stepmask.errors import StepMaskError
from stepmask.graph import Kind
from stepmask.mask import StepMask
from stepmask_lab.rivals.calibrated._threshold import check_asked, decide, recording_of


def block_caching(
    pipe: Any,
    num_inference_steps: int = 50,
    *,
    threshold: float | None = None,
    target_macs: float | None = None,
    kinds: Collection[Kind] | None = None,
    **options: Any,
) -> StepMask:
    """The schedule of block caching, calibrated on one full run (Wimbauer et al., CVPR 2024, arXiv 2312.03209).

    Taken from there: the relative L1 change of each block's output from step to step, added up since the block was
    computed last; the block is computed again where the sum exceeds the threshold. What differs: blocks are the sites
    of the model, with their residual streams where a site has one; and `target_macs` finds the threshold. Their second
    half, a scale and a shift per channel for reused outputs, masks do not have: `fit_scale_shift` makes a plan of both.

    Args:
        pipe: As for `record`; or a `Recording`.
        num_inference_steps: As for `record`; a `Recording` has its own.
        threshold: Delta, the largest sum of relative changes over which a value is held.
        target_macs: Instead of `threshold`: kept share of the full run's MACs after elimination; the mask ends at or
            under it.
        kinds: Kinds of sites to cache. By default spatial transformers, as published, where the model has them as
            sites, and otherwise all.
        options: Those of `record`.

    Returns:
        A mask whose provenance has the threshold, ``macs``, ``denoiser_calls`` and ``seconds``.

    Raises:
        TargetError: Skipping so much is not possible.
        StepMaskError: Both or neither of threshold and target, or an option makes no sense.
    """
    check_asked(threshold, target_macs)
    strange = [] if kinds is None else [kind for kind in kinds if kind not in get_args(Kind)]
    if isinstance(kinds, str) or strange:
        raise StepMaskError(f"kinds must be some of {', '.join(get_args(Kind))}, got {kinds!r}")
    recording = recording_of(pipe, num_inference_steps, options)
    graph = recording.graph
    there = {graph.sites[i].kind for i in graph.blocks}
    if kinds is None:
        kinds = {"transformer"} if "transformer" in there else there
    sites = [i for i in graph.blocks if graph.sites[i].kind in kinds]
    if not sites:
        raise StepMaskError(f"the model has no sites of kind {', '.join(kinds)}; it has {', '.join(sorted(there))}")
    changes = recording.changes[:, sites, 0]

    def rule(value: float) -> np.ndarray:
        compute = np.ones((len(changes), len(graph)), dtype=bool)
        compute[:, sites] = ~held(changes, value)
        return compute

    largest = float(np.where(np.isfinite(changes), changes, 0).sum(0).max())
    settings = {"method": "block_caching", "kinds": sorted(kinds)}
    return decide(recording, rule, threshold, target_macs, largest, **settings)


def held(changes: np.ndarray, threshold: float) -> np.ndarray:
    """(T, B) bool, the cells that hold.

    Args:
        changes: (T, B) relative change since the step before.
        threshold: Largest sum.
    """
    result = np.zeros(changes.shape, dtype=bool)
    added = np.full(changes.shape[1], np.inf)  # nothing is there to hold before the first step
    for step, change in enumerate(changes):
        added = added + change
        result[step] = (added <= threshold) & np.isfinite(added)
        added = np.where(result[step], added, 0.0)
    return result
