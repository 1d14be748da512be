"""Recipe: how a run spends its work, step by step: steps, timesteps, mask, resolution and guidance in one value.

Pure values and files, like masks: no torch, no model. Who runs a recipe is `stepmask.runtime.recipes`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

from stepmask.errors import MaskFileError, StepMaskError
from stepmask.files import write_json
from stepmask.hub import Shared
from stepmask.mask import MAX_ROWS, StepMask
from stepmask.recipe_file import FORMAT, FORMAT_VERSION, finite_numbers, parsed, readable_json, whole_number

WAYS = ("renoise", "spectral")
"""How a run goes from low to full resolution."""

FULL, HELD, FORECAST, OFF = "1", "h", "l", "0"
"""Guidance at a step, as letters of `Recipe.guidance`."""
GUIDANCE = {
    FULL: "both halves compute",
    HELD: "the conditional half computes, the difference of the halves is the one computed last",
    FORECAST: "the same, the difference extrapolated from the two computed last",
    OFF: "the conditional half alone, without guidance",
}


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """Low resolution in the first steps of a run.

    Attributes:
        factor: Height and width of the low resolution as a share of the full ones, between 0 and 1. The sides are
            rounded to what the denoiser can take.
        switch: The first step at full resolution, counted from 0.
        way: How the run goes on at the switch. "renoise" is PostDiff's (arXiv 2508.06160): the predicted clean sample
            is upsampled bilinearly and gets fresh noise. "spectral" is spectral expansion (arXiv 2605.18736): the
            run is that of the full picture, of which low resolution has the low frequencies, so that the model is told
            less noise; at the switch the high ones get fresh noise.
    """

    factor: float
    switch: int
    way: str = "renoise"

    def __post_init__(self) -> None:
        (factor,) = finite_numbers("the factor of the resolution", [self.factor])
        if not 0 < factor < 1:
            raise StepMaskError(f"the factor of the resolution lies between 0 and 1, 0.5 for example, got {factor:g}")
        object.__setattr__(self, "factor", factor)
        whole_number("the step at which the resolution switches", self.switch, 1, MAX_ROWS)
        if self.way not in WAYS:
            raise StepMaskError(f"the way to full resolution is {' or '.join(WAYS)}, got {self.way!r:.80}")

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {"factor": self.factor, "switch": self.switch, "way": self.way}


@dataclass(frozen=True, kw_only=True, eq=False)
class Recipe(Shared):
    """How a run spends its work. What is None is as the pipeline has it.

    Attributes:
        num_inference_steps: The number of steps, T, with which the pipeline is called.
        timesteps: T falling timesteps. Schedulers for flow matching take them as a thousandth, which is their sigma.
        sigmas: The same by noise level, for schedulers that are told sigmas: those of flow matching and Euler. One of
            both is given at most.
        mask: What each site does at each step.
        resolution: Low resolution in the first steps.
        guidance: A letter for each step: "1" both halves of classifier-free guidance compute, "h" the difference of the
            halves is the one computed last while the conditional half computes, "l" it is extrapolated from the last
            two, "0" the conditional half alone. The first step is "1".
        scheduler: Class and configuration, as `stepmask.mask.scheduler_identity` gives them; None is that of the mask,
            or any.
        provenance: Whatever says how the recipe came to be, as JSON values.
    """

    kind: ClassVar[str] = "recipe"
    hub_file: ClassVar[str] = "recipe.json"

    num_inference_steps: int
    timesteps: Sequence[float] | None = None
    sigmas: Sequence[float] | None = None
    mask: StepMask | None = None
    resolution: Resolution | None = None
    guidance: str | None = None
    scheduler: Mapping[str, Any] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        steps, set_ = self.num_inference_steps, object.__setattr__
        whole_number("num_inference_steps", steps, 1, MAX_ROWS)
        set_(self, "provenance", dict(self.provenance))
        if self.timesteps is not None and self.sigmas is not None:
            raise StepMaskError("a recipe has timesteps or sigmas, not both: leave one of them out")
        for name in ("timesteps", "sigmas"):
            if getattr(self, name) is not None:
                set_(self, name, _falling(name, getattr(self, name), steps))
        if self.mask is not None:
            self._check_mask(self.mask)
        if self.resolution is not None and self.resolution.switch >= steps:
            raise StepMaskError(
                f"the resolution switches at step {self.resolution.switch} of {steps}: the last step, {steps - 1}, has "
                "to be at full resolution"
            )
        if self.guidance is not None:
            self._check_guidance(self.guidance)

    def _check_mask(self, mask: StepMask) -> None:
        if not isinstance(mask, StepMask):
            raise StepMaskError(f"the mask of a recipe is a StepMask, got {type(mask).__name__}")
        steps = mask.num_inference_steps
        if steps != self.num_inference_steps:
            raise StepMaskError(f"the mask is for {steps} steps, the recipe has {self.num_inference_steps}")
        given = None if self.timesteps is None else len(self.timesteps)
        if given not in (None, mask.num_rows):
            raise StepMaskError(f"the mask has {mask.num_rows} rows, and there are {given} timesteps")
        if self.scheduler is None:
            object.__setattr__(self, "scheduler", mask.scheduler)
        elif mask.scheduler is not None and dict(mask.scheduler) != dict(self.scheduler):
            raise StepMaskError("the mask is for another scheduler than the recipe: leave the recipe's out")

    def _check_guidance(self, letters: str) -> None:
        known = ", ".join(f"{letter} ({words})" for letter, words in GUIDANCE.items())
        if not isinstance(letters, str) or set(letters) - set(GUIDANCE):
            raise StepMaskError(f"guidance is a text of one letter per step: {known}")
        if len(letters) != self.num_inference_steps:
            raise StepMaskError(f"guidance has {len(letters)} letters for {self.num_inference_steps} steps")
        if letters[0] != FULL:
            raise StepMaskError(f"guidance begins with {FULL}: at the first step both halves have to compute")
        if self.resolution is None:
            return
        after = letters[self.resolution.switch :].lstrip(OFF)
        if after and after[0] != FULL:
            raise StepMaskError(
                f"after the switch of the resolution at step {self.resolution.switch} guidance is held before it was "
                f"computed at this resolution: let it be {FULL} first"
            )

    def __eq__(self, other: object) -> bool:
        """Equal in every field."""
        return self.to_dict() == other.to_dict() if isinstance(other, Recipe) else NotImplemented

    __hash__ = None

    @property
    def is_plain(self) -> bool:
        """Whether nothing but the number of steps is said."""
        return not self.levers

    @property
    def levers(self) -> tuple[str, ...]:
        """Names of the fields that change the run beside the number of steps."""
        names = ("timesteps", "sigmas", "mask", "resolution", "guidance")
        return tuple(name for name in names if getattr(self, name) is not None)

    def to_dict(self) -> dict[str, Any]:
        """What a recipe file says, as JSON values."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "num_inference_steps": self.num_inference_steps,
            "scheduler": self.scheduler,
            "timesteps": None if self.timesteps is None else list(self.timesteps),
            "sigmas": None if self.sigmas is None else list(self.sigmas),
            "resolution": None if self.resolution is None else self.resolution.to_dict(),
            "guidance": self.guidance,
            "mask": None if self.mask is None else self.mask.to_dict(),
            "provenance": self.provenance,
        }

    @classmethod
    def from_dict(cls, content: Any) -> Recipe:
        """The recipe that a file's content describes.

        Raises:
            MaskFileError: It is none, of another format version, or says impossible things.
        """
        try:
            values = parsed(content)
            if values["mask"] is not None:
                values["mask"] = StepMask.from_dict(values["mask"])
            if values["resolution"] is not None:
                values["resolution"] = Resolution(**values["resolution"])
            return cls(**values)
        except MaskFileError:
            raise
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
            raise MaskFileError(f"it cannot be used: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write the recipe as JSON, whole or not at all.

        Raises:
            StepMaskError: The file cannot be written, or provenance holds what JSON cannot.
        """
        write_json(path, self.to_dict(), readable_json)

    def __str__(self) -> str:
        """The levers in words, in one line."""
        words = [f"{self.num_inference_steps} steps"]
        words += [f"{name} of its own" for name in ("timesteps", "sigmas") if getattr(self, name) is not None]
        if self.mask is not None:
            words.append(f"a mask in which {self.mask.compute.mean():.0%} of the cells compute")
        if self.resolution is not None:
            low = self.resolution
            words.append(f"the first {low.switch} at {low.factor:g} of the resolution ({low.way})")
        if self.guidance is not None:
            words.append(f"guidance {self.guidance}")
        return ", ".join(words)


def _falling(name: str, values: Any, count: int) -> tuple[float, ...]:
    """Timesteps or sigmas, checked: so many finite numbers that fall."""
    if not isinstance(values, Sequence) or isinstance(values, str):
        values = list(values)
    if len(values) != count:
        raise StepMaskError(f"{name} has {len(values)} numbers for {count} steps")
    numbers = finite_numbers(name, values)
    if any(after >= before for before, after in pairwise(numbers)) or numbers[-1] < 0:
        raise StepMaskError(f"{name} must fall from step to step and not below 0: the first step is the noisiest")
    return tuple(int(number) if number.is_integer() else number for number in numbers)
