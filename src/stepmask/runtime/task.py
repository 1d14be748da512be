"""Task: a pipeline with everything that a mask for it depends on, made once and passed on."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor, nn

from stepmask.cost import CostTable
from stepmask.errors import StepMaskError
from stepmask.graph import BlockGraph
from stepmask.inspection.describe import Description, description_for, description_of
from stepmask.inspection.first_step import first_step
from stepmask.inspection.measure_cost import cost_of
from stepmask.inspection.origin import origin_of
from stepmask.inspection.pipeline_call import PipelineCall
from stepmask.inspection.placement import plain_parts, weights_of
from stepmask.inspection.registry import denoiser_of, denoisers_of
from stepmask.inspection.sampler_loop import as_pipeline
from stepmask.liveness import Plan, make_plan
from stepmask.mask import StepMask, scheduler_identity
from stepmask.runtime.apply import apply_plan
from stepmask.runtime.handle import Handle
from stepmask.runtime.noise import Noise
from stepmask.runtime.rows import Course, course_of

SAMPLED = 64
"""Of each parameter, so many values tell one set of weights from another."""


class Task:
    """This pipeline, these steps, these conditions, this seed.

    What follows from them is found when it is first asked for, and once.

    Args:
        pipe: A diffusers pipeline; or a denoiser with its `scheduler`.
        num_inference_steps: The number of steps of the runs that a mask will be used for.
        scheduler: The scheduler of a bare denoiser.
        seed: The seed of noise, conditions and draws, 0 or more.
        call_kwargs: Arguments of the pipeline's call.
        conditions: Prompts or class numbers, or a text file with one per line.
        mask: A mask or plan that the task is to run, where it may have sites that were given where it was made.
        only_what_runs: Whether to leave out rows that the call does not run, as a late start does.

    Attributes:
        pipe: What samples.
        denoiser: Its denoiser; of several the first.
        denoisers: All of them.
        call_kwargs: Arguments of the pipeline's call, the conditions among them.

    Raises:
        StepMaskError: The number of steps or the seed makes no sense, or the pipeline takes no such conditions.
    """

    def __init__(
        self,
        pipe: Any,
        num_inference_steps: int,
        *,
        scheduler: Any | None = None,
        seed: int = 0,
        call_kwargs: Mapping[str, Any] | None = None,
        conditions: str | Path | Sequence[str] | Sequence[int] | None = None,
        mask: StepMask | Plan | None = None,
        only_what_runs: bool = False,
    ) -> None:
        check_whole("num_inference_steps", num_inference_steps, 1)
        check_whole("seed", seed, 0)
        self.pipe = as_pipeline(pipe, scheduler)
        self.denoiser: nn.Module = denoiser_of(self.pipe)
        self.denoisers = nn.ModuleList(denoisers_of(self.pipe))
        self.num_inference_steps, self.seed = num_inference_steps, seed
        if call_kwargs is not None and not isinstance(call_kwargs, Mapping):
            raise StepMaskError(
                f"call_kwargs is a dictionary of arguments for the pipeline's call, got {call_kwargs!r}"
            )
        self.call_kwargs = {**PipelineCall(self.pipe).listed(conditions), **(call_kwargs or {})}
        self._mask, self._only_what_runs = mask, only_what_runs

    @cached_property
    def description(self) -> Description:
        """The denoiser with its architecture and its graph."""
        if self._mask is None:
            return description_of(self.pipe, call_kwargs=self.call_kwargs)
        return description_for(self.pipe, self._mask, self.call_kwargs)

    @property
    def innermost(self) -> Task:
        """The same task with the innermost sites alone, for rules that know of no others."""
        task = copy.copy(self)
        known = self.description
        task.__dict__ |= {"description": replace(known, graph=known.graph.innermost)}
        task.__dict__.pop("costs", None)
        return task

    @property
    def graph(self) -> BlockGraph:
        """The sites of the denoiser, and who reads whom."""
        return self.description.graph

    @cached_property
    def costs(self) -> CostTable:
        """MACs and bytes of each site, per image, guidance included."""
        return self.timed_costs(None)

    def timed_costs(self, batch_size: int | None) -> CostTable:
        """The same, and where a batch size is given the milliseconds of each site for one batch."""
        PipelineCall(self.pipe).check(self.call_kwargs)
        step, timed = first_step(self.pipe, self.call_kwargs), batch_size is not None
        return cost_of(self.description, step, latency=timed, batch_size=batch_size or 1)

    def apply(
        self, decision: StepMask | Plan, checked: bool = False, cache_device: torch.device | None = None
    ) -> Handle:
        """Let the pipeline sample under a mask or plan of this task, as `stepmask.apply` does; see `apply_plan`."""
        plan = decision if isinstance(decision, Plan) else make_plan(decision, self.graph)
        return apply_plan(self.pipe, plan, self.description, checked, cache_device)

    @cached_property
    def noise(self) -> Noise:
        """Numbered noise and conditions, and images made of them."""
        return Noise(self.pipe, self.num_inference_steps, self.seed, self.call_kwargs)

    @cached_property
    def whole_timesteps(self) -> list[float]:
        """Timesteps of a whole run; some schedulers take more than `num_inference_steps`."""
        return self.noise.timesteps()

    @cached_property
    def course(self) -> Course | None:
        """What the call runs; None where it cannot be told, or the task is not to leave other rows out."""
        if not self._only_what_runs:
            return None
        PipelineCall(self.pipe).check(self.call_kwargs)
        return course_of(self.pipe, self.call_kwargs, self.num_inference_steps)

    @property
    def rows(self) -> range | None:
        """The rows that the call runs, where it leaves others out and the task is to leave them out too."""
        known = self.course is not None and len(self.course.rows) < len(self.whole_timesteps)
        return self.course.rows if known else None

    def run_by(self, plan: Plan) -> Plan:
        """What the call runs of a plan for its rows."""
        return plan if self.course is None else self.course.run_by(plan)

    def in_full(self, mask: StepMask) -> StepMask:
        """A mask for these rows that says compute where the call drops all that was cached."""
        return mask if self.course is None else self.course.in_full(mask)

    def peak_cache_bytes(self, plan: Plan) -> int:
        """Most bytes per image that a run under a plan keeps at once."""
        held = self.costs.peak_cache_bytes(plan)
        return held if self.course is None else self.course.most(held, self.costs)

    @property
    def timesteps(self) -> list[float]:
        """T timesteps of the rows that run."""
        return self.whole_timesteps if self.rows is None else self.whole_timesteps[self.rows.start : self.rows.stop]

    @property
    def shape(self) -> tuple[int, int]:
        """(T, B): rows of a run, sites of the denoiser."""
        return len(self.timesteps), len(self.graph)

    @cached_property
    def scheduler(self) -> dict[str, Any]:
        """What a mask says of the scheduler that it was made for, once a run is set: that may configure it anew."""
        _ = self.whole_timesteps
        return scheduler_identity(self.pipe.scheduler)

    def identity(self) -> dict[str, Any]:
        """JSON values that tell this task from every other."""
        return {
            "seed": self.seed,
            "num_inference_steps": self.num_inference_steps,
            "scheduler": self.scheduler,
            "graph": self.graph.fingerprint,
            "weights": weights_digest(self.denoisers),
            "call_kwargs": {name: comparable(value) for name, value in sorted(self.call_kwargs.items())},
            **({} if self.rows is None else {"rows": [self.rows.start, self.rows.stop]}),
            **({} if self.course is None or self.course.is_even else {"course": self.course.to_list()}),
        }

    def facts(self, noise_seeds: Sequence[int]) -> dict[str, Any]:
        """What the provenance of a mask says of the task.

        Args:
            noise_seeds: Seeds of the noise that was used, in order, so that nobody evaluates on it.
        """
        return {
            "num_inference_steps": self.num_inference_steps,
            "seed": self.seed,
            "noise_seeds": [noise_seeds[0], noise_seeds[-1]],
            "guidance_scale": PipelineCall(self.pipe).guidance(self.call_kwargs),
            "model": type(self.denoiser).__name__,
            **origin_of(self.pipe),
        }

    def mask(self, table: Any, scores: Any = None, **provenance: Any) -> StepMask:
        """A mask of this task.

        Args:
            table: (T, B) bool, what computes.
            scores: (T, B) as `StepMask` has them, or None.
            provenance: What is known of the mask.
        """
        return StepMask(
            compute=table,
            sites=self.graph.names,
            timesteps=self.timesteps,
            scheduler=self.scheduler,
            graph=self.graph.fingerprint,
            scores=scores,
            provenance=provenance,
        )


def check_whole(name: str, value: Any, least: int) -> None:
    """Raise unless a value is a whole number that is large enough."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise StepMaskError(f"{name} must be a whole number of at least {least}, got {value!r}")


def comparable(value: Any) -> Any:
    """A call argument as JSON; tensors and images by a digest, others by type alone: their text may hold an address."""
    if isinstance(value, list | tuple):
        return [comparable(one) for one in value]
    if isinstance(value, Mapping):
        return {str(name): comparable(one) for name, one in value.items()}
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {_digest([value])}"
    if isinstance(value, Image):
        return f"{value.mode} {value.size} {hashlib.sha256(value.tobytes()).hexdigest()[:16]}"
    return value if isinstance(value, str | int | float | bool | None) else type(value).__name__


def weights_digest(model: nn.Module) -> str:
    """A sum that changes when the weights do, or how strongly adapters act; the same on every machine."""
    scales = {name: getattr(module, "scaling", None) for name, module in model.named_modules()}  # as peft has them
    adapters = "".join(f"{name} {scale}" for name, scale in scales.items() if isinstance(scale, dict))
    parts = (part for weight in weights_of(model) for part in plain_parts(weight))
    return _digest((part.flatten()[:SAMPLED] for part in parts), adapters)


def _digest(tensors: Iterable[Tensor], more: str = "") -> str:
    found = hashlib.sha256(more.encode())
    for tensor in tensors:
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]
