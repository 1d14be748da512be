"""Runs recipes and remembers how near to the converged run they came, on noise that is drawn for it alone.

It knows nothing of why a recipe is tried. What was measured is kept in a checkpoint, so that an interrupted search goes
on from it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepmask.errors import StepMaskError
from stepmask.evaluation.converged import ENOUGH, FIRST, check_deterministic
from stepmask.evaluation.fidelity import psnr_per_image
from stepmask.inspection.sampler_loop import SamplerLoop
from stepmask.learning.checkpoint import Checkpoint
from stepmask.recipe import Recipe
from stepmask.runtime.recipes import apply_recipe
from stepmask.runtime.task import Task
from stepmask.runtime.work import Steps, work_of

APART = 50_000
"""Numbers of images from here on are nobody else's: masks are learned on those before."""
FEW = 3
"""Images that tell how many steps are enough."""


class Judge:
    """Measures recipes on images of three kinds: to learn on, to choose by, and to report.

    Args:
        pipe: What samples.
        seed: That of noise and conditions.
        call_kwargs: Arguments of the call.
        num_images: Of the first two kinds.
        num_held_back: Of the third.
        checkpoint: Keeps what was measured.
        enough: dB, how little doubling the steps of the converged run has to change.
        batch_size: Images at once whose steps are timed, where work is time; None counts multiply-accumulates.
    """

    def __init__(
        self,
        pipe: Any,
        seed: int,
        call_kwargs: Mapping[str, Any],
        num_images: int,
        num_held_back: int,
        checkpoint: Checkpoint,
        enough: float = ENOUGH,
        batch_size: int | None = None,
    ) -> None:
        check_deterministic(pipe.scheduler, call_kwargs)
        self._pipe, self._seed, self._call, self._checkpoint = pipe, seed, dict(call_kwargs), checkpoint
        self._enough = enough
        self._tasks: dict[int, Task] = {}
        self.steps = Steps(self.task(1), batch_size, checkpoint.arrays)
        self.learning = APART, num_images
        self.choosing = APART + num_images, num_images
        self.held_back = APART + 2 * num_images, num_held_back
        self.evaluations, self.seconds = 0.0, 0.0  # of what was run in this session

    def task(self, steps: int) -> Task:
        """The pipeline with a number of steps."""
        if steps not in self._tasks:
            self._tasks[steps] = Task(self._pipe, steps, seed=self._seed, call_kwargs=self._call)
        return self._tasks[steps]

    def work(self, recipe: Recipe) -> float:
        """Work of a run, in evaluations."""
        return work_of(recipe, self.task(recipe.num_inference_steps), self.steps).evaluations

    def psnrs(self, recipe: Recipe, images: tuple[int, int]) -> np.ndarray:
        """PSNR in dB of each of these images (first number, count) to the converged run."""
        key = f"psnr.{images[0]}.{images[1]}.{digest(recipe)}"
        values = self._checkpoint.values
        if key not in values:
            wanted, work = self.reference(images, latent=False), self.work(recipe)
            with apply_recipe(self._pipe, recipe, call_kwargs=self._call):
                made = self._made(recipe.num_inference_steps, images, work, latent=False)
            values[key] = [round(float(one), 4) for one in self._unit(made, wanted)]
            self._checkpoint.save()
        return np.array(values[key])

    def latents(self, recipe: Recipe, images: tuple[int, int]) -> Tensor:
        """Final latents of these images; nothing is remembered."""
        with apply_recipe(self._pipe, recipe, call_kwargs=self._call):
            return self._made(recipe.num_inference_steps, images, recipe.num_inference_steps, latent=True)

    def reference(self, images: tuple[int, int], latent: bool) -> Tensor:
        """The same of the converged run."""
        key, steps = f"reference.{'latents' if latent else 'images'}.{images[0]}.{images[1]}", self.converged_steps
        arrays = self._checkpoint.arrays
        if key not in arrays:
            arrays[key] = self._made(steps, images, steps, latent).numpy()
            self._checkpoint.save()
        return torch.from_numpy(arrays[key])

    @property
    def converged_steps(self) -> int:
        """Number of steps of the converged run, found by doubling."""
        values = self._checkpoint.values
        if "converged" not in values:
            trained = getattr(self._pipe.scheduler.config, "num_train_timesteps", None) or 1000
            few, steps, changes = (self.choosing[0], min(FEW, self.choosing[1])), FIRST, {}
            after = self._made(steps, few, steps, latent=False)
            while 2 * steps <= trained and max([0.0, *changes.values()]) < self._enough:
                before, steps = after, 2 * steps
                after = self._made(steps, few, steps, latent=False)
                changes[str(steps)] = round(float(self._unit(before, after).mean()), 2)
            values["converged"] = {"num_inference_steps": steps, "changes": changes}
            self._checkpoint.save()
        return values["converged"]["num_inference_steps"]

    @property
    def said(self) -> str:
        """How the converged run was found, in words."""
        steps, changes = self.converged_steps, self.kept["converged"]["changes"]
        last = f", which differ from {steps // 2} by {changes[str(steps)]:.1f} dB" if changes else ""
        return f"converged run: {steps} steps{last}"

    @property
    def pace(self) -> float:
        """Seconds that an evaluation of one image has taken in this session."""
        if not self.evaluations:
            self._made(5, (self.choosing[0], self.choosing[1]), 5, latent=False)
        return self.seconds / self.evaluations

    @property
    def guides_in_one_call(self) -> bool:
        """Whether guidance can be left out step by step."""
        recipe = Recipe(num_inference_steps=5, guidance="11110")
        try:
            with apply_recipe(self._pipe, recipe, call_kwargs=self._call):
                self._made(5, (self.choosing[0], 1), 5, latent=False)
        except StepMaskError:
            return False
        return True

    @property
    def kept(self) -> Mapping[str, Any]:
        """What the checkpoint has, by name."""
        return self._checkpoint.values

    def keep(self, name: str, value: Any) -> None:
        """Put something else into the checkpoint."""
        self._checkpoint.values[name] = value
        self._checkpoint.save()

    def _unit(self, made: Tensor, wanted: Tensor) -> Tensor:
        if isinstance(self._pipe, SamplerLoop):
            made, wanted = ((one / 2 + 0.5).clamp(0, 1) for one in (made, wanted))
        return psnr_per_image(made, wanted)

    def _made(self, steps: int, images: tuple[int, int], evaluations: float, latent: bool) -> Tensor:
        noise = self.task(steps).noise
        with self._timing(evaluations * images[1]):
            return (noise.latents if latent else noise.images)(*images)

    @contextmanager
    def _timing(self, evaluations: float) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - began
        self.evaluations += evaluations


def digest(recipe: Recipe) -> str:
    """Tells one recipe from another, whatever its provenance says."""
    content = {**recipe.to_dict(), "provenance": None, "scheduler": None}
    if content["mask"] is not None:
        content["mask"] = {**content["mask"], "provenance": None, "scheduler": None, "scores": None}
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
