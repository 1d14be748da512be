"""Pipelines on tiny random weights, and plain loops that run masks without stepmask, by `tiny.Reference`.

The loops are written out and share nothing with stepmask.
"""

import copy
from functools import cache, partial

import diffusers
import numpy as np
import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor

from stepmask import StepMask
from tiny import ddim_pipeline, ddpm_pipeline, dit_pipeline, generator, random_mask, reference

STEPS = 6
LABELS = [3, 7]
FORECASTS = pytest.mark.parametrize("forecasts", [0.0, 0.6], ids=["binary", "forecasts"])
"""Share of the cells that extrapolate, among those that do not compute."""


def noise(model, batch: int, seed: int) -> tuple[torch.Tensor, torch.Generator]:
    source = generator(seed)
    size = model.config.sample_size
    return randn_tensor((batch, model.config.in_channels, size, size), generator=source, dtype=model.dtype), source


@torch.no_grad()
def unconditional_loop(pipe, mask, batch=2, seed=0, steps=STEPS, **step_kwargs) -> torch.Tensor:
    """What DDIMPipeline and DDPMPipeline do."""
    image, source = noise(pipe.unet, batch, seed)
    pipe.scheduler.set_timesteps(steps)
    with reference(pipe.unet, mask) as running:
        for running.row, t in enumerate(pipe.scheduler.timesteps):
            output = pipe.unet(image, t).sample
            image = pipe.scheduler.step(output, t, image, generator=source, **step_kwargs).prev_sample
    return (image / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def dit_loop(pipe, mask, labels=LABELS, seed=0, steps=STEPS, scale=4.0) -> torch.Tensor:
    """What DiTPipeline does: guidance as one call, condition first."""
    model, channels = pipe.transformer, pipe.transformer.config.in_channels
    latents, _ = noise(model, len(labels), seed)
    classes = torch.tensor(labels)
    if scale > 1:
        latents, classes = torch.cat([latents] * 2), torch.cat([classes, torch.full_like(classes, 1000)])
    pipe.scheduler.set_timesteps(steps)
    with reference(model, mask) as running:
        for running.row, t in enumerate(pipe.scheduler.timesteps):
            if scale > 1:
                latents = torch.cat([latents[: len(labels)]] * 2)
            output = model(latents, timestep=t[None].expand(len(latents)), class_labels=classes).sample[:, :channels]
            if scale > 1:
                condition, null = output.chunk(2)
                output = torch.cat([null + scale * (condition - null)] * 2)
            latents = pipe.scheduler.step(output, t, latents).prev_sample
    return (pipe.vae.decode(1 / pipe.vae.config.scaling_factor * latents[: len(labels)]).sample / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def bare_loop(model, scheduler, running=None, *, batch=2, seed=0, start=0, stop=None, guidance=None, **condition):
    """A user's own loop; `guidance` runs the denoiser twice per step, as two calls."""
    sample, _ = noise(model, batch, seed)
    if start and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(start)
    channels = model.config.in_channels
    for row, t in enumerate(scheduler.timesteps[start:], start):
        scaled = scheduler.scale_model_input(sample, t) if hasattr(scheduler, "scale_model_input") else sample
        if running is not None:
            running.row, running.stream = row, 0
        output = model(scaled, timestep=t.expand(batch), **condition).sample[:, :channels]
        if guidance is not None:
            if running is not None:
                running.stream = 1
            null = model(scaled, timestep=t.expand(batch), class_labels=torch.full((batch,), 1000)).sample[:, :channels]
            output = null + guidance * (output - null)
        if row == stop:
            return None
        sample = scheduler.step(output, t, sample, return_dict=False)[0]
    return sample


def full(mask: StepMask) -> StepMask:
    return mask.with_actions(np.ones_like(mask.actions), scheduler=None)


def unconditional(pipe, batch, seed, **options) -> torch.Tensor:
    return pipe(batch, generator(seed), num_inference_steps=STEPS, output_type="pt", **options).images


def of_classes(pipe, batch, seed, scale=4.0) -> torch.Tensor:
    return pipe(LABELS[:batch], scale, generator(seed), num_inference_steps=STEPS, output_type="pt").images


def dit_loop_of(pipe, mask, batch, seed, scale=4.0) -> torch.Tensor:
    return dit_loop(pipe, mask, LABELS[:batch], seed, scale=scale)


def dpm_pipeline():
    return ddpm_pipeline(diffusers.DPMSolverMultistepScheduler(algorithm_type="dpmsolver++"))


# name: (make, call, reference loop)
PIPELINES = {
    "DDIMPipeline": (ddim_pipeline, unconditional, partial(unconditional_loop, eta=0.0)),
    "DDIMPipeline with noise": (ddim_pipeline, partial(unconditional, eta=0.7), partial(unconditional_loop, eta=0.7)),
    "DDPMPipeline": (ddpm_pipeline, unconditional, unconditional_loop),
    "DDPMPipeline, DPM-Solver++": (dpm_pipeline, unconditional, unconditional_loop),
    "DiTPipeline": (dit_pipeline, of_classes, dit_loop_of),
    "DiTPipeline without guidance": (dit_pipeline, partial(of_classes, scale=1.0), partial(dit_loop_of, scale=1.0)),
}


class Setup:
    """A pipeline to apply masks to, and what a plain loop on a twin makes of them.

    The twin is shared: hooks come and go, and it stays as it is.
    """

    def __init__(self, name: str, forecasts: float = 0.0) -> None:
        make, self._call, _ = PIPELINES[name]
        self.name, self.pipe = name, make()
        self.mask = random_mask(self.pipe, copy.deepcopy(self.pipe.scheduler), STEPS, forecasts=forecasts)

    def call(self, batch=2, seed=0) -> torch.Tensor:
        return self._call(self.pipe, batch, seed)

    def wanted(self, mask=None, batch=2, seed=0, dtype=torch.float32) -> torch.Tensor:
        mask = mask or self.mask
        key = self.name, mask.actions.tobytes(), batch, seed, dtype
        if key not in _wanted:
            _wanted[key] = PIPELINES[self.name][2](twin_of(self.name, dtype), mask, batch, seed)
        return _wanted[key]


_wanted: dict[tuple, torch.Tensor] = {}


@cache
def twin_of(name: str, dtype: torch.dtype = torch.float32):
    return PIPELINES[name][0]().to(dtype)


SCHEDULERS = {
    "ddim": diffusers.DDIMScheduler,
    "ddpm": diffusers.DDPMScheduler,
    "dpm++": diffusers.DPMSolverMultistepScheduler,
    "heun": diffusers.HeunDiscreteScheduler,
    "pndm": lambda: diffusers.PNDMScheduler(skip_prk_steps=True),
    "euler": diffusers.EulerDiscreteScheduler,
    "euler ancestral": diffusers.EulerAncestralDiscreteScheduler,
    "flow-match": diffusers.FlowMatchEulerDiscreteScheduler,
}
MODELS = ["UNet2DModel", "DiTTransformer2DModel"]


def condition_of(family: str, batch: int = 2) -> dict:
    return {"class_labels": torch.tensor([1, 2, 3][:batch])} if family.startswith("DiT") else {}


def seeded_step(scheduler):
    """Ancestral noise comes from torch's global generator in a bare loop, whose state skipped sites must not touch."""
    torch.manual_seed(0)
    scheduler.set_timesteps(STEPS)
