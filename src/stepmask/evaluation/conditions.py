"""What each image of an evaluation is conditioned on: drawn once, the same for every run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stepmask.errors import StepMaskError
from stepmask.inspection.pipeline_call import PipelineCall
from stepmask.inspection.prompts import is_per_image, without_clashes

CONDITION_SEED = 20_260_101
"""Seed of the generator that draws the conditions of all evaluations."""


class Conditions:
    """Gives the call arguments for any slice of N images.

    Args:
        pipe: The pipeline; class-conditional ones get random labels, the same in every evaluation.
        call_kwargs: The user's arguments, which win. Lists, tuples and tensors of length N are taken to hold one
            value per image.
        num_images: N.

    Raises:
        StepMaskError: The pipeline needs conditions that neither the user nor stepmask gave, or does not take what the
            user gave.
    """

    def __init__(self, pipe: Any, call_kwargs: Mapping[str, Any] | None, num_images: int) -> None:
        given = dict(call_kwargs or {})
        for name in ("generator", "num_inference_steps", "output_type", "return_dict"):
            if name in given:
                raise StepMaskError(f"call_kwargs must not contain {name}: evaluation sets it itself")
        call = PipelineCall(pipe)
        call.check(given)
        try:
            drawn = call.drawn(num_images, torch.Generator().manual_seed(CONDITION_SEED), given)
        except StepMaskError:
            if not given:
                raise
            drawn = {}
        self._arguments = {**without_clashes(drawn, given), **given}
        self._takes_batch_size = call.takes("batch_size")
        self._num_images = num_images

    def slice(self, start: int, stop: int) -> dict[str, Any]:
        """Return the arguments for the images from `start` to before `stop`; indices wrap around after N."""
        order = [index % self._num_images for index in range(start, stop)]
        arguments = dict(self._arguments)
        for name, value in arguments.items():
            if is_per_image(name, value) and len(value) == self._num_images:
                arguments[name] = value[order] if isinstance(value, Tensor) else [value[index] for index in order]
        if self._takes_batch_size:
            arguments["batch_size"] = len(order)
        return arguments

    def prompts(self) -> tuple[str, ...] | None:
        """Return one prompt per image, or None where the pipeline takes none."""
        given = self._arguments.get("prompt")
        if isinstance(given, str):
            return (given,) * self._num_images
        return None if given is None else tuple(self.slice(0, self._num_images)["prompt"])
