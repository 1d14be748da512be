"""Runs a pipeline on noise and conditions that learning draws itself: numbered images, the same for the same seed."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepmask.errors import StepMaskError
from stepmask.inspection.overrides import unchecked, without_decoder
from stepmask.inspection.pipeline_call import PipelineCall
from stepmask.inspection.prompts import is_per_image, without_clashes
from stepmask.inspection.sampler_loop import SamplerLoop
from stepmask.runtime.sampling import sample, timesteps_of_run

NOISE_SEEDS = 2**31
"""Learning draws its noise from the upper half of the 32-bit seeds (torch uses no more), far from what people use."""

IMAGES_PER_SEED = 10**5
"""Numbers of images that one learning seed may use before it meets those of the next."""


CONDITIONS_APART = 16
"""Listed conditions are gone through from the start by the first 10,000 images, by each further 10,000 from so many
later on: what is kept apart by round numbers does not meet the same few conditions of a long list."""


class Noise:
    """Image i of a learning seed: its noise and its conditions, whatever batch it is made in.

    Args:
        pipe: What samples.
        num_inference_steps: The number of steps of each run.
        seed: The seed of learning.
        call_kwargs: The user's arguments for the call, which win over drawn ones. Lists, tuples and tensors hold one
            value per image and are gone through again and again.

    Raises:
        StepMaskError: The call does not take one of them.
    """

    def __init__(
        self, pipe: Any, num_inference_steps: int, seed: int, call_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        self.pipe, self.num_inference_steps = pipe, num_inference_steps
        self._first = NOISE_SEEDS + (seed * IMAGES_PER_SEED) % (NOISE_SEEDS - IMAGES_PER_SEED)
        self._given = dict(call_kwargs or {})
        self._call = PipelineCall(pipe)
        self._call.check(self._given)
        if "batch_size" in self._given:
            raise StepMaskError(
                "call_kwargs must not hold batch_size: how many images learning makes at once is its own"
            )

    def seeds(self, first: int, count: int) -> range:
        """Seeds of the images numbered from `first`."""
        return range(self._first + first, self._first + first + count)

    def timesteps(self) -> list[float]:
        """Timesteps of each run."""
        return timesteps_of_run(
            self.pipe, self._conditions([0], [self._first]), [self._first], self.num_inference_steps
        )

    def images(self, first: int, count: int, copies: int = 1) -> Tensor:
        """Final images (copies * count, ...) of the numbered noise, each as often as `copies` says."""
        numbers = list(range(first, first + count)) * copies
        seeds = [self._first + number for number in numbers]
        with unchecked(self.pipe):
            return sample(self.pipe, self._conditions(numbers, seeds), seeds, self.num_inference_steps)

    def latents(self, first: int, count: int, copies: int = 1) -> Tensor:
        """The same before the decoder, where the pipeline has one.

        Raises:
            StepMaskError: It decodes something else than these images.
        """
        with without_decoder(self.pipe, keep_all=True) as decoder_inputs:
            images = self.images(first, count, copies)
        if not decoder_inputs:
            return images
        # some decode a few frames at a time
        latents = torch.cat(decoder_inputs) if len(decoder_inputs) > 1 else decoder_inputs[0]
        wanted = count * copies
        if len(latents) % wanted:
            raise StepMaskError(
                f"the decoder of {type(self.pipe).__name__} was given {len(latents)} latents for {wanted} images"
            )
        latents = latents if len(latents) == wanted else latents.unflatten(0, (wanted, -1))
        return latents.float().cpu()

    def psnrs(self, images: Tensor, reference: Tensor) -> np.ndarray:
        """PSNR in dB of each image (N,); a bare loop's samples span two units, a pipeline's pictures one."""
        span = 2.0 if isinstance(self.pipe, SamplerLoop) else 1.0
        square = (images - reference).flatten(1).double().square().mean(1) / span**2
        return (-10 * square.clamp_min(1e-12).log10()).numpy()

    def _conditions(self, numbers: Sequence[int], seeds: Sequence[int]) -> dict[str, Any]:
        """Call arguments of these images."""
        places = [number + number // 10_000 * CONDITIONS_APART for number in numbers]
        given = {name: pick(name, value, places) for name, value in self._given.items()}
        try:
            drawn = [self._call.drawn(1, torch.Generator().manual_seed(seed), given) for seed in seeds]
        except StepMaskError:
            if not given:
                raise
            return given
        joined = {name: _join([one[name] for one in drawn]) for name in drawn[0]}
        return {**without_clashes(joined, given), **given}


def _join(values: list[Any]) -> Any:
    """Conditions of single images as those of a batch."""
    if isinstance(values[0], Tensor):
        return torch.cat(values)
    return sum(values[1:], start=copy.copy(values[0]))  # lists, or the batch size


def pick(name: str, value: Any, numbers: Sequence[int]) -> Any:
    """A call argument for these images: lists, tuples and tensors hold one value per image and start again."""
    if not is_per_image(name, value):
        return value
    order = [number % len(value) for number in numbers]
    return value[order] if isinstance(value, Tensor) else [value[i] for i in order]
