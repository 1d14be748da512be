"""What a learning run is about: pipeline, steps, seed and conditions, with all that follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from stepmask.inspection.costs import measure_cost
from stepmask.inspection.describe import describe
from stepmask.inspection.registry import denoiser_of
from stepmask.learning._identity import comparable, weights_digest
from stepmask.learning.budget import Budget
from stepmask.learning.noise import Noise
from stepmask.learning.riding import check_learnable
from stepmask.liveness import make_plan, rows_of
from stepmask.mask import StepMask, scheduler_identity


class Setting:
    """A pipeline that masks are made for.

    Args:
        pipe: What samples.
        num_inference_steps: Of each run.
        seed: Of noise, conditions and draws.
        call_kwargs: For the pipeline's call.
        config: The method's knobs, a dataclass of JSON values.
        latency: Whether to measure the latencies of the sites too.

    Raises:
        StepMaskError: A mask is applied to the model.
        UnsupportedModelError: It is offloaded.
    """

    def __init__(
        self,
        pipe: Any,
        num_inference_steps: int,
        seed: int,
        call_kwargs: Mapping[str, Any] | None,
        config: Any,
        latency: bool = False,
    ) -> None:
        self.pipe, self.num_inference_steps, self.seed, self.config = pipe, num_inference_steps, seed, config
        self.denoiser = denoiser_of(pipe)
        check_learnable(pipe)
        self.graph = describe(pipe, call_kwargs=call_kwargs)
        self.call_kwargs = dict(call_kwargs or {})
        self.scheduler = scheduler_identity(pipe.scheduler)
        self.costs = measure_cost(pipe, call_kwargs=self.call_kwargs, latency=latency)
        self.budget = Budget(self.graph, self.costs)
        self.noise = Noise(pipe, num_inference_steps, seed, self.call_kwargs)
        self.timesteps = self.noise.timesteps()

    @property
    def shape(self) -> tuple[int, int]:
        """(T, B)."""
        return len(self.timesteps), len(self.graph)

    def identity(self, **more: Any) -> dict[str, Any]:
        """JSON values that must be the same for an interrupted run to go on."""
        return {
            "config": asdict(self.config),
            "seed": self.seed,
            "num_inference_steps": self.num_inference_steps,
            "scheduler": self.scheduler,
            "graph": self.graph.fingerprint,
            "weights": weights_digest(self.denoiser),
            "call_kwargs": {name: comparable(value) for name, value in sorted(self.call_kwargs.items())},
            **more,
        }

    def cost(self, compute: np.ndarray) -> float:
        """Kept share of the full run's MACs of a table (T, B), after elimination."""
        return self.budget.cost(rows_of(compute))

    def cache_bytes(self, compute: np.ndarray) -> int:
        """Most bytes per image that a run under a table (T, B) keeps at once."""
        return self.costs.peak_cache_bytes(make_plan(self.bare(compute), self.graph))

    def bare(self, compute: np.ndarray) -> StepMask:
        """A mask without identity, to try."""
        return StepMask(compute=compute, sites=self.graph.names, timesteps=self.timesteps)

    def mask(
        self, compute: np.ndarray, seeds: Sequence[int], scores: np.ndarray | None = None, **provenance: Any
    ) -> StepMask:
        """A mask with its identity and what is known of it.

        Args:
            compute: (T, B) bool.
            seeds: Of the noise that was used, so that nobody evaluates on it.
            scores: (T, B) as `StepMask` has them.
            provenance: What the method says, its name first.
        """
        facts = {
            "num_inference_steps": self.num_inference_steps,
            "macs": round(self.cost(compute), 6),
            "seed": self.seed,
            "noise_seeds": [seeds[0], seeds[-1]],
            "guidance_scale": self.call_kwargs.get("guidance_scale"),
            "model": type(self.denoiser).__name__,
            "config": asdict(self.config),
        }
        return StepMask(
            compute=compute,
            sites=self.graph.names,
            timesteps=self.timesteps,
            scheduler=self.scheduler,
            graph=self.graph.fingerprint,
            scores=scores,
            provenance={**provenance, **facts},
        )
