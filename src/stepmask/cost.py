"""CostTable: what each site costs, in multiply-accumulates and, where measured, in milliseconds.

How the numbers are found is `stepmask.inspection.measure_cost`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from stepmask.errors import StepMaskError
from stepmask.nesting import parents_of

Unit = Literal["macs", "latency"]

BATCH_SIZE = 16
"""Images that are sampled at once where nothing else is said."""


@dataclass(frozen=True, eq=False)
class CostTable:
    """Cost of one denoising step per generated image.

    Attributes:
        sites: B names in execution order.
        macs: (B,) multiply-accumulates of each site per image and step, attention products counted, guidance
            included (a guided image runs the denoiser on two inputs or more). Of a site that contains others, what
            runs in it outside of those.
        always_macs: What runs outside of all sites.
        forwards_per_image: Denoiser inputs per image and step: 2 with classifier-free guidance, 3 with some others.
        value_bytes: (B,) bytes of each site's value per image, guidance included, in the model's dtype; or None.
        latency_ms: (B,) measured milliseconds by which a step of one batch gets shorter where each site rests and hands
            out a forecast; of a site that contains others, how much shorter than where those rest; or None.
        always_latency_ms: Measured milliseconds of a step in which all sites rest, or None.
        product_macs: (B,) of `macs`, the products of attention: queries with keys, weights with values; or None.
        always_product_macs: The products of attention outside of all sites.
    """

    sites: tuple[str, ...]
    macs: np.ndarray
    always_macs: float
    forwards_per_image: int = 1
    value_bytes: np.ndarray | None = None
    latency_ms: np.ndarray | None = None
    always_latency_ms: float | None = None
    product_macs: np.ndarray | None = None
    always_product_macs: float = 0.0

    @property
    def step_macs(self) -> float:
        """MACs of one full step per image."""
        return float(self.macs.sum() + self.always_macs)

    @property
    def coverage(self) -> float:
        """Share of a step's MACs that lies in sites."""
        return float(self.macs.sum() / self.step_macs)

    def conv_linear(self) -> CostTable:
        """The same table in the other convention: convolutions and linear layers alone, no attention products.

        Raises:
            StepMaskError: The table does not know the products.
        """
        if self.product_macs is None:
            raise StepMaskError("this cost table does not know the products of attention: use measure_cost(pipe)")
        return replace(
            self,
            macs=self.macs - self.product_macs,
            always_macs=self.always_macs - self.always_product_macs,
            product_macs=np.zeros_like(self.product_macs),
            always_product_macs=0.0,
        )

    def shares(self, unit: Unit = "macs") -> tuple[np.ndarray, float]:
        """Each site's share of a full step (B,), and the share of what always runs; they add up to 1."""
        if unit == "macs":
            sites, always = self.macs, self.always_macs
        elif self.latency_ms is None:
            raise StepMaskError("no latency was measured: use measure_cost(pipe, latency=True)")
        else:
            sites, always = self.latency_ms, self.always_latency_ms
        total = sites.sum() + always
        return sites / total, float(always / total)

    def fraction(self, plan: Any, unit: Unit = "macs") -> float:
        """Kept share of the full run's cost, in (0, 1].

        Args:
            plan: A `Plan`; or a `StepMask`, then every cell that says compute is counted, dead ones included, unless it
                lies within a site that does not.
            unit: ``"macs"`` or ``"latency"``.
        """
        strangers = set(plan.sites) - set(self.sites)
        if strangers:
            raise StepMaskError(f"this cost table has no site {min(strangers)!r}: measure the cost of the same model")
        cells = np.ones((len(plan.compute), len(self.sites)), dtype=bool)
        given = np.asarray(getattr(plan, "called", plan.compute))
        cells[:, [self.sites.index(name) for name in plan.sites]] = given
        for i, parent in reversed([*enumerate(parents_of(self.sites))]):  # what contains others comes after them
            if parent is not None:
                cells[:, i] &= cells[:, parent]
        sites, always = self.shares(unit)
        weights = getattr(plan, "inputs", None)  # of the rows, where they do not cost alike
        return min(float(np.dot(sites, np.average(cells, axis=0, weights=weights)) + always), 1.0)

    def full_macs(self, plan: Any) -> float:
        """MACs per image of a whole run in full, of as many rows as a plan (or mask) has."""
        inputs = getattr(plan, "inputs", None)
        return self.step_macs * (len(plan.compute) if inputs is None else float(inputs.sum() / inputs[0]))

    def total_macs(self, plan: Any) -> float:
        """MACs per image of a whole run under `plan` (or mask)."""
        return self.fraction(plan) * self.full_macs(plan)

    def peak_cache_bytes(self, plan: Any) -> int:
        """Most bytes per image that a run under `plan` keeps at once."""
        if self.value_bytes is None:
            raise StepMaskError("this cost table does not know the size of values: use measure_cost(pipe)")
        size = dict(zip(self.sites, self.value_bytes, strict=True))
        kept = np.asarray(plan.keep) * np.array([size[name] for name in plan.sites])
        before = np.vstack([np.zeros_like(kept[:1]), kept[:-1]])
        # after each site of a row: what the row has kept so far, and what the sites to come still hold
        held = np.cumsum(kept, axis=1) + before.sum(axis=1, keepdims=True) - np.cumsum(before, axis=1)
        return int(max(held.max(), 0))
