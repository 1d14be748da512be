"""Masked runs of pipelines without stepmask: hooks swap in what each site computed last."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from cases import Case
from torch import Tensor, nn

from stepmask import StepMask, describe
from stepmask.inspection.registry import denoisers_of
from tiny import Reference, copies, mask_of, shares_of

Calls = Iterable[tuple[int, int]]
"""Row and stream of each denoiser call, in order."""


class LastValues(Reference):
    """In a pipeline, streams begin late, and models write into what they are given.

    What other models call of the sites, outside of the denoiser's own calls, is left alone.
    """

    inside = False
    """Whether the denoiser is in the middle of a call."""

    def _hook(self, site: int) -> Callable:
        swap = super()._hook(site)

        def begin_late(module, args, output):
            if not self.inside:
                return output
            output = copies(output)
            if self._computes[self.row, site] or (self.stream, site) in self._computed:
                return copies(swap(module, args, output))
            self._computed[self.stream, site] = [(self.row, output)]
            return copies(output)

        return begin_late


def calls_of(case: Case, rows: int) -> Calls:
    """Every row once, or twice where guidance takes two calls."""
    streams = 2 if case.guidance == "two calls" else 1
    return [(row, stream) for row in range(case.start, rows) for stream in range(streams)]


def by_reference(pipe: Any, mask: StepMask, calls: Calls, run: Callable[[], Tensor]) -> Tensor:
    """What `run` makes where the mask is swapped in by hooks."""
    calls = iter(calls)
    running = {denoiser: LastValues(denoiser, mask) for denoiser in denoisers_of(pipe)}

    def next_call(denoiser: Any, args: Any) -> None:
        running[denoiser].row, running[denoiser].stream = next(calls)
        running[denoiser].inside = True

    def end_call(denoiser: Any, args: Any, output: Any) -> None:
        running[denoiser].inside = False

    hooks = [denoiser.register_forward_pre_hook(next_call) for denoiser in running]
    hooks += [denoiser.register_forward_hook(end_call, always_call=True) for denoiser in running]
    try:
        made = run()
    finally:
        for hook in [*hooks, *running.values()]:
            hook.remove()
    assert next(calls, None) is None, "fewer calls than expected"
    return made


def interrupted(case: Case, last: int) -> Case:
    """The case, whose runs end after a step."""

    def interrupt(pipe, step, timestep, inputs):
        pipe._interrupt = step == last
        return inputs

    return replace(case, options={"callback_on_step_end": interrupt})


def with_guidance_ended(case: Case) -> Case:
    """The case, whose runs go on without guidance from their third step."""

    def end_guidance(pipe, step, timestep, inputs):
        if step == 1:
            pipe._guidance_scale = 1.0
            inputs["prompt_embeds"] = inputs["prompt_embeds"].chunk(2)[1]
        return inputs

    options = {"callback_on_step_end": end_guidance, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    return replace(case, options=options)


def random_actions(
    pipe: Any, seed: int = 0, share: float = 0.5, forecasts: float = 0.0, nested: bool = True
) -> StepMask:
    """A random mask for the steps of the pipeline's latest run."""
    graph, random = describe(pipe) if nested else describe(pipe).innermost, np.random.default_rng(seed)
    compute = random.random((len(pipe.scheduler.timesteps), len(graph))) < shares_of(graph, share)
    compute[0] = True
    return mask_of(compute, graph, pipe.scheduler, ~compute & (random.random(compute.shape) < forecasts))


def all_ones(pipe: Any) -> StepMask:
    return random_actions(pipe, share=1.1)


def marks(pipe: Any) -> dict[str, list[str]]:
    """What hangs on the modules of the denoisers: hooks and own forwards, with their values."""
    found = {}
    for name, module in nn.ModuleList(denoisers_of(pipe)).named_modules():
        hooks = {key: list(value) for key, value in vars(module).items() if key.endswith("_hooks") and value}
        found[name] = (hooks, vars(module).get("forward"))
    return found
