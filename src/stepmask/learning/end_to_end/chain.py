"""The whole sampling run as one differentiable map, inside the user's pipeline, with the memory of one step's graph.

The pipeline runs as it is, with gradient through its own loop: scheduler and guidance are recorded by autograd, each
denoiser call is one node that keeps its inputs and the values its sites computed, and is run again, step by step, when
gradients come back. What later steps owe to a value in the cache comes back beside the latents, as adjoints by site.

Several cotangents at once ride as copies of the images: the pipeline is called for ``copies`` times as many images,
equal in all, the denoiser runs on one of each, and each copy brings a cotangent of its own back.

What comes out, for every cell and every other action that it might take: the first-order change of the final images
along each cotangent. Knows no budgets and makes no choices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten

from stepmask.architectures import denoiser_of
from stepmask.errors import UnsupportedModelError
from stepmask.learning.end_to_end._adjoints import Adjoints, Parts, inner, inner_by_channel
from stepmask.learning.riding import companions
from stepmask.liveness import Plan, State
from stepmask.mask import Action
from stepmask.runtime.cache import extrapolate
from stepmask.runtime.channels import ChannelGains
from stepmask.runtime.features import Layout, put_together, take_apart
from stepmask.runtime.gate import gated
from stepmask.runtime.position import Position, PositionTracker, timestep_of


@dataclass
class _Call:
    """One denoiser call of the run, as it is needed to run it again."""

    position: Position
    compute: Callable[..., Any]
    spec: TreeSpec
    leaves: list[Any]
    differentiable: list[int]
    """Indices of the leaves that depend on earlier steps."""
    groups: int
    """Batches of images in one call: 2 where guidance runs both halves at once."""
    output_spec: TreeSpec | None = None


@dataclass
class _Replay:
    """What the gates collect while a call runs again with gradient."""

    values: dict[int, Parts] = field(default_factory=dict)
    """Computed values, within the graph."""
    leaves: dict[int, Parts] = field(default_factory=dict)
    """Values from the cache, where a gradient is wanted."""
    fresh: dict[int, Parts] = field(default_factory=dict)
    """What sites that do not compute would compute."""


class Chain:
    """One run under a plan, recorded, and its effects on the final images.

    Args:
        pipe: What samples; its denoiser is gated while `riding`.
        plan: What runs. Its mask must not compute what the plan leaves dead.
        num_images: Images without their copies.
        copies: Cotangents.
        fresh: Whether to account for computing cells that do not compute, at the price of computing them.
        device: Where values wait between the two passes; None leaves them where they are made.
        by_channel: Whether to account for the gains of channels.
    """

    def __init__(
        self,
        pipe: Any,
        plan: Plan,
        num_images: int,
        copies: int,
        fresh: bool = False,
        device: torch.device | str | None = None,
        by_channel: bool = False,
    ) -> None:
        self.pipe, self.plan, self.num_images, self.copies = pipe, plan, num_images, copies
        self._fresh, self._device, self._accounts_for_channels = fresh, device, by_channel
        self._states = plan.states.tolist()
        self._gains = np.ones(plan.states.shape) if plan.gains is None else plan.gains
        self._by_channel = ChannelGains(plan.sites, plan.channel_gains)
        self._tracker = PositionTracker()
        self._last_calls: dict[int, tuple[int, int]] = {}
        self._call: _Call | None = None
        self._replay: _Replay | None = None
        self._values: dict[tuple[int, int], list[tuple[int, Parts]]] = {}
        self._layouts: dict[int, Layout] = {}
        self._adjoints: dict[int, Adjoints] = {}
        self.anchor = torch.zeros((), requires_grad=True)
        """Every call depends on it, so that gradients come back through all of them."""
        rows, sites = plan.states.shape
        # where the denoiser is: nothing is read from an accelerator before all is there
        device = next(denoiser_of(pipe).parameters()).device
        self._effects = torch.zeros((rows, sites, len(Action), copies, num_images), device=device)
        self._slopes = torch.zeros((rows, sites, copies, num_images), device=device)
        self._channel_slopes: dict[int, Tensor] = {}

    @property
    def effects(self) -> np.ndarray:
        """(T, B, actions, copies, images): change of the cotangent's inner product with the final image."""
        return _on_host(self._effects)

    @property
    def slopes(self) -> np.ndarray:
        """(T, B, copies, images): the same by gains of forecasts, per unit."""
        return _on_host(self._slopes)

    @property
    def channel_slopes(self) -> dict[int, np.ndarray]:
        """By site that forecasts, (copies, images, C): the same by its channels' gains, summed over rows."""
        return {site: _on_host(slopes) for site, slopes in self._channel_slopes.items()}

    def scale(self, sizes: Tensor) -> None:
        """Multiply all that was found along each cotangent, (copies, images) as the numbers say."""
        sizes = sizes.to(self._effects)
        self._effects *= sizes
        self._slopes *= sizes
        for slopes in self._channel_slopes.values():
            slopes *= sizes[..., None]

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the values that wait between the two passes; grows with the number of steps."""
        entries = (parts for history in self._values.values() for _, parts in history)
        return sum(part.numel() * part.element_size() for parts in entries for part in parts)

    def riding(self) -> AbstractContextManager[None]:
        """Gate the denoiser and its sites for a while."""
        denoiser = denoiser_of(self.pipe)
        modules = dict(denoiser.named_modules())
        gates = [(name, modules[name], self._site(i)) for i, name in enumerate(self.plan.sites)]
        return gated([*companions(self.pipe), *gates, (type(denoiser).__name__, denoiser, self._denoiser)])

    def _denoiser(self, compute: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        """One call of the pipeline: a node of the graph."""
        position = self._tracker.locate(self.pipe.scheduler, timestep_of(args, kwargs))
        leaves, spec = tree_flatten((args, kwargs))
        torch.set_grad_enabled(True)  # stays on until the pipeline's own no_grad ends
        batch = next(leaf.shape[0] for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim() > 1)
        if batch % (self.num_images * self.copies):
            raise UnsupportedModelError(
                f"the denoiser was called with a batch of {batch} for {self.num_images * self.copies} images; "
                'method="global" needs a pipeline that runs all images together: use method="paper"'
            )
        differentiable = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.requires_grad]
        tensors = [leaves[i] for i in differentiable]
        leaves = [self._first_copy(leaf, batch) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        groups = batch // (self.num_images * self.copies)
        self._check_call(position, groups, bool(differentiable))
        call = _Call(position, compute, spec, leaves, differentiable, groups)
        outputs = _Node.apply(self, call, self.anchor, *tensors)
        return tree_unflatten(list(outputs), call.output_spec)

    def _check_call(self, position: Position, groups: int, differentiable: bool) -> None:
        """Refuse runs whose calls do not follow from each other."""
        last = self._last_calls.get(position.stream, (-1, groups))
        self._last_calls[position.stream] = position.row, groups
        if last != (position.row - 1, groups):
            raise UnsupportedModelError(
                f"{type(self.pipe).__name__} calls the denoiser at row {position.row} as it did not before; "
                'method="global" needs the same calls at every step, from the first on: use method="paper"'
            )
        if position.row and not differentiable:
            raise UnsupportedModelError(
                f"no gradient reaches row {position.row} through {type(self.pipe.scheduler).__name__} or the "
                'pipeline\'s loop: use method="paper", which needs none, or another scheduler'
            )

    def _first_copy(self, tensor: Tensor, batch: int) -> Tensor:
        """One of each image, where the tensor has a batch of copies."""
        if tensor.dim() == 0 or tensor.shape[0] != batch:
            return tensor.detach()
        by_copy = tensor.detach().unflatten(0, (-1, self.copies, self.num_images))
        return by_copy[:, 0].flatten(0, 1)

    def record(self, call: _Call) -> tuple[Tensor, ...]:
        """Run a call under the plan, keep what its sites compute."""
        self._call = call
        try:
            with torch.no_grad():
                output = call.compute(*tree_unflatten(call.leaves, call.spec))
        finally:
            self._call = None
        tensors, call.output_spec = tree_flatten(output)
        if self._device is not None:
            call.leaves = [leaf.to(self._device) if isinstance(leaf, Tensor) else leaf for leaf in call.leaves]
        size = call.groups, self.copies, self.num_images
        return tuple(
            t.unflatten(0, (call.groups, self.num_images)).unsqueeze(1).expand(*size, *t.shape[1:]).flatten(0, 2)
            for t in tensors
        )

    def replay(self, call: _Call, cotangents: tuple[Tensor | None, ...]) -> list[Tensor]:
        """Run a call again with gradient: account for its cells, and return the cotangents of its inputs."""
        row, stream = call.position.row, call.position.stream
        device = next(denoiser_of(self.pipe).parameters()).device
        leaves = [leaf.to(device) if isinstance(leaf, Tensor) else leaf for leaf in call.leaves]
        inputs = []
        for index in call.differentiable:
            leaves[index] = leaves[index].detach().requires_grad_()
            inputs.append(leaves[index])
        self._call, self._replay = call, _Replay()
        try:
            with torch.enable_grad():
                outputs = tree_flatten(call.compute(*tree_unflatten(leaves, call.spec)))[0]
            done = self._replay
        finally:
            self._call = self._replay = None
        adjoints = self._adjoints.setdefault(stream, Adjoints())
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
            raise UnsupportedModelError(
                f"no gradient reaches the output of {type(denoiser_of(self.pipe)).__name__}: it is quantised or "
                "compiled in a way that cannot be differentiated; learn on the plain model"
            )
        owed, befores = {}, {}
        for site in done.values:
            befores[site] = self._before(stream, site, row)
            later = adjoints.of_newest(site, row, befores[site])
            if later is not None:
                owed[site] = later
                ends += done.values[site]
                gradients += later
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
        at = len(inputs)
        for site in order:
            size = len(wanted[site])
            gradient = stacked[at : at + size]
            if site in done.values:
                value = [part.detach() for part in done.values[site]]
                self._account_computed(call, site, gradient, value, befores[site], owed.get(site), adjoints)
            else:
                self._account_cached(call, site, gradient, done, adjoints)
            at += size
        return [self._with_copies(g, call) for g in stacked[: len(inputs)]]

    def _with_copies(self, gradient: Tensor, call: _Call) -> Tensor:
        """(copies, groups * images, ...) in the order of the pipeline's batch."""
        by_copy = gradient.unflatten(1, (call.groups, self.num_images)).transpose(0, 1)
        return by_copy.flatten(0, 2)

    def _account_computed(
        self,
        call: _Call,
        site: int,
        gradient: Parts,
        value: Parts,
        before: list[tuple[int, Parts]],
        owed: Parts | None,
        adjoints: Adjoints,
    ) -> None:
        """Effects of holding or forecasting a computed cell; then the adjoints as the rows before it see them."""
        row = call.position.row
        if not before:
            return
        now = gradient if owed is None else _minus(gradient, owed)
        effect = self._effect(call)
        later = adjoints.effect_of_holding(site, row, value, before, effect)
        held = before[0][1]
        self._effects[row, site, Action.hold] += effect(now, _minus(held, value)) + later
        if len(before) > 1:
            ahead = self._ahead(site, before, row)
            self._effects[row, site, Action.linear] += effect(now, _minus(ahead, value)) + later
        adjoints.close(site, row, value)

    def _account_cached(self, call: _Call, site: int, gradient: Parts, done: _Replay, adjoints: Adjoints) -> None:
        """Effects of computing a cell that does not, or of forecasting instead of holding and back."""
        row, stream = call.position.row, call.position.stream
        before, effect, effects = self._before(stream, site, row), self._effect(call), self._effects[row, site]
        two = len(before) > 1
        held = before[0][1]
        linear = self._states[row][site] == State.forecast and two
        gain = float(self._gains[row, site])
        if two:
            change = effect(gradient, _minus(self._ahead(site, before, row), held))
            effects[Action.hold if linear else Action.linear] += -gain * change if linear else change
            self._slopes[row, site] += change
        if linear and self._accounts_for_channels:
            change = _minus(_ahead(before, row, gain), held)
            along = inner_by_channel(gradient, change, call.groups, self.num_images)
            self._channel_slopes[site] = self._channel_slopes.get(site, 0.0) + along
        if site in done.fresh:
            fresh = done.fresh[site]
            now = effect(gradient, _minus(fresh, self._ahead(site, before, row, gain) if linear else held))
            effects[Action.compute] += now - adjoints.effect_of_holding(site, row, fresh, before, effect)
        adjoints.read(site, row, gradient, gain if linear else None, self._by_channel.of(site, held))

    def _ahead(self, site: int, before: list[tuple[int, Parts]], row: int, gain: float = 1.0) -> Parts:
        """What a site forecasts at `row` with this gain, and those of its channels."""
        return _ahead(before, row, gain, self._by_channel.of(site, before[0][1]))

    def _effect(self, call: _Call) -> Callable[[Parts, Parts], Tensor]:
        return lambda cotangent, change: inner(cotangent, change, call.groups, self.num_images)

    def _site(self, site: int) -> Callable[[Callable[[], Any], tuple, dict], Any]:
        def control(compute: Callable[[], Any], args: tuple, kwargs: dict) -> Any:
            call = self._call
            if call is None:
                return compute()
            row, stream = call.position.row, call.position.stream
            state = self._states[row][site]
            if state == State.compute or row == 0:
                value = compute()
                parts, self._layouts[site] = take_apart(value)
                if self._replay is not None:
                    self._check_gradient(site, (args, kwargs), parts)
                    self._replay.values[site] = parts
                else:
                    kept = [part.detach() if self._device is None else part.to(self._device) for part in parts]
                    self._values.setdefault((stream, site), []).append((row, kept))
                return value
            before = self._before(stream, site, row)
            if state == State.dead and not self._fresh:
                parts = [p.new_full((), torch.nan).expand(p.shape) for p in before[0][1]]
            elif state == State.forecast and len(before) > 1:
                parts = self._ahead(site, before, row, float(self._gains[row, site]))
            else:
                parts = before[0][1]
            if self._replay is not None and state != State.dead:
                parts = [part.detach().requires_grad_() for part in parts]
                self._replay.leaves[site] = parts
                if self._fresh:
                    with torch.no_grad():
                        self._replay.fresh[site] = take_apart(compute())[0]
            return put_together(parts, self._layouts[site])

        return control

    def _check_gradient(self, site: int, inputs: Any, parts: Parts) -> None:
        wanted = any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree_leaves(inputs))
        if wanted and not any(part.requires_grad for part in parts):
            raise UnsupportedModelError(
                f"no gradient passes through {self.plan.sites[site]}: it is quantised or compiled in a way that cannot "
                "be differentiated; learn on the plain model"
            )

    def _history(self, stream: int, site: int) -> list[tuple[int, Parts]]:
        return self._values.get((stream, site), [])

    def _before(self, stream: int, site: int, row: int) -> list[tuple[int, Parts]]:
        """The newest and second newest value computed before a row."""
        found = [entry for entry in self._history(stream, site) if entry[0] < row][-2:]
        return [(at, self._on_device(parts)) for at, parts in reversed(found)]

    def _on_device(self, parts: Parts) -> Parts:
        if self._device is None:
            return parts
        device = next(denoiser_of(self.pipe).parameters()).device
        return [part.to(device) for part in parts]


def _on_host(values: Tensor) -> np.ndarray:
    return values.cpu().double().numpy()


def _ahead(
    before: list[tuple[int, Parts]], row: int, gain: float = 1.0, factors: Sequence[Tensor] | None = None
) -> Parts:
    """The line through the newest and second newest value, its slope times `gain` and `factors`, at `row`."""
    (row_1, newest), (row_2, second) = before
    return extrapolate(newest, second, gain * (row - row_1) / (row_1 - row_2), factors)


def _minus(a: Parts, b: Parts) -> Parts:
    return [x - y for x, y in zip(a, b, strict=True)]


class _Node(torch.autograd.Function):
    """A denoiser call that is run again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, chain: Chain, call: _Call, anchor: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.chain, ctx.call = chain, call
        return chain.record(call)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
        if not ctx.call.differentiable:  # the first row: nothing before it, and every cell computes
            return None, None, None
        return None, None, None, *ctx.chain.replay(ctx.call, cotangents)
