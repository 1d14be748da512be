"""A mask on the samplings of a ComfyUI MODEL: applied where a sampler begins, removed where it ends.

All clones of a MODEL share one diffusion model, so nothing of it is gated while none of them samples under a mask.
Which row a call belongs to is told by the sigmas of the sampler; what the diffusion model is called with, by the first
call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import stepmask
from stepmask import BlockGraph, StepMask, StepMaskError
from stepmask.inspection.first_step import without_fractions

from .diffusers_names import renamed

KEY = "stepmask"
SAMPLE, PREDICT, CALL = "sampler_sample", "predict_noise", "apply_model"
"""Wrappers as ``comfy.patcher_extension.WrappersMP`` calls them: around a sampler's run, each of its evaluations, and
each call of the model for those."""

ONCE_A_STEP = "euler, euler_ancestral, ddim, ddpm, lcm, dpmpp_2m, ipndm, deis or res_multistep"
"""Samplers that evaluate the model once a step."""

SITES = {
    "Flux": [
        *(f"double_blocks.*.{stream}_{part}" for stream in ("img", "txt") for part in ("attn.qkv", "attn.proj", "mlp")),
        "single_blocks.*.linear1",
        "single_blocks.*.linear2",
    ]
}
"""Sites of classes of ComfyUI whose blocks do not call their attention as a module; of others they are found."""

READ = ("patches", "patches_replace")
"""What of the transformer options changes what blocks compute."""


def under_mask(model: Any, mask: StepMask) -> Any:
    """A clone of a MODEL that samples under a mask; a mask that it had before is replaced.

    Args:
        model: A ``ModelPatcher`` of ComfyUI.
        mask: A mask of its diffusion model, with a row for each step; or one of whole steps, of any model.
    """
    sampling, clone = _MaskedSampling(mask), model.clone()
    for kind, wrapper in ((SAMPLE, sampling.sample), (PREDICT, sampling.predict_noise), (CALL, sampling.apply_model)):
        clone.remove_wrappers_with_key(kind, KEY)
        clone.add_wrapper_with_key(kind, KEY, wrapper)
    return clone


class _MaskedSampling:
    """The wrappers: each gets what it wraps first, and then its arguments."""

    def __init__(self, mask: StepMask) -> None:
        self._mask = mask
        self._run: SamplerRun | None = None

    def sample(self, executor: Callable, guider: Any, sigmas: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Around the whole run of a sampler."""
        before, self._run = self._run, SamplerRun(guider.inner_model, self._mask, sigmas)
        try:
            return executor(guider, sigmas, *args, **kwargs)
        finally:
            self._run.end()
            self._run = before

    def predict_noise(self, executor: Callable, x: Tensor, sigma: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Around what the sampler asks for: one or several calls of the model, with and without the prompt."""
        if self._run is not None:
            self._run.step(sigma)
        return executor(x, sigma, *args, **kwargs)

    def apply_model(
        self, executor: Any, x: Tensor, t: Tensor, concat: Any, text: Any, control: Any, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Around one call of the model."""

        def call() -> Tensor:
            return executor(x, t, concat, text, control, *args, **kwargs)

        if self._run is not None:
            self._run.called(executor.class_obj, control, call)
        return call()


class SamplerRun:
    """One run of a sampler, with what the executor of masks reads of a scheduler.

    Args:
        model: The ``BaseModel`` of ComfyUI.
        mask: The mask.
        sigmas: Those of the run (T + 1,), the last one is where it ends.

    Attributes:
        timesteps: (T,) float32, of all rows of the mask.
        step_index: The row at which the run stands.

    Raises:
        StepMaskError: The mask has no rows for this run.
    """

    def __init__(self, model: Any, mask: StepMask, sigmas: Tensor) -> None:
        self._model, self._mask, self._sigmas = model, mask, sigmas[:-1].tolist()
        timesteps = model.model_sampling.timestep(sigmas[:-1]).float().cpu()
        self._first = _first_row(mask, timesteps)
        self.timesteps = torch.tensor(mask.timesteps, dtype=torch.float32)
        self.timesteps[self._first : self._first + len(timesteps)] = timesteps
        self.step_index = self._first - 1
        self._handle: Any = None
        self._has_control = False

    def step(self, sigma: Tensor) -> None:
        """The sampler evaluates the model at a sigma: the next row.

        Raises:
            StepMaskError: It does so elsewhere, as samplers do that evaluate it several times a step.
        """
        self.step_index += 1
        done, now = self.step_index - self._first, float(sigma.max())
        if done >= len(self._sigmas) or abs(now - self._sigmas[done]) > 1e-3 * self._sigmas[done]:
            raise StepMaskError(
                f"the sampler evaluates the model more than once a step or between steps (evaluation {done + 1} is at "
                f"sigma {now:g}), and a mask has one row for each step: choose {ONCE_A_STEP}"
            )

    def called(self, model: Any, control: Any, start: Callable[[], Any]) -> None:
        """The model is about to be called; the first time, let it follow the mask.

        Args:
            model: What is called.
            control: What a ControlNet adds, or None.
            start: Makes the call.

        Raises:
            StepMaskError: The diffusion model cannot follow the mask.
        """
        if model is not self._model:
            raise StepMaskError("the MODEL runs on several devices, and a mask follows one of them: take one device")
        if self._handle is None:
            self._has_control = control is not None
            self._handle = self._apply(start)
        elif control is not None and not self._has_control:
            raise StepMaskError(
                "a ControlNet sets in while the mask runs, and it writes into the values that the mask keeps: let it "
                "act from the first step on (start_percent 0), on both prompts"
            )

    def _apply(self, start: Callable[[], Any]) -> Any:
        denoiser = self._model.diffusion_model
        inputs = inputs_of(denoiser, start)
        with torch.inference_mode(False), torch.no_grad():
            graph = stepmask.register_sites(denoiser, SITES.get(type(denoiser).__name__), inputs)
            mask = renamed(self._mask, self._model.model_config.unet_config)
            return stepmask.apply(denoiser, fitted(mask, graph), scheduler=self)

    def end(self) -> None:
        """The sampler is done, or was stopped."""
        if self._handle is not None:
            self._handle.remove()


def inputs_of(denoiser: nn.Module, start: Callable[[], Any]) -> dict[str, Any]:
    """What a diffusion model is called with, of fractions the shapes alone; seen by a call that ends where it begins.

    Raises:
        StepMaskError: The call does not reach it.
    """

    def see(module: nn.Module, args: tuple, kwargs: dict) -> None:
        raise _Seen(args, kwargs)

    hook = denoiser.register_forward_pre_hook(see, with_kwargs=True)
    try:
        start()
    except _Seen as seen:
        args, kwargs = seen.args
    else:
        raise StepMaskError(
            f"the {type(denoiser).__name__} of the MODEL is not what runs: put nodes that compile or replace it after "
            "the mask, or leave them out"
        )
    finally:
        hook.remove()
    signature = inspect.signature(denoiser.forward)
    inputs = without_fractions(signature.bind(*args, **kwargs).arguments)
    rest = [name for name, one in signature.parameters.items() if one.kind is inspect.Parameter.VAR_KEYWORD]
    for name in rest:
        inputs |= inputs.pop(name, {})
    options = inputs.get("transformer_options", {})
    return {**inputs, "transformer_options": {name: options[name] for name in READ if options.get(name)}}


class _Seen(Exception):
    """Ends a call; carries its arguments."""


def fitted(mask: StepMask, graph: BlockGraph) -> StepMask:
    """A mask for the sites of a diffusion model, whatever scheduler it was made with.

    One of whole steps that was made for the same model under other names, as those of diffusers, is one of its
    outermost sites.

    Args:
        mask: The mask.
        graph: That of the diffusion model.
    """
    mask = replace(mask, scheduler=None)
    computes = mask.compute.all(axis=1)
    forecasts = mask.forecast.all(axis=1)
    holds = ~mask.compute.any(axis=1) & ~mask.forecast.any(axis=1)
    factors = mask.gains is not None or mask.channel_gains is not None or mask.weights is not None
    if set(mask.sites) <= set(graph.names) or factors or not (computes | forecasts | holds).all():
        return mask  # `apply` says what does not fit
    outermost = [graph.names[i] for i in graph.level("stack")]
    return StepMask(
        compute=np.repeat(computes[:, None], len(outermost), axis=1),
        forecast=np.repeat(forecasts[:, None], len(outermost), axis=1),
        sites=outermost,
        timesteps=mask.timesteps,
        graph=graph.fingerprint,
        provenance=mask.provenance,
    )


def _first_row(mask: StepMask, timesteps: Tensor) -> int:
    """The row of the mask at which a run with these timesteps begins: 0, or further on where it leaves steps out."""
    count, rows = len(timesteps), np.asarray(mask.timesteps, dtype=float)
    if count == mask.num_rows:
        return 0
    here = timesteps.double().numpy()
    for first in range(mask.num_rows - count + 1):
        if np.allclose(rows[first : first + count], here, rtol=1e-3, atol=1e-3):
            return first
    raise StepMaskError(
        f"the mask has {mask.num_rows} rows, the sampler makes {count} steps, and they are not a part of those: sample "
        f"in {mask.num_rows} steps, or give a mask of {count} rows"
    )
