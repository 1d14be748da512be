"""One way to run any diffusers pipeline, or the plain loop over a bare denoiser: one seed per image, quietly.

Knows no masks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stepmask.errors import StepMaskError
from stepmask.inspection.overrides import quiet, same_processors
from stepmask.inspection.pipeline_call import PipelineCall
from stepmask.inspection.placement import device_of
from stepmask.inspection.prompts import one_for_each
from stepmask.inspection.registry import denoiser_of
from stepmask.timesteps import says_timesteps, start_run


def seeded(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator per image, so that an image does not depend on the batch it is made in."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@contextlib.contextmanager
def _global_noise(pipe: Any, seed: int) -> Iterator[None]:
    """Seed torch's own generators for a while, and put them back: not every pipeline hands its generator on."""
    device = device_of(denoiser_of(pipe))
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed) if device.type == "cuda" else torch.default_generator.manual_seed(seed)
        yield


OF_CALL = "of_the_call_of"
"""Attribute of what a pipeline's call has raised: the pipeline's class by name."""


@contextlib.contextmanager
def _said_how_many(pipe: Any, count: int) -> Iterator[None]:
    """Note on the error of a pipeline whose it is and, where Python can, that it was called for several images."""
    try:
        yield
    except StepMaskError:
        raise
    except Exception as error:
        setattr(error, OF_CALL, type(pipe).__name__)
        if count > 1 and hasattr(error, "add_note"):
            error.add_note(
                f"stepmask called the pipeline for {count} images at once. If that is what it cannot do, or has no "
                "memory for: learn takes images_per_call=1, evaluate batch_size=1"
            )
        raise


RESULTS = ("images", "image", "frames", "videos", "video", "audios", "prediction", "image_embeds", "image_embeddings")
"""The attributes in which pipelines return what they make."""


def sample(pipe: Any, call_kwargs: Mapping[str, Any], seeds: Sequence[int], num_inference_steps: int) -> Tensor:
    """Run a pipeline once, quietly, with one seed per image.

    Returns:
        Images (N, C, H, W), or videos (N, frames, C, H, W), float32 on the CPU, in [0, 1] for pipelines; latents as
        they are where `call_kwargs` has ``output_type="latent"``.
    """
    call = PipelineCall(pipe)
    arguments = one_for_each(call_kwargs, len(seeds), makes_videos=call.takes("num_frames"))
    if call.takes("output_type") and arguments.get("output_type") != "latent":
        arguments["output_type"] = "pt"
    generators = seeded(seeds)
    generator = generators if len(generators) > 1 else generators[0]  # not every pipeline takes a list
    with quiet(pipe), _global_noise(pipe, seeds[0]), _said_how_many(pipe, len(seeds)):
        output = pipe(generator=generator, **call.steps(num_inference_steps), **arguments)
    ran = num_inference_steps if call.steps(num_inference_steps) else len(pipe.scheduler.timesteps)
    if ran != num_inference_steps:
        raise StepMaskError(
            f"the call of {type(pipe).__name__} takes no num_inference_steps, and its run has {ran} steps, not "
            f"{num_inference_steps}: ask for {ran}, or give an argument that says the steps (sigmas for example) in "
            "call_kwargs"
        )
    made = next((getattr(output, name) for name in RESULTS if hasattr(output, name)), None)
    if isinstance(made, np.ndarray):  # pipelines that know no "pt": (N, ..., C)
        made = torch.from_numpy(made).movedim(-1, -3)
    if not isinstance(made, Tensor):
        raise StepMaskError(f"{type(pipe).__name__} made {type(made).__name__} where a tensor of samples was expected")
    return made.float().cpu()


class _Called(Exception):
    """A run has reached its denoiser."""


def _stop(module: nn.Module, args: tuple) -> None:
    raise _Called


def timesteps_of_run(
    pipe: Any, call_kwargs: Mapping[str, Any], seeds: Sequence[int], num_inference_steps: int
) -> list[float]:
    """Timesteps of a run as the pipeline sets them.

    Where the scheduler alone does not say it, the pipeline is called, and stopped where it first calls the denoiser.
    """
    if says_timesteps(pipe.scheduler, call_kwargs):
        start_run(pipe.scheduler, num_inference_steps)
    else:
        denoiser = denoiser_of(pipe)
        hook = denoiser.register_forward_pre_hook(_stop, prepend=True)
        try:
            with contextlib.suppress(_Called), same_processors(denoiser):
                sample(pipe, call_kwargs, seeds, num_inference_steps)
        finally:
            hook.remove()
    return [float(timestep) for timestep in pipe.scheduler.timesteps]
