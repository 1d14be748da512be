"""What is said of a mask that was learned: its provenance, with the interval of its PSNR on held-back noise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from stepmask.cost import CostTable
from stepmask.liveness import Plan


def psnr_facts(held_back: np.ndarray) -> dict[str, Any]:
    """Mean, its interval, and the worst of some images.

    Args:
        held_back: (n,) PSNR in dB.
    """
    mean, spread = float(held_back.mean()), float(held_back.std(ddof=1))
    half_width = student_t_95(len(held_back) - 1) * spread / math.sqrt(len(held_back))
    return {
        "mean": round(mean, 3),
        "confidence_95": [round(mean - half_width, 3), round(mean + half_width, 3)],
        "worst": round(float(held_back.min()), 3),
        "held_back_images": len(held_back),
    }


def latency_facts(costs: CostTable, plan: Plan, batch_size: int) -> dict[str, Any]:
    """What a plan takes of the time of the full run, by measured latencies of so many images at once."""
    return {
        "share": round(costs.fraction(plan, "latency"), 6),
        "full_step_ms": round(float(costs.latency_ms.sum() + costs.always_latency_ms), 3),
        "batch_size": batch_size,
    }


def student_t_95(degrees: int) -> float:
    """97.5% quantile of Student's t, by its expansion around the normal one (Abramowitz and Stegun, 26.7.5).

    Of fewer than 5 degrees of freedom, where the expansion is too small, by the same book's Table 26.10.
    """
    few = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}
    if degrees in few:
        return few[degrees]
    z = 1.959964
    return (
        z
        + (z**3 + z) / (4 * degrees)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * degrees**3)
    )
