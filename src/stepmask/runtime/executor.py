"""Executor: gates on the sites of one denoiser, a position at every call, one cache per stream.

It does not know what is decided at a cell (`policies`) nor why (masks, learning). A stream is one of several denoiser
calls within a step; a stream that begins late, skips a row, or changes its shape or its conditions begins anew, with a
policy made for the row at which it begins.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stepmask.errors import PositionError, StepMaskError, UnsupportedModelError
from stepmask.gate import Controller, Gates, Occasional, Passage, copied, one_within_the_other
from stepmask.graph import BlockGraph
from stepmask.inspection.first_step import without_fractions
from stepmask.inspection.inputs import first_sample, num_samples
from stepmask.inspection.sites import ends_of, gates_of
from stepmask.runtime.cache import Cache, Meter, poison_like
from stepmask.runtime.callers import is_caller, other_callers
from stepmask.runtime.compiled import (
    RecompileLimit,
    Region,
    compiled_around,
    context_of,
    regions_of,
    replays_cuda_graphs,
)
from stepmask.runtime.offloading import Groups
from stepmask.runtime.policies import Policy, RunPlan, passed_over
from stepmask.runtime.position import Position, PositionTracker, again_and_again, timestep_of
from stepmask.runtime.streams import Call
from stepmask.runtime.whole import Whole
from stepmask.values import Value, tensors_in

MOST_ALIKE = 8
"""So many calls of one row, one after the other, may get the same: guiders differ in what they do to the model."""


@dataclass
class Stream:
    """State of one of several denoiser calls within a step."""

    start: int
    row: int
    policy: Policy
    cache: Cache
    call: Call
    unread: Sequence[bool] = ()
    """Per site, whether it rests in this row and nothing reads its value."""
    has_run: int = 0
    """A bit for each site that was reached in the stream's first row: some calls leave blocks out."""


class Executor:
    """Gates the sites of one denoiser instance.

    Args:
        denoiser: The model; its submodules are gated, its own forward is not.
        graph: Names the sites.
        scheduler: Returns the scheduler that drives the run now.
        policy_from: Makes the policy of a stream that begins at a row.
        on_run: Called with the scheduler when a new run begins, before anything else; may raise.
        feeders: Per name of a site, submodules that need not run where the policy (a `RunPlan`) does not run the site.
        pipe: What samples, where it is known.
        checked: Whether to see that the last row's output is finite, where the policy is a `RunPlan`.
        cache_device: Where cached values wait until they are read; None leaves them where they were computed.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        graph: BlockGraph,
        scheduler: Callable[[], Any],
        policy_from: Callable[[int], Policy],
        on_run: Callable[[Any], None] = lambda scheduler: None,
        feeders: Mapping[str, Sequence[str]] | None = None,
        pipe: Any = None,
        checked: bool = False,
        cache_device: torch.device | None = None,
    ) -> None:
        self._scheduler, self._policy_from, self._on_run = scheduler, policy_from, on_run
        self._pipe, self._checked, self._cache_device = pipe, checked, cache_device
        self._tracker = self._new_tracker()
        self._streams: dict[int, Stream] = {}
        self._current: Stream | None = None
        self._passage = Passage([True] * len(graph))  # of this call by the sites, where the policy is asked or not
        self._alike = ("", 0)  # what a call got, and how many calls in turn
        self._thread = 0  # of the latest run
        self._caller: threading.Thread | None = None  # in the middle of a call
        self._unchecked: Any = None  # sample and output of the latest call, where those were not looked at
        self._set_by_other: Any = None  # timesteps of a thread that was refused
        self.stretches: list[tuple[int, int]] = []
        """First and last row of each stretch of the latest run, of each step's first call: one, unless it began anew
        on the way."""
        self.inputs: list[int] = []
        """Inputs at each row of those, over all its calls."""
        self.meter = Meter()
        self.position: Position | None = None
        """Position of the latest denoiser call."""
        self.first_call: tuple[tuple, dict] | None = None
        """Arguments of that run's first call, of fractions the shapes alone."""
        self._denoiser, self._graph, self._feeders = denoiser, graph, feeders or {}
        self._every_site, self._no_site = [True] * len(graph), [False] * len(graph)
        self._acting = self._acts(policy_from(0))
        self.regions: dict[str, Region] = {}
        """By name the compiled modules with sites within that act."""
        self._whole = Whole(denoiser, graph, self._num_rows(policy_from(0)))
        self._groups = Groups(denoiser, graph, feeders or {})
        try:
            self._gate()
        except BaseException:
            self._whole.remove()
            raise
        self._hooks = [
            denoiser.register_forward_pre_hook(self._before, with_kwargs=True),
            denoiser.register_forward_hook(self._after, with_kwargs=True, always_call=True),
        ]

    def _gate(self) -> None:
        """Put the gates where they belong as the model is compiled now; within what is compiled only where one acts."""
        denoiser, graph = self._denoiser, self._graph
        whole = self._whole.region(self._acting)
        if whole is None:
            around = compiled_around(denoiser, graph)
            self.regions = regions_of(denoiser, graph, around, self._acting)
            without = {site for site, name in around.items() if name not in self.regions}
        else:
            around, self.regions = dict.fromkeys(range(len(graph)), ""), {"": whole}
            without = set(around) - self._acting
        gates: dict[str, tuple[nn.Module, Controller]] = {}

        def put(name: str, control: Controller) -> None:
            module, outer = denoiser.get_submodule(name), gates.get(name)
            gates[name] = module, control if outer is None else one_within_the_other(outer[1], control)

        for name, module, control in gates_of(denoiser, graph, lambda site: self._controller(site, around), without):
            gates[name] = module, control
        for name, region in self.regions.items():
            control = region.control(lambda: self._current, self._passage)
            if whole is None:
                put(name, control)
            else:
                self._whole.control = control
        for i, site in enumerate(graph.sites):
            if i not in around:  # what nobody reads is no part of a graph
                for name in self._feeders.get(site.name, ()):
                    put(name, self._feeder_controller(i))
        self._limit = RecompileLimit(self.regions.values())
        traced = {ends_of(denoiser, graph.sites[site].name)[1] for site, name in around.items() if name in self.regions}
        self._gates = Gates([(name, module, control) for name, (module, control) in gates.items()], traced)
        try:
            self._gates.check(denoiser)
        except BaseException:
            self._gates.remove()
            raise

    def _follow(self) -> None:
        """Move the gates where something was compiled since, or is no longer."""
        if self._gates.are_bypassed:
            self._gate_again()

    def _gate_again(self) -> None:
        self._gates.remove()
        self._gate()

    def _acts(self, policy: Policy) -> frozenset[int]:
        """The sites that ever do anything but compute, as far as the policy can tell."""
        return getattr(policy, "acting", frozenset(range(len(self._graph))))

    def _num_rows(self, policy: Policy) -> int | None:
        """How many graphs of the denoiser as a whole a policy needs; None where it decides as it goes."""
        if not isinstance(policy, RunPlan):
            return None
        return len(Region(self._denoiser, sorted(self._acting), self._graph, None, self._denoiser.forward).rows(policy))

    def rows_of_blocks(self, policy: RunPlan) -> set[Hashable]:
        """The rows of all compiled blocks under a plan, each once for all blocks of a class."""
        return {row for region in self.regions.values() for row in region.rows(policy)}

    def rest(self) -> None:
        """Let all caches go: the next call begins a run."""
        self._drop_caches()
        self._tracker = self._new_tracker()
        self._unchecked = None

    def _new_tracker(self) -> PositionTracker:
        return PositionTracker(lambda: self._pipe is not None and is_caller(self._pipe))

    @property
    def called_by_other(self) -> bool:
        """Whether another thread is in the middle of a call of the denoiser."""
        return self._caller not in (None, threading.current_thread()) and self._caller.is_alive()

    def _drop_caches(self) -> None:
        for stream in self._streams.values():
            stream.cache.clear()
        self._streams = {}

    def remove(self) -> None:
        """Restore the modules and drop all caches."""
        for hook in self._hooks:
            hook.remove()
        self._streams, self._current = {}, None
        self._on_run = self._policy_from = lambda _: None  # they hold who applied the mask, and that the model
        self._pipe, self._tracker = None, PositionTracker()
        self._groups.restore()
        try:
            self._gates.remove()
        finally:
            self._whole.remove()

    def _controller(self, site: int, around: Mapping[int, str]) -> Controller:
        name = ends_of(self._denoiser, self._graph.sites[site].name)[1]
        is_overwritten = replays_cuda_graphs(context_of(self._denoiser.get_submodule(name)._compiled_call_impl))
        is_rewritten, bit, passage = site in self._graph.rewritten, 1 << site, self._passage

        def control(compute: Callable[[], Value], args: tuple, kwargs: dict) -> Value:
            stream = self._current
            if stream is None:  # a submodule called on its own, outside of the denoiser
                return compute()
            passage.passed |= bit
            if not passage.asks[site]:
                return compute()
            if stream.unread[site]:
                value = stream.cache.dead(site)
            else:
                made = (lambda: copied(compute())) if is_overwritten else compute
                value = stream.policy(stream.row - stream.start, site, made, stream.cache)
            return copied(value) if is_rewritten else value

        region = self.regions.get(around.get(site, ""))
        return Occasional(control, passage, site, bit) if region is None else region.gate(site, control, is_rewritten)

    def _feeder_controller(self, site: int) -> Controller:
        passage = self._passage

        def control(compute: Callable[[], Tensor], args: tuple, kwargs: dict) -> Tensor:
            stream = self._current
            if stream is None or not passage.asks[site] or stream.policy.runs(stream.row - stream.start, site):
                return compute()
            return poison_like(args[0][:, :1])  # one token is enough for what nobody reads

        return Occasional(control, passage, site, bit=0)

    @torch.compiler.disable
    def _before(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        scheduler, caller = self._scheduler(), threading.current_thread()
        if self.called_by_other:
            self._note_other(scheduler)
            raise _another_thread(module, "call")
        self._caller = caller
        self._check_own(module, scheduler)
        position = self._tracker.locate(scheduler, timestep_of(args, kwargs))
        if position.new_run:
            self._streams, self.stretches, self.inputs = {}, [], []
            self._thread = threading.get_ident()
            self.first_call = without_fractions((args, kwargs))
            self.meter = Meter()
            try:
                if self._whole.notice():
                    self._gate_again()
                self._follow()
                self._gates.check(module)
                self._on_run(scheduler)
            except BaseException:
                self._tracker = self._new_tracker()  # whatever the loop calls next is asked again
                raise
        elif threading.get_ident() != self._thread:
            self._note_other(scheduler)
            raise _another_thread(module, "run")
        self._follow()
        self.position = position
        self._check_repeats(position, args, kwargs)
        self._passage.passed = 0
        if position.stream == 0:
            self.inputs.append(0)
        self.inputs[-1] += num_samples([*args, *kwargs.values()]) or 1
        self._current = stream = self._stream_at(position, Call(args, kwargs))
        called = getattr(stream.policy, "called", None)
        self._groups.prepare(None if called is None else called(stream.row - stream.start))
        self._limit.raised()

    def _note_other(self, scheduler: Any) -> None:
        """Remember what a thread that is refused has done to the scheduler of the run under way."""
        if not self._tracker.follows(scheduler):
            self._set_by_other = scheduler.timesteps

    def _check_own(self, module: nn.Module, scheduler: Any) -> None:
        """See that the run under way is still that of this thread: another one may have set the scheduler anew."""
        if self._tracker.follows(scheduler) or not self._streams or threading.get_ident() != self._thread:
            self._set_by_other = None
            return
        by_refused = self._set_by_other is scheduler.timesteps
        self._set_by_other = None
        if by_refused or (self._pipe is not None and is_caller(self._pipe) and other_callers(self._pipe)):
            self.rest()
            raise _another_thread(module, "run")

    def _check_repeats(self, position: Position, args: tuple, kwargs: dict) -> None:
        """See that a denoiser is not called with the same again and again, where its scheduler stands still."""
        if position.stream < MOST_ALIKE or position.stream < self._tracker.most_calls:
            self._alike = ("", 0)
            return
        said = repr([tensor.detach().float().sum().item() for tensor in tensors_in((args, kwargs))])
        before, times = self._alike
        self._alike = (said, times + 1 if said == before else 1)
        if self._alike[1] > MOST_ALIKE:
            self.rest()
            raise again_and_again(position.row)

    def _stream_at(self, position: Position, call: Call) -> Stream:
        stream = self._streams.get(position.stream)
        if stream is None or stream.row + 1 != position.row or not call.follows(stream.call):
            if stream is not None:
                stream.cache.clear()
            policy, cache = self._policy_from(position.row), Cache(self.meter, self._cache_device)
            if not self._acts(policy) <= self._acting:  # as in a run from the first row, where nobody reads it
                self._acting |= self._acts(policy)
                self._gate_again()
            stream = Stream(position.row, position.row, policy, cache, call)
            self._streams[position.stream] = stream
        if position.stream == 0:
            if stream.start < position.row:
                self.stretches.pop()
            self.stretches.append((stream.start, position.row))
        stream.row, stream.call = position.row, call
        asked, stream.unread = self._every_site, self._no_site
        if hasattr(stream.policy, "asks"):
            step = stream.row - stream.start
            asked, stream.unread = stream.policy.asks(step), stream.policy.unread(step)
        self._passage.asks[:] = asked
        return stream

    def __deepcopy__(self, memo: dict) -> None:
        raise StepMaskError("a copy of a masked denoiser would run the original's blocks: remove the mask first")

    def __reduce__(self) -> str:
        raise StepMaskError("a masked denoiser cannot be pickled: remove the mask first, or save its state_dict()")

    @torch.compiler.disable
    def _after(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        if self._caller is not threading.current_thread():  # it was refused while another one calls
            return
        self._limit.restore()
        stream, self._current, self._caller = self._current, None, None
        if stream is None:
            return
        if self._groups.called():
            self._gate_again()
        if output is None:  # it failed, for want of memory perhaps
            self._drop_caches()
        elif isinstance(stream.policy, RunPlan):
            try:
                self._check_run(stream, (first_sample([*args, *kwargs.values()]), output))
            except BaseException:
                self.rest()
                raise

    def end(self) -> None:
        """The call of the pipeline is over, perhaps before the last row: see that it ends in numbers, and rest.

        Raises:
            UnsupportedModelError: As a call at the last row raises it.
        """
        unchecked, self._unchecked = self._unchecked, None
        self.rest()
        if unchecked is not None:
            self._check_finite(unchecked)

    def _check_run(self, stream: Stream, values: Any) -> None:
        """See that what the plan computes was computed, and in the last row that there are numbers.

        Those that go in are looked at too: what the last row holds is none the worse for a broken sample.
        """
        step, plan = stream.row - stream.start, stream.policy.plan
        if step == 0:
            stream.has_run = self._passage.passed
        if stream.policy.is_full:  # nothing to go wrong
            return
        missing = stream.policy.must_run(step) & stream.has_run & ~self._passage.passed
        if missing:
            first = (missing & -missing).bit_length() - 1
            raise passed_over(plan.sites[first])
        is_last = step + 1 == plan.num_rows
        self._unchecked = None if is_last or not self._checked else values
        if is_last and self._checked:
            self._check_finite(values)

    def _check_finite(self, values: Any) -> None:
        if not all(tensor.isfinite().all() for tensor in tensors_in(values) if tensor.is_floating_point()):
            name = type(self._denoiser).__name__
            raise UnsupportedModelError(
                f"what the {name} made under the mask are no finite numbers: if the plain pipeline's are, either the "
                "mask's forecasts go too far (large gains), or something reads values that the mask leaves out "
                "(another cache, code that took blocks apart); eliminate_dead=False computes those"
            )


def _another_thread(denoiser: nn.Module, what: str) -> PositionError:
    return PositionError(
        f"another thread called the {type(denoiser).__name__} in the middle of a {what}: a mask follows one run at a "
        "time, so let threads take turns, or give each a denoiser of its own"
    )
