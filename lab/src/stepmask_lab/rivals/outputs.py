"""One full run, of which only products of its outputs with each other are kept, and of the values of its last blocks.

The squared error of anything linear in them, at any schedule, follows from the products.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepmask.errors import StepMaskError
from stepmask.graph import OUT, BlockGraph
from stepmask.inspection.describe import Description
from stepmask.mask import StepMask
from stepmask.runtime.cache import Cache
from stepmask.runtime.position import Position
from stepmask.runtime.task import Task
from stepmask.schedules import key_steps
from stepmask.values import Value, take_apart
from stepmask_lab.rivals.noise_levels import displacements, flow_times
from stepmask_lab.rivals.watched_run import WatchedRun


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a full run tells a rule on whole steps.

    Attributes:
        products: (N, T, T) of each sample, the inner products of the denoiser's outputs at any two steps, what its
            pipeline makes no use of left out; the mean square of a sample's outputs is 1.
        values: (N, T, T) the same of the values of the last blocks.
        times: (T + 1,) as `flow_times` has them.
        moves: (T,) how far an error moves the sample, as `displacements` has it.
        facts: What goes into the provenance of masks: images, seeds, denoiser calls, seconds.
        blank: A mask at which every step computes.
    """

    products: np.ndarray
    values: np.ndarray
    times: np.ndarray
    moves: np.ndarray
    facts: dict[str, Any]
    blank: StepMask

    @property
    def num_rows(self) -> int:
        """T."""
        return self.products.shape[1]

    def errors(self, factors: np.ndarray) -> np.ndarray:
        """Mean over samples of the length of weighted sums of the outputs: (...,) for factors (..., T)."""
        squares = np.einsum("...i,nij,...j->...n", factors, self.products, factors, optimize=True)
        return np.sqrt(np.maximum(squares, 0)).mean(-1)

    def mask(self, computed: Sequence[int], **provenance: Any) -> StepMask:
        """The mask that computes at these steps and forecasts at all others."""
        rest = np.ones(self.blank.compute.shape, dtype=bool)
        rest[list(computed)] = False
        facts = {**self.blank.provenance, "steps": list(computed), **provenance, **self.facts}
        return replace(self.blank, compute=~rest, forecast=rest, provenance=facts)


def record_outputs(
    pipe: Any,
    num_inference_steps: int,
    *,
    scheduler: Any | None = None,
    num_images: int = 8,
    seed: int = 0,
    call_kwargs: Mapping[str, Any] | None = None,
    conditions: str | Path | Sequence[str] | Sequence[int] | None = None,
) -> Outputs:
    """Run the full model once on a batch and record its outputs, and what its blocks end in.

    Args:
        pipe: A diffusers pipeline; or a denoiser with its `scheduler`.
        num_inference_steps: Of the runs that masks will be used for.
        scheduler: For a bare denoiser.
        num_images: Images in the batch. All their outputs are held until the run is over.
        seed: Of noise and conditions.
        call_kwargs: Arguments for the pipeline's call.
        conditions: Prompts or class numbers, as for `stepmask.learn`.

    Raises:
        StepMaskError: An option makes no sense, or the model has no last block.
    """
    task = Task(
        pipe, num_inference_steps, scheduler=scheduler, seed=seed, call_kwargs=call_kwargs, conditions=conditions
    )
    run, watch = WatchedRun(task, num_images), _Watch(task.description)
    run(watch.policy, watch)
    blank = key_steps(task.pipe, num_inference_steps, range(len(run.timesteps)))
    provenance = {name: value for name, value in blank.provenance.items() if name not in ("method", "steps")}
    blank = replace(blank, provenance=provenance)
    scheduler = task.pipe.scheduler
    return Outputs(*watch.products(), flow_times(scheduler), displacements(scheduler), run.facts(), blank)


def last_site(graph: BlockGraph) -> int:
    """The site whose value is all that the output is made of.

    Raises:
        StepMaskError: There are several.
    """
    found = [site for site in graph.level("stack") if OUT in graph.readers(site)]
    if len(found) != 1:
        names = ", ".join(graph.names[site] for site in found)
        raise StepMaskError(f"the output must come from one list of blocks to be predicted, here from {names}")
    return found[0]


class _Watch:
    """Keeps the outputs of a run, and its last values."""

    def __init__(self, description: Description) -> None:
        self._description, self._site = description, last_site(description.graph)
        self._stream = 0
        self._outputs: dict[int, list[Tensor]] = {}
        self._values: dict[int, list[Tensor]] = {}

    def __call__(self, position: Position, forward: Callable[[], Any]) -> Any:
        self._stream = position.stream
        output = forward()
        self._keep(self._outputs, [self._description.used_output(output)])
        return output

    def policy(self, step: int, site: int, compute: Callable[[], Value], cache: Cache) -> Value:
        """Compute, as the full run does, and look."""
        value = compute()
        if site == self._site:
            self._keep(self._values, take_apart(value)[0])
        return value

    def _keep(self, kept: dict[int, list[Tensor]], parts: list[Tensor]) -> None:
        found = torch.cat([part.detach().flatten(1).float() for part in parts], dim=1)
        kept.setdefault(self._stream, []).append(found)

    def products(self) -> tuple[np.ndarray, np.ndarray]:
        """(N, T, T) of all streams' samples, of outputs and of values."""
        return _products(self._outputs), _products(self._values)


def _products(streams: dict[int, list[Tensor]]) -> np.ndarray:
    found = []
    for kept in streams.values():
        for sample in torch.stack(kept, dim=1).double():
            products = (sample @ sample.T).cpu().numpy()
            found.append(products / np.trace(products) * len(products))
    return np.stack(found)
