"""The plain sampling loop, for denoisers without a pipeline."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from stepmask.errors import StepMaskError
from stepmask.inspection.architecture import Architecture
from stepmask.inspection.placement import device_of, dtype_of
from stepmask.inspection.registry import architecture_of, denoiser_of
from stepmask.inspection.twin import meta_twin
from stepmask.timesteps import start_run, stepped


class SamplerLoop:
    """The plain sampling loop over a bare denoiser, with the call of a pipeline.

    Args:
        denoiser: The model.
        scheduler: Any diffusers scheduler whose ``step`` takes output, timestep and sample.
    """

    def __init__(self, denoiser: nn.Module, scheduler: Any) -> None:
        self.denoiser, self.scheduler = denoiser, scheduler
        self._like: tuple[tuple[int, ...], torch.dtype] | None = None

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        num_inference_steps: int = 50,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        **condition: Any,
    ) -> SimpleNamespace:
        """Sample from noise; ``images`` of the result are the final samples, as the model makes them.

        A generator is the source of all noise, or one for each image; a condition (``class_labels=...``) is
        passed on to the denoiser.
        """
        from diffusers.utils.torch_utils import randn_tensor

        device, dtype = device_of(self.denoiser), dtype_of(self.denoiser)
        family = architecture_of(denoiser_of(self.denoiser))
        name = family.step_inputs[0]
        shape, timestep_dtype = self._inputs_of(family)
        start_run(self.scheduler, num_inference_steps)
        generator = list(generator) if isinstance(generator, Sequence) else generator
        sample = randn_tensor((batch_size, *shape), generator=generator, device=device, dtype=dtype)
        sample = sample * getattr(self.scheduler, "init_noise_sigma", 1.0)
        takes_generator = "generator" in inspect.signature(self.scheduler.step).parameters
        noise = {"generator": generator} if takes_generator else {}
        for timestep in stepped(self.scheduler):
            scaled = sample
            if hasattr(self.scheduler, "scale_model_input"):
                scaled = self.scheduler.scale_model_input(sample, timestep)
            steps = timestep.expand(batch_size).to(device)
            if timestep_dtype.is_floating_point:
                steps = steps.to(timestep_dtype)
            inputs = {name: scaled.to(dtype), family.timestep_name: steps, **condition}
            output = family.run(self.denoiser, inputs)
            sample = self.scheduler.step(output, timestep, sample, return_dict=False, **noise)[0]
        return SimpleNamespace(images=sample)

    def _inputs_of(self, family: Architecture) -> tuple[tuple[int, ...], torch.dtype]:
        """Shape of one noisy sample and type of the timestep, as the family's example inputs have them."""
        if self._like is None:
            inputs = family.example_inputs(meta_twin(denoiser_of(self.denoiser)))  # random numbers are left as they are
            self._like = tuple(inputs[family.step_inputs[0]].shape[1:]), inputs[family.timestep_name].dtype
        return self._like


def as_pipeline(model: Any, scheduler: Any | None = None) -> Any:
    """A pipeline as it is, or a bare denoiser with its scheduler as a `SamplerLoop`.

    Raises:
        StepMaskError: A bare denoiser without a scheduler, or a pipeline and another scheduler.
    """
    denoiser_of(model)
    if isinstance(model, nn.Module):
        if scheduler is None:
            raise StepMaskError("a bare denoiser needs its scheduler too: give scheduler=..., or a whole pipeline")
        return SamplerLoop(model, scheduler)
    if scheduler is not None and scheduler is not model.scheduler:
        raise StepMaskError("a pipeline brings its scheduler: set pipe.scheduler instead of giving scheduler=...")
    return model
