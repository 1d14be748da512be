"""The whole sampling run as one differentiable map, inside the user's pipeline, within the memory that is given.

The pipeline runs as it is, with gradient through its own loop: scheduler and guidance are recorded by autograd, each
denoiser call is one node that keeps its inputs and the values its sites computed. When gradients come back, the graph
of a call is there if there was room for it; else the call is run again, so that one graph at a time is enough. What
later steps owe to a value in the cache comes back beside the latents, as adjoints by site.

Several cotangents at once ride as copies of the images: the pipeline is called for ``copies`` times as many images,
equal in all, the denoiser runs on one of each, and each copy brings a cotangent of its own back.

What comes out, for every cell and every other action that it might take: the first-order change of the final images
along each cotangent. Knows no budgets and makes no choices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_map_only, tree_unflatten

from stepmask.gate import copying, gated
from stepmask.inspection.inputs import first_sample, rows_per_sample
from stepmask.inspection.placement import device_of, plain_parts
from stepmask.inspection.registry import denoiser_of
from stepmask.inspection.sites import gates_of
from stepmask.learning.end_to_end.config import EndToEnd
from stepmask.learning.end_to_end.gradients.adjoints import Parts
from stepmask.learning.end_to_end.gradients.effects import ActionEffects, ForecastEffects
from stepmask.learning.end_to_end.gradients.history import History
from stepmask.learning.end_to_end.gradients.list_calls import come_as_list, with_batch, without_batch
from stepmask.learning.interception import companions
from stepmask.learning.refusals import INSTEAD, NoGradientError, no_gradient, not_differentiable
from stepmask.liveness import Plan, State, rows_of
from stepmask.nesting import inside_of
from stepmask.runtime.position import Position, PositionTracker, timestep_of
from stepmask.values import Layout, put_together, take_apart


@dataclass
class _Ran:
    """A call that ran with gradient, and what the gates collected meanwhile."""

    inputs: list[Tensor]
    """Its leaves that depend on earlier steps."""
    output: Any = None
    values: dict[int, Parts] = field(default_factory=dict)
    """Computed values, within the graph."""
    leaves: dict[int, Parts] = field(default_factory=dict)
    """Values from the cache, where a gradient is wanted."""
    fresh: dict[int, Parts] = field(default_factory=dict)
    """What sites that do not compute would compute."""


@dataclass
class _Call:
    """One denoiser call of the run, as it is needed on the way back."""

    position: Position
    compute: Callable[..., Any]
    spec: TreeSpec
    leaves: list[Any]
    differentiable: list[int]
    """Indices of the leaves that depend on earlier steps."""
    groups: int
    """Batches of images in one call: 2 where guidance runs both halves at once."""
    output_spec: TreeSpec | None = None
    ran: _Ran | None = None
    """With its graph, where there was room for it."""


class Chain:
    """One run under a plan, recorded, and run backwards for the account of its cells.

    Args:
        pipe: What samples; its denoiser is gated while `intercepting`.
        plan: What runs. Its mask must not compute what the plan leaves dead.
        num_images: The number of images without their copies.
        copies: The number of cotangents.
        config: How many bytes of graphs are kept from the way forth, and whether values wait in host memory.
        probing: Whether to account for other actions of all cells, computing those that do not compute among them, at
            the price of computing them; else for gains and weights of forecasts.
    """

    def __init__(
        self,
        pipe: Any,
        plan: Plan,
        num_images: int,
        copies: int,
        config: EndToEnd,
        *,
        probing: bool = False,
    ) -> None:
        self.pipe, self.plan, self.num_images, self.copies = pipe, plan, num_images, copies
        self._probing, self._offload = probing, bool(config.offload)
        # what runs for what lies within it alone makes a value too: other tables read it, or make another one of it
        states = np.where(plan.called, State.compute, plan.states) if probing else plan.states
        self._states, self._called, self._keep = states.tolist(), plan.called.tolist(), plan.keep.tolist()
        self._computing_afresh = False
        stacks = {i: bits for i, bits in plan.graph.within.items() if plan.graph.sites[i].kind == "stack"}
        # blocks that come before what their list would compute
        self._computes_for = [
            inside_of(row, {i: bits for i, bits in stacks.items() if i not in plan.weights})
            for row in rows_of(((plan.states == State.reuse) | (plan.states == State.forecast)) & ~plan.called)
        ]
        self._tracker = PositionTracker()
        self._last_calls: dict[int, tuple[int, int]] = {}
        self._call: _Call | None = None
        self._ran: _Ran | None = None
        self._records = self._runs_again = False
        self._layouts: dict[int, Layout] = {}
        self.anchor = torch.zeros((), requires_grad=True)
        """Every call depends on it, so that gradients come back through all of them."""
        self._device = device_of(denoiser_of(pipe))
        self._graph_memory = _GraphMemory(config.graph_bytes, denoiser_of(pipe).parameters())
        self.history = History(plan, self._device, self._offload)
        """What waits between the two passes."""
        self.effects: Any = (
            ActionEffects(plan, self.history, copies, num_images, self._device)
            if probing
            else ForecastEffects(plan, self.history, copies, num_images, self._device, config.channel_gains)
        )
        """What comes out: `ActionEffects` where it is probing, else `ForecastEffects`."""
        self.checkpointing = bool(config.gradient_checkpointing)
        """Whether blocks of the denoiser shall run again on the way back."""

    def intercepting(self) -> AbstractContextManager[None]:
        """Gate the denoiser and its sites for a while."""
        denoiser = denoiser_of(self.pipe)
        gates = gates_of(denoiser, self.plan.graph, self._site)
        return gated([*companions(self.pipe), *gates, (type(denoiser).__name__, denoiser, self._denoiser)])

    def _denoiser(self, compute: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        """One call of the pipeline: a node of the graph."""
        position = self._tracker.locate(self.pipe.scheduler, timestep_of(args, kwargs))
        torch.set_grad_enabled(True)  # stays on until the pipeline's own no_grad ends
        one_by_one = come_as_list(args, kwargs)
        if one_by_one:
            compute, args, kwargs = with_batch(compute, args, kwargs)
        leaves, spec = tree_flatten((args, kwargs))
        sample = first_sample(leaves)
        batch = len(sample)
        if batch % (self.num_images * self.copies):
            raise NoGradientError(
                f"the denoiser was called with a batch of {batch} for {self.num_images * self.copies} images, and "
                f"learning end to end needs a pipeline that runs all images together; {INSTEAD}"
            )
        differentiable = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.requires_grad]
        tensors = [leaves[i] for i in differentiable]
        leaves = [self._first_copy(leaf, sample) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        groups = batch // (self.num_images * self.copies)
        self._check_call(position, groups, bool(differentiable))
        call = _Call(position, compute, spec, leaves, differentiable, groups)
        outputs = _Node.apply(self, call, self.anchor, *tensors)
        output = tree_unflatten(list(outputs), call.output_spec)
        return without_batch(output) if one_by_one else output

    def _check_call(self, position: Position, groups: int, differentiable: bool) -> None:
        """Refuse runs whose calls do not follow from each other."""
        last = self._last_calls.get(position.stream, (-1, groups))
        self._last_calls[position.stream] = position.row, groups
        if last != (position.row - 1, groups):
            raise NoGradientError(
                f"{type(self.pipe).__name__} calls the denoiser at row {position.row} as it did not before, and "
                f"learning end to end needs the same calls at every step, from the first on; {INSTEAD}"
            )
        if position.row and not differentiable:
            raise no_gradient(f"row {position.row}", self.pipe)

    def _first_copy(self, tensor: Tensor, sample: Tensor) -> Tensor:
        """One of each image, where the tensor has a batch of copies."""
        rows = rows_per_sample(tensor, sample)
        if not rows:
            return tensor.detach()
        by_copy = tensor.detach().unflatten(0, (-1, self.copies, self.num_images * rows))
        return by_copy[:, 0].flatten(0, 1)

    def record(self, call: _Call) -> tuple[Tensor, ...]:
        """Run a call under the plan, keep what its sites compute, and its graph while there is room."""
        self._records = True
        try:
            if self._graph_memory.is_left and call.differentiable:
                with self._graph_memory.counting():
                    ran = self._run(call)
                self._graph_memory.add(ran)
                output = tree_map_only(Tensor, lambda t: t.detach().clone(), ran.output)
                call.ran = ran if self._graph_memory.is_left else None
            else:
                with torch.no_grad():
                    output = self._compute(call, call.leaves)
        finally:
            self._records = False
        tensors, call.output_spec = tree_flatten(output)
        if self._offload:
            call.leaves = [leaf.cpu() if isinstance(leaf, Tensor) else leaf for leaf in call.leaves]
        size = call.groups, self.copies, self.num_images
        return tuple(
            t.unflatten(0, (call.groups, self.num_images)).unsqueeze(1).expand(*size, *t.shape[1:]).flatten(0, 2)
            for t in tensors
        )

    def _run(self, call: _Call) -> _Ran:
        """Run a call with gradient."""
        leaves = [leaf.to(self._device) if isinstance(leaf, Tensor) else leaf for leaf in call.leaves]
        for index in call.differentiable:
            leaves[index] = leaves[index].detach().requires_grad_()
        ran = self._ran = _Ran([leaves[index] for index in call.differentiable])
        try:
            with torch.enable_grad():
                ran.output = self._compute(call, leaves)
        finally:
            self._ran = None
        return ran

    def _compute(self, call: _Call, leaves: list[Any]) -> Any:
        self._call = call
        try:
            return call.compute(*tree_unflatten(leaves, call.spec))
        finally:
            self._call = None

    def go_back(self, call: _Call, cotangents: tuple[Tensor | None, ...]) -> list[Tensor]:
        """Account for the cells of a call, and return the cotangents of its inputs."""
        done, call.ran = call.ran or self._run(call), None
        inputs, outputs = done.inputs, tree_flatten(done.output)[0]
        wanted = done.values | done.leaves
        order = sorted(wanted)
        sources = [*inputs, *(part for site in order for part in wanted[site])]
        ends, gradients = [], []
        for output, cotangent in zip(outputs, cotangents, strict=True):
            if cotangent is not None and output.requires_grad:
                by_copy = cotangent.unflatten(0, (call.groups, self.copies, self.num_images)).transpose(0, 1)
                ends.append(output)
                gradients.append(by_copy.flatten(1, 2))
        if not any(output.requires_grad for output in outputs if isinstance(output, Tensor)):
            raise not_differentiable(f"no gradient reaches the output of {type(denoiser_of(self.pipe)).__name__}")
        owed = {}
        for site in done.values:
            later = self.effects.owed(call.position, site)
            if later is not None:
                owed[site] = later
                ends += done.values[site]
                gradients += later
        with self._running_again(call):
            found = [
                torch.autograd.grad(
                    ends, sources, [g[c] for g in gradients], retain_graph=c + 1 < self.copies, allow_unused=True
                )
                for c in range(self.copies)
            ]
        stacked = [
            torch.stack([torch.zeros_like(s) if one is None else one for one in by_copy])
            for s, by_copy in zip(sources, zip(*found, strict=True), strict=True)
        ]
        at, where = len(inputs), (call.position, call.groups)
        for site in order:
            size = len(wanted[site])
            gradient = stacked[at : at + size]
            if site in done.values:
                value = [part.detach() for part in done.values[site]]
                self.effects.computed(*where, site, gradient, value, owed.get(site))
            else:
                self.effects.cached(*where, site, gradient, done.fresh.get(site))
            at += size
        return [self._with_copies(g, call) for g in stacked[: len(inputs)]]

    @contextmanager
    def _running_again(self, call: _Call) -> Iterator[None]:
        """Let gates hand out what they did, and keep nothing: checkpointed blocks run again while gradients come."""
        self._call, self._runs_again = call, True
        try:
            yield
        finally:
            self._call, self._runs_again = None, False

    def _with_copies(self, gradient: Tensor, call: _Call) -> Tensor:
        """(copies, groups * images, ...) in the order of the pipeline's batch."""
        by_copy = gradient.unflatten(1, (call.groups, self.num_images)).transpose(0, 1)
        return by_copy.flatten(0, 2)

    def _site(self, site: int) -> Callable[[Callable[[], Any], tuple, dict], Any]:
        def control(compute: Callable[[], Any], args: tuple, kwargs: dict) -> Any:
            call = self._call
            if call is None or self._computing_afresh:
                return compute()
            row, stream = call.position.row, call.position.stream
            if self._probing and self._ran is not None and self._computes_for[row] >> site & 1:
                with torch.no_grad():
                    return compute()
            state = self._states[row][site]
            if state == State.compute or row == 0:
                value = compute()
                parts, self._layouts[site] = take_apart(value)
                wanted = self._probing or self._keep[row][site] > 0
                if self._records and (wanted or row == 0):
                    self.history.keep(stream, site, row, parts)
                if self._ran is not None and self.plan.states[row, site] == State.compute:
                    self._check_gradient(site, (args, kwargs), parts)
                if not wanted or (self._ran is None and not self._runs_again):
                    return value
                # what is made of the text and the timestep alone begins a graph here; else a view, for a site within
                # this one, or another part of the value, may have returned the same tensor
                parts = [part.view_as(part) if part.requires_grad else part.detach().requires_grad_() for part in parts]
                if self._ran is not None:
                    self._ran.values[site] = parts
                return put_together(parts, self._layouts[site])
            if self._called[row][site]:
                compute()  # for the sake of what lies within
            before = self.history.before(stream, site, row)
            if state == State.dead and not self._probing:
                parts = [p.new_full((), torch.nan).expand(p.shape) for p in before[0][1]]
            elif state == State.forecast:
                parts = self.history.forecasts(site, row, before)
            else:
                parts = before[0][1]
            if (self._ran is not None or self._runs_again) and state != State.dead:
                parts = [part.detach().requires_grad_() for part in parts]
            if self._ran is not None and state != State.dead:
                self._ran.leaves[site] = parts
                if self._probing and site not in self.plan.weights:
                    self._ran.fresh[site] = self._afresh(compute)
            return put_together(parts, self._layouts[site])

        return copying(control) if site in self.plan.graph.rewritten else control

    def _afresh(self, compute: Callable[[], Any]) -> Parts:
        """What a site would compute if it did, with all that lies within it."""
        self._computing_afresh = True
        try:
            with torch.no_grad():
                return take_apart(compute())[0]
        finally:
            self._computing_afresh = False

    def _check_gradient(self, site: int, inputs: Any, parts: Parts) -> None:
        wanted = any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree_leaves(inputs))
        if wanted and not any(part.requires_grad for part in parts):
            raise not_differentiable(f"no gradient passes through {self.plan.sites[site]}")


class _GraphMemory:
    """Counts what autograd saves of calls that shall not be run again, weights aside, up to a number of bytes."""

    def __init__(self, most: int, weights: Iterable[Tensor]) -> None:
        self._left = most
        self._counted = {part.untyped_storage().data_ptr() for weight in weights for part in plain_parts(weight)}

    @property
    def is_left(self) -> bool:
        """Whether what was counted so far is within the limit."""
        return self._left > 0

    def counting(self) -> saved_tensors_hooks:
        """Count what is saved for as long as this lasts."""
        return saved_tensors_hooks(self._pack, lambda saved: saved)

    def add(self, ran: _Ran) -> None:
        """Count what the gates collected."""
        for parts in (*ran.values.values(), *ran.leaves.values(), *ran.fresh.values()):
            for part in parts:
                self._count(part)

    def _pack(self, tensor: Tensor) -> Tensor:
        self._count(tensor)
        return tensor.detach()  # what a node saves of its own output would keep the node alive

    def _count(self, tensor: Tensor) -> None:
        for storage in (part.untyped_storage() for part in plain_parts(tensor)):
            if storage.data_ptr() not in self._counted:
                self._counted.add(storage.data_ptr())
                self._left -= storage.nbytes()


class _Node(torch.autograd.Function):
    """A denoiser call, whose way back is the chain's."""

    @staticmethod
    def forward(ctx: Any, chain: Chain, call: _Call, anchor: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.chain, ctx.call = chain, call
        return chain.record(call)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
        if not ctx.call.differentiable:  # the first row: nothing before it, and every cell computes
            return None, None, None
        return None, None, None, *ctx.chain.go_back(ctx.call, cotangents)
