"""The handle of an applied mask: it says what ran, and is removed."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import lru_cache
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary, WeakMethod, ref

import torch
from torch import nn

from stepmask.cost import CostTable
from stepmask.errors import StepMaskError, UnsupportedModelError
from stepmask.inspection.architecture import Given
from stepmask.inspection.describe import Description
from stepmask.inspection.first_step import FirstStep, first_step, one_sample
from stepmask.inspection.measure_cost import cost_of
from stepmask.inspection.registry import denoisers_of, runs_in_turns
from stepmask.liveness import Plan, State, in_turn, make_plan
from stepmask.runtime.callers import other_callers
from stepmask.runtime.executor import Executor
from stepmask.runtime.policies import RunPlan
from stepmask.runtime.position import window
from stepmask.runtime.spread import check_same_plan
from stepmask.runtime.summary import Summary

# the gates of a denoiser keep its handle alive; this only finds it, and keeps no model from being collected
applied: WeakKeyDictionary[nn.Module, ref[Handle]] = WeakKeyDictionary()


LIBRARIES = ("torch", "torchao", "accelerate", "diffusers", "transformers", "peft", "optimum", "bitsandbytes")
"""Whose forward hooks keep no values."""

SAYS_END = "maybe_free_model_hooks"
"""What pipelines of diffusers call where a call of theirs is over."""


def handle_of(denoiser: nn.Module) -> Handle | None:
    """The handle of what is applied to a denoiser now; None where nothing is."""
    found = applied.get(denoiser)
    return None if found is None else found()


class Handle:
    """A mask that is applied to the denoisers of a pipeline; a context manager that removes it."""

    def __init__(
        self,
        pipe: Any,
        plan: Plan,
        description: Description,
        checked: bool = False,
        cache_device: torch.device | None = None,
    ) -> None:
        self.pipe, self.plan, self.mask = pipe, plan, plan.mask
        self._cache_device = cache_device
        policy = getattr(type(plan), "policy", RunPlan)  # a plan of another class may bring its own
        self._policies = lru_cache(maxsize=8)(
            lambda row, whole: policy((_without_elimination(plan) if whole else plan).from_row(row))
        )
        self._read_by_hooks = False  # in the latest run: then all that they may read is there
        self._executors: dict[nn.Module, Executor] = {}
        self._innermost: dict[nn.Module, set[nn.Module]] = {}
        self._description = description
        self._entered = False
        self._end_of_call: _EndOfCall | None = None
        self._run: list[Executor] = []  # those of the latest run, in order
        self._timesteps: Any = None  # of that run
        self._step: FirstStep | None = None  # as a call without arguments begins
        self._cost: CostTable | None = None  # of the latest run
        self._graphs = 0
        denoisers = denoisers_of(pipe)
        try:
            for denoiser in denoisers:
                self._innermost[denoiser] = {denoiser.get_submodule(name) for name in plan.graph.innermost.names}
                self._executors[denoiser] = Executor(
                    denoiser,
                    description.graph,
                    scheduler=lambda: pipe.scheduler,
                    policy_from=self._policy_from,
                    on_run=lambda scheduler, denoiser=denoiser: self._begin(denoiser, scheduler),
                    feeders=description.architecture.feeders(denoisers[0]),
                    pipe=pipe,
                    checked=checked,
                    cache_device=cache_device,
                )
            self._end_of_call = _EndOfCall(pipe, self._end)
        except BaseException:
            self.remove()
            raise

    def release(self) -> None:
        """Let go of all cached values; the mask stays applied, and the next call of the denoiser begins a run.

        Pipelines of diffusers say themselves that a call is over, however it ended. After a loop of your own that was
        broken off, call this.
        """
        for executor in self._executors.values():
            executor.rest()

    def _end(self) -> None:
        """A call of the pipeline is over."""
        for executor in self._executors.values():
            executor.end()

    def remove(self) -> None:
        """Restore every module and drop the caches; a second call does nothing.

        Raises:
            UnsupportedModelError: Something else has wrapped a gated module; undo that, then call again.
            StepMaskError: Another thread is sampling under the mask.
        """
        self._check_idle("remove")
        if self._end_of_call is not None:
            self._end_of_call.remove()
            self._end_of_call = None
        if self._timesteps is not None:
            self._count_graphs()
        for denoiser, executor in list(self._executors.items()):
            executor.remove()
            del self._executors[denoiser], self._innermost[denoiser]
            if handle_of(denoiser) is self:
                del applied[denoiser]

    def _check_idle(self, verb: str) -> None:
        busy = any(executor.called_by_other for executor in self._executors.values())
        if busy or (self._executors and other_callers(self.pipe)):
            raise StepMaskError(
                f"cannot {verb} a mask while another thread samples with the {type(self.pipe).__name__}: its images "
                "would be neither full nor masked; let that call end first"
            )

    def _policy_from(self, row: int) -> Any:
        return self._policies(row, self._read_by_hooks)

    def _begin(self, denoiser: nn.Module, scheduler: Any) -> None:
        """A denoiser is called for the first time in a run; what others have cached is none of its business."""
        if window.get() is None:
            self.mask.check(scheduler=scheduler)
        executor = self._executors[denoiser]
        self._check_writes(denoiser)
        self._read_by_hooks = any(_is_read_by_hooks(one, self._innermost[one]) for one in self._executors)
        check_same_plan(denoiser, self.plan)
        if scheduler.timesteps is not self._timesteps or executor in self._run:
            self._run, self._timesteps, self._cost = [], scheduler.timesteps, None
        self._run.append(executor)
        if runs_in_turns(self.pipe):
            for other in self._executors.values():
                if other is not executor:
                    other.rest()

    def _check_writes(self, denoiser: nn.Module) -> None:
        """See that the model writes into the same values as when the mask was applied, where no tensor tells."""
        architecture = self._description.architecture
        away, unseen = self._cache_device is not None, torch.is_inference_mode_enabled()
        if not away and (not unseen or isinstance(architecture, Given)):  # tracing those takes time
            return
        graph = self._description.graph
        if graph.rewriting(architecture.graph(denoiser)).rewritten != graph.rewritten:
            raise UnsupportedModelError(
                f"the {type(denoiser).__name__} writes into values that it did not when the mask was applied: if "
                "something like FreeU was switched on or off since, apply the mask again"
            )

    @property
    def ran(self) -> Plan:
        """What ran in the latest run, from its first row to the last that was reached; before it, what would run.

        Where a stream began anew, since its conditions or its shape changed or a second denoiser took over, a row
        computes in full.
        """
        stretches = [stretch for executor in self._run for stretch in executor.stretches]
        if not stretches:
            return self._policy_from(0).plan
        plans = [self._policy_from(first).plan for first, _ in stretches]
        counts = [last - first + 1 for first, last in stretches]
        return in_turn(plans, counts, [count for executor in self._run for count in executor.inputs])

    @property
    def peak_cache_bytes(self) -> int:
        """Largest sum of all cached values in the latest run; 0 before the first."""
        return max((executor.meter.peak for executor in self._run), default=0)

    def summary(self) -> Summary:
        """Cells by state, MACs and cache of the latest run."""
        plan = self.ran
        cost, cells = self._cost_of_run(), plan.cells
        return Summary(
            rows=plan.num_rows,
            computes=cells["compute"],
            forecasts=cells["forecast"],
            reuses=cells["reuse"],
            dead=cells["dead"],
            macs_fraction=cost.fraction(plan),
            macs_per_image=cost.total_macs(plan),
            peak_cache_bytes=self.peak_cache_bytes,
            graphs=self._count_graphs(),
            resting_rows=int((plan.states != State.compute).all(axis=1).sum()),
        )

    def _count_graphs(self) -> int:
        """Distinct rows of compiled blocks, as they are compiled now; of a mask that was removed, as they were then."""
        if self._executors:
            rows = (executor.rows_of_blocks(self._policy_from(0)) for executor in self._executors.values())
            self._graphs = len(set().union(*rows))
        return self._graphs

    def _cost_of_run(self) -> CostTable:
        """Costs at the sizes of the latest run; before the first run, at those of a call without arguments."""
        denoiser = self._description.denoiser
        if self._step is None:
            self._step = first_step(self.pipe)
        if self._cost is None:
            called = self._run[0].first_call if self._run else None
            inputs = self._step.inputs if called is None else one_sample(denoiser, *called)
            self._cost = cost_of(self._description, self._step._replace(inputs=inputs))
        return self._cost

    def __enter__(self) -> Handle:
        if not self._executors:
            raise StepMaskError("this mask was removed from the pipeline: apply it again")
        self._entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered = False
        self.remove()


class _EndOfCall:
    """Calls something at the end of each call of a pipeline, which diffusers' own say by `maybe_free_model_hooks`."""

    def __init__(self, pipe: Any, then: Callable[[], None]) -> None:
        self._pipe, said = pipe, getattr(pipe, SAYS_END, None)
        self._before, then = vars(pipe).get(SAYS_END), WeakMethod(then)

        def end(*args: Any, **kwargs: Any) -> Any:
            if then() is not None:
                then()()
            return said(*args, **kwargs)

        self._end = end
        if said is not None:
            setattr(pipe, SAYS_END, end)

    def remove(self) -> None:
        """Put back what was there."""
        if vars(self._pipe).get(SAYS_END) is not self._end:
            return
        if self._before is None:
            delattr(self._pipe, SAYS_END)
        else:
            setattr(self._pipe, SAYS_END, self._before)


def _is_read_by_hooks(denoiser: nn.Module, innermost: Collection[nn.Module]) -> bool:
    """Whether forward hooks of the user's read values that the mask may leave out: those of sites and around them.

    Within an innermost site all is there whenever it runs.
    """
    waiting = list(denoiser.children())
    while waiting:
        module = waiting.pop()
        if module._forward_hooks and any(map(_is_users, module._forward_hooks.values())):
            return True
        if module not in innermost:
            waiting += [child for child in module._modules.values() if child is not None]
    return False


def _is_users(hook: Any) -> bool:
    """Whether a hook is none of the libraries' own, which read no values to keep them."""
    home = getattr(hook, "__module__", None) or type(hook).__module__
    return home.partition(".")[0] not in LIBRARIES


def _without_elimination(plan: Plan) -> Plan:
    """The plan of the same mask that leaves nothing out.

    Raises:
        UnsupportedModelError: It is of a class of its own, and only who made it could say.
    """
    if not plan.eliminate_dead:
        return plan
    if type(plan) is not Plan:
        raise UnsupportedModelError(
            f"forward hooks read values of the model, and a {type(plan).__name__} may leave those out: remove the hooks"
        )
    return make_plan(plan.mask, plan.graph, eliminate_dead=False)
