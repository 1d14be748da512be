"""The whole run as one differentiable map of its gates, inside the user's pipeline.

Every cell mixes what it computes with what the same site handed out one step before, by its gate; autograd goes through
sites, caches, scheduler and guidance to the final image. With checkpointing only what goes from step to step stays in
memory, and each denoiser call runs again on the way back. Knows no losses and no budgets.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten
from torch.utils.checkpoint import checkpoint

from stepmask.gate import gated
from stepmask.graph import BlockGraph
from stepmask.inspection.registry import denoiser_of
from stepmask.learning.interception import companions
from stepmask.runtime.position import PositionTracker, timestep_of
from stepmask.values import put_together, take_apart

Values = dict[int, list[Tensor]]
"""By site, the tensors in what it hands out."""


@dataclass
class _Call:
    """What the gates of the sites need while a call runs, and what they leave."""

    gates: Tensor
    before: Values
    after: Values


class SuperNet:
    """One run under gates.

    Args:
        pipe: What samples; its denoiser is gated while `intercepting`, also for the way back.
        graph: Its block graph.
        gates: (T, B) in [0, 1], 1 computes; row 0 and samplers are taken for 1.
        checkpointing: Whether to keep only what goes from step to step.
    """

    def __init__(self, pipe: Any, graph: BlockGraph, gates: Tensor, checkpointing: bool) -> None:
        self.pipe, self._graph, self._gates, self._checkpointing = pipe, graph, gates, checkpointing
        self._tracker = PositionTracker()
        self._streams: dict[int, tuple[int, Values]] = {}
        self._call: _Call | None = None

    def intercepting(self) -> AbstractContextManager[None]:
        """Gate the denoiser and its blocks for a while."""
        denoiser = denoiser_of(self.pipe)
        modules = dict(denoiser.named_modules())
        names = self._graph.names
        gates = [(names[i], modules[names[i]], self._site(i)) for i in self._graph.blocks]
        beside = companions(self.pipe) if self._checkpointing else []
        return gated([*beside, *gates, (type(denoiser).__name__, denoiser, self._denoiser)])

    def _denoiser(self, compute: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        """One call of the pipeline."""
        position = self._tracker.locate(self.pipe.scheduler, timestep_of(args, kwargs))
        torch.set_grad_enabled(True)  # stays on until the pipeline's own no_grad ends
        row, before = self._streams.get(position.stream, (-1, {}))
        before = before if row == position.row - 1 else {}
        leaves, spec = tree_flatten((args, kwargs))
        sites = sorted(before)
        sizes = [len(before[site]) for site in sites]
        output_spec: list[TreeSpec] = []
        found: list[tuple[int, int]] = []

        def run(gates: Tensor, leaves: list[Any], *parts: Tensor) -> tuple[Tensor, ...]:
            given = iter(parts)
            held = {site: [next(given) for _ in range(size)] for site, size in zip(sites, sizes, strict=True)}
            self._call = call = _Call(gates, held, {})
            try:
                outputs, out_spec = tree_flatten(compute(*tree_unflatten(leaves, spec)))
            finally:
                self._call = None
            output_spec[:] = [out_spec]
            found[:] = [(site, len(values)) for site, values in call.after.items()]
            return (*outputs, *(part for values in call.after.values() for part in values))

        parts = [part for site in sites for part in before[site]]
        gates = self._gates[position.row].to(next(denoiser_of(self.pipe).parameters()).device)
        if not before:  # nothing to hold, so nothing to learn
            with torch.no_grad():
                made = run(gates, leaves)
        elif self._checkpointing:
            made = checkpoint(run, gates, leaves, *parts, use_reentrant=False, preserve_rng_state=False)
        else:
            made = run(gates, leaves, *parts)
        num_outputs = output_spec[0].num_leaves
        rest = iter(made[num_outputs:])
        after = {site: [next(rest) for _ in range(size)] for site, size in found}
        self._streams[position.stream] = position.row, after
        return tree_unflatten(list(made[:num_outputs]), output_spec[0])

    def _site(self, site: int) -> Callable[[Callable[..., Any], tuple, dict], Any]:
        rewritten = site in self._graph.rewritten

        def control(compute: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
            call = self._call
            if call is None:  # a submodule called on its own, outside of the denoiser
                return compute()
            parts, layout = take_apart(compute())
            if site in call.before:
                gate = call.gates[site]
                parts = [torch.lerp(old, new, gate.to(new)) for old, new in zip(call.before[site], parts, strict=True)]
            call.after[site] = parts
            return put_together([part.clone() for part in parts] if rewritten else parts, layout)

        return control
