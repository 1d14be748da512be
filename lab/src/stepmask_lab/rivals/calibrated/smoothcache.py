"""SmoothCache: layers of a kind are skipped together while their outputs, on average, change little."""

from __future__ import annotations

from typing import Any

import numpy as np

from stepmask.errors import StepMaskError
from stepmask.mask import StepMask
from stepmask_lab.rivals.calibrated._threshold import check_asked, decide, recording_of
from stepmask_lab.rivals.calibrated.recording import LOOKBACK


def smoothcache(
    pipe: Any,
    num_inference_steps: int = 50,
    *,
    threshold: float | None = None,
    target_macs: float | None = None,
    max_skips: int = LOOKBACK,
    **options: Any,
) -> StepMask:
    """The schedule of SmoothCache, calibrated on one full run (Liu et al. 2024, arXiv 2411.10510).

    Taken from there: the relative L1 difference of a layer's output to that of the step computed last, averaged over
    all layers of a kind; skipping while it is at most a threshold, three steps in a row at most; first and last steps
    always computed. What differs: a skip is decided step by step, where the authors' code takes the longest skip whose
    end is under the threshold, without looking at the steps on the way; a kind is that of `stepmask.graph.Site` (in
    U-Nets resnets and attention, which theirs does not run on); and `target_macs` finds the threshold.

    Args:
        pipe: As for `record`; or a `Recording`.
        num_inference_steps: As for `record`; a `Recording` has its own.
        threshold: Largest mean relative change of what is skipped; the authors take 0.08 to 0.35.
        target_macs: Instead of `threshold`: kept share of the full run's MACs after elimination. The mask ends at or
            under it, as near as skipping whole kinds allows.
        max_skips: Most steps that are skipped in a row, 1 to 3.
        options: Those of `record`.

    Returns:
        A mask whose provenance has the threshold, ``macs``, ``denoiser_calls`` and ``seconds``.

    Raises:
        TargetError: Skipping so much is not possible.
        StepMaskError: Both or neither of threshold and target, or an option makes no sense.
    """
    check_asked(threshold, target_macs)
    if isinstance(max_skips, bool) or not isinstance(max_skips, int) or not 1 <= max_skips <= LOOKBACK:
        raise StepMaskError(f"max_skips must be a whole number between 1 and {LOOKBACK}, got {max_skips!r}")
    recording = recording_of(pipe, num_inference_steps, options)
    graph = recording.graph
    kinds: dict[str, list[int]] = {}
    for site in graph.blocks:
        kinds.setdefault(graph.sites[site].kind, []).append(site)
    means = {kind: recording.changes[:, sites].mean(1) for kind, sites in kinds.items()}

    def rule(value: float) -> np.ndarray:
        compute = np.ones((len(recording.timesteps), len(graph)), dtype=bool)
        for kind, sites in kinds.items():
            compute[np.ix_(skipped(means[kind], value, max_skips), sites)] = False
        return compute

    largest = max((mean[np.isfinite(mean)].max(initial=0.0) for mean in means.values()), default=0.0)
    settings = {"method": "smoothcache", "max_skips": max_skips}
    return decide(recording, rule, threshold, target_macs, largest, **settings)


def skipped(changes: np.ndarray, threshold: float, max_skips: int = LOOKBACK) -> np.ndarray:
    """(T,) bool, the steps that layers of one kind skip.

    Args:
        changes: (T, 3) mean change over one, two, three steps.
        threshold: Largest change.
        max_skips: Most in a row.
    """
    result = np.zeros(len(changes), dtype=bool)
    computed = 0
    for step in range(1, len(changes) - 1):
        age = step - computed
        if age <= max_skips and changes[step, age - 1] <= threshold and np.isfinite(changes[step, age - 1]):
            result[step] = True
        else:
            computed = step
    return result
