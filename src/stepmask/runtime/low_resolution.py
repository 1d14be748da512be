"""Low resolution in the early steps, inside the user's own pipeline.

The pipeline carries samples of full size all the time. At a step of low resolution the denoiser gets every second of
their pixels, say, and what it answers is repeated for those between. Schedulers treat every pixel alike, so that the
pixels that are picked run through the whole chain of a low-resolution run; those between mean nothing. At the switch a
sample of full size takes their place, at the noise level of the step that follows.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from stepmask.errors import StepMaskError
from stepmask.inspection.architecture import TIMESTEP_NAMES
from stepmask.recipe import Resolution
from stepmask.runtime.levels import (
    as_output,
    check_levels,
    clean_and_noise,
    forget_history,
    level_at,
    relabelled,
    unclipped,
)

SAMPLE_NAMES = ("sample", "hidden_states", "x", "latents")
"""What denoisers call the noisy sample, where it is not their first argument."""
POSITIONS = "img_ids"
"""Where a Flux transformer is told the row and the column of each token."""
SEEN = 64
"""So many numbers of an image's start noise say its fresh noise."""

Size = tuple[int, int]


class Layout(Protocol):
    """How a sample is laid out: where its pixels are, and how they become tokens."""

    full: Size
    low: Size

    def pick(self, sample: Tensor) -> Tensor:
        """The pixels of low resolution among those of full size."""
        ...

    def repeat(self, sample: Tensor) -> Tensor:
        """The inverse, with pixels repeated."""
        ...

    def switched(self, sample: Tensor, upsample: Callable[[Tensor, Size], Tensor]) -> Tensor:
        """A sample of low resolution, upsampled by a function of planes (..., h, w) and the size."""
        ...


class Planes:
    """Samples (N, C, H, W), or videos (N, C, frames, H, W)."""

    def __init__(self, sample: Tensor, factor: float, unit: int) -> None:
        self.full = sample.shape[-2], sample.shape[-1]
        self.low = low_size(self.full, factor, unit)

    def pick(self, sample: Tensor) -> Tensor:
        """The pixels of low resolution."""
        rows, columns = (_picked(*sides, sample.device) for sides in zip(self.full, self.low, strict=True))
        return sample[..., rows[:, None], columns]

    def repeat(self, sample: Tensor) -> Tensor:
        """Pixels of low resolution, repeated."""
        rows, columns = (_repeated(*sides, sample.device) for sides in zip(self.full, self.low, strict=True))
        return sample[..., rows[:, None], columns]

    def switched(self, sample: Tensor, upsample: Callable[[Tensor, Size], Tensor]) -> Tensor:
        """The planes upsampled."""
        return upsample(sample, self.full)


class Tokens:
    """Samples (N, H W, 4 C): tokens of two pixels by two, as the pipelines of Flux pack them."""

    def __init__(self, positions: Tensor, factor: float) -> None:
        self.full = int(positions[:, 1].max()) + 1, int(positions[:, 2].max()) + 1
        self.low = low_size(self.full, factor, 1)

    def pick(self, sample: Tensor) -> Tensor:
        """The tokens of low resolution."""
        return self._by_planes(sample, self.full, Planes.pick)

    def repeat(self, sample: Tensor) -> Tensor:
        """Tokens of low resolution, repeated."""
        return self._by_planes(sample, self.low, Planes.repeat)

    def _by_planes(self, sample: Tensor, size: Size, do: Callable[[Any, Tensor], Tensor]) -> Tensor:
        return do(self, sample.transpose(1, 2).unflatten(2, size)).flatten(2).transpose(1, 2)

    def switched(self, sample: Tensor, upsample: Callable[[Tensor, Size], Tensor]) -> Tensor:
        """The tokens as pixels, upsampled, and packed again."""
        (h, w), (high, wide) = self.low, self.full
        pixels = sample.unflatten(2, (-1, 2, 2)).unflatten(1, (h, w)).permute(0, 3, 1, 4, 2, 5)
        pixels = upsample(pixels.flatten(4, 5).flatten(2, 3), (2 * high, 2 * wide))
        tokens = pixels.unflatten(3, (wide, 2)).unflatten(2, (high, 2)).permute(0, 2, 4, 1, 3, 5)
        return tokens.flatten(3, 5).flatten(1, 2)


class LowResolution:
    """What a recipe's resolution does at the calls of a denoiser and at the steps of its scheduler.

    Args:
        resolution: The factor, the switch and the way.
        denoiser: Says to what its input is rounded.
        scheduler: Its noise levels must be known.

    Raises:
        StepMaskError: They are not.
    """

    def __init__(self, resolution: Resolution, denoiser: nn.Module, scheduler: Any) -> None:
        check_levels(scheduler)
        self._how, self._denoiser = resolution, denoiser
        self._layout: Layout | None = None
        self._seeds: list[int] = []

    def is_low(self, row: int) -> bool:
        """Whether a row runs at low resolution."""
        return row < self._how.switch

    @property
    def relabels(self) -> bool:
        """Whether the denoiser is told other timesteps at low resolution."""
        return self._how.way == "spectral"

    def begin(self, args: tuple, kwargs: dict) -> None:
        """A run begins with these arguments of the denoiser's call.

        Raises:
            StepMaskError: The call has something that has no low resolution.
        """
        sample, positions = _sample_of(args, kwargs), kwargs.get(POSITIONS)
        name = type(self._denoiser).__name__
        strangers = [key for key, value in kwargs.items() if key not in SAMPLE_NAMES and _is_spatial(value)]
        if strangers:
            raise StepMaskError(
                f"low resolution in the early steps is not for calls with {strangers[0]} (a control image, an "
                f"adapter?), which the {name} gets at full size: leave the recipe's resolution out"
            )
        if sample.dim() in (4, 5):
            self._layout = Planes(sample, self._how.factor, unit_of(self._denoiser))
        elif sample.dim() == 3 and isinstance(positions, Tensor) and positions.dim() == 2:
            self._layout = Tokens(positions, self._how.factor)
        else:
            raise StepMaskError(
                f"low resolution in the early steps knows images, videos and the tokens of Flux, and the {name} gets "
                f"samples of shape {tuple(sample.shape)}: leave the recipe's resolution out"
            )

    def small(self, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """The arguments of a call at low resolution."""
        sample, layout = _sample_of(args, kwargs), self._layout
        args, kwargs = _with_sample(args, kwargs, layout.pick(sample))
        if isinstance(layout, Tokens):
            ids = kwargs[POSITIONS]
            kwargs[POSITIONS] = ids[(ids[:, 1] < layout.low[0]) & (ids[:, 2] < layout.low[1])]
        return args, kwargs

    def picked(self, output: Tensor) -> Tensor:
        """The pixels of low resolution among those of full size."""
        return self._layout.pick(output)

    def large(self, output: Any) -> Any:
        """What the denoiser answers, at full size."""
        return tree_map_only(Tensor, self._layout.repeat, output)

    def relabelled(self, scheduler: Any, row: int, compute: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        """What the denoiser answers to what spectral expansion takes a picture of low resolution for.

        The run is that of the full picture, of which low resolution has the low frequencies. They are larger by the
        root of the pixels' ratio than those of the small pictures that the model knows, and noise is not: so that the
        model sees less noise, at a timestep that says so.
        """
        (high, wide), (h, w) = self._layout.full, self._layout.low
        growth = (high * wide / (h * w)) ** 0.5
        before, after, factor = relabelled(scheduler, row, growth)
        read = _sample_of(args, kwargs) * (after.sigma / before.sigma)
        args, kwargs = _with_timestep(*_with_sample(args, kwargs, read), factor)

        def as_full(answer: Tensor) -> Tensor:
            count = min(answer.shape[1], read.shape[1])  # learned variances follow, or conditions were read beside it
            clean, noise = clean_and_noise(scheduler, after, answer[:, :count], read[:, :count])
            return torch.cat([as_output(scheduler, before, growth * clean, noise), answer[:, count:]], dim=1)

        return tree_map_only(Tensor, as_full, compute(args, kwargs))

    def stepping(self, scheduler: Any, row: int) -> contextlib.AbstractContextManager:
        """Around a step of the scheduler: low frequencies alone may be larger than any clean sample."""
        return unclipped(scheduler) if self.relabels and self.is_low(row) else contextlib.nullcontext()

    def after_step(self, scheduler: Any, row: int, output: Tensor, sample: Tensor, following: Tensor) -> Tensor:
        """The next sample: that of the scheduler, at the switch one of full resolution.

        Args:
            scheduler: In its run.
            row: Of the step that is over.
            output: Of the model, after guidance.
            sample: Which the step began with.
            following: Which the scheduler made of it.
        """
        if row == 0:
            self._seeds = [_seed_of(image) for image in sample]
        if row + 1 != self._how.switch:
            return following
        layout, (alpha, sigma) = self._layout, level_at(scheduler, self._how.switch)
        forget_history(scheduler)

        def fresh(small: Tensor, size: Size) -> Tensor:
            return torch.stack([_fresh(seed, (*small.shape[1:-2], *size)) for seed in self._seeds]).to(small)

        if self.relabels:
            small = layout.pick(following.float())
            made = layout.switched(small, lambda small, size: expanded(small, fresh(small, size), sigma))
            return made.to(sample.dtype)
        level = level_at(scheduler, row)
        output = output[:, : sample.shape[1]]
        clean, _ = clean_and_noise(scheduler, level, layout.pick(output.float()), layout.pick(sample.float()))
        made = layout.switched(clean, lambda small, size: alpha * bilinear(small, size) + sigma * fresh(small, size))
        return made.to(sample.dtype)


def bilinear(small: Tensor, size: Size) -> Tensor:
    """A sample (N, ..., h, w), upsampled bilinearly."""
    up = nn.functional.interpolate(small.flatten(0, -4) if small.dim() > 4 else small, size, mode="bilinear")
    return up.reshape(*small.shape[:-2], *size)


def expanded(small: Tensor, fresh: Tensor, sigma: float) -> Tensor:
    """Low frequencies of the cosine basis from a small sample; fresh noise of this strength at those above."""
    (h, w), (high, wide) = small.shape[-2:], fresh.shape[-2:]
    down, right = cosines(high, small)[:h], cosines(wide, small)[:w]
    low = down.T @ (cosines(h, small) @ small @ cosines(w, small).T) @ right
    return low + sigma * (fresh - (down.T @ down) @ fresh @ (right.T @ right))


def cosines(count: int, like: Tensor) -> Tensor:
    """The orthonormal cosine transform (DCT-II) as a matrix (frequencies, places)."""
    places = torch.arange(count, dtype=torch.float64)
    table = torch.cos(torch.pi * places[:, None] * (places + 0.5) / count) * (2 / count) ** 0.5
    table[0] /= 2**0.5
    return table.to(like)


def low_size(full: Size, factor: float, unit: int) -> Size:
    """Height and width of the low resolution, in multiples of `unit`.

    Raises:
        StepMaskError: They are no smaller than the full ones.
    """
    low = tuple(max(unit, round(side * factor / unit) * unit) for side in full)
    if low[0] > full[0] or low[1] > full[1] or low == tuple(full):
        raise StepMaskError(
            f"{factor:g} of {full[0]} x {full[1]} is no smaller in steps of {unit}, which the denoiser takes: choose a "
            "smaller factor, or larger images"
        )
    return low


def unit_of(denoiser: nn.Module) -> int:
    """What height and width of a denoiser's input are multiples of."""
    config = denoiser.config
    patch = getattr(config, "patch_size", None)
    if patch is not None:
        return patch if isinstance(patch, int) else max(patch[-2:])
    return 2 ** (len(getattr(config, "block_out_channels", (1,))) - 1)


def _picked(full: int, low: int, device: torch.device) -> Tensor:
    """Places of the picked pixels along a side: the first of those that repeat each."""
    return -(-torch.arange(low, device=device) * full // low)


def _repeated(full: int, low: int, device: torch.device) -> Tensor:
    """For each pixel of full size the one of low resolution that stands there."""
    return torch.arange(full, device=device) * low // full


def _sample_of(args: tuple, kwargs: dict) -> Tensor:
    return args[0] if args else next(kwargs[name] for name in SAMPLE_NAMES if name in kwargs)


def _with_sample(args: tuple, kwargs: dict, sample: Tensor) -> tuple[tuple, dict]:
    """The arguments with another sample."""
    if args:
        return (sample, *args[1:]), dict(kwargs)
    return args, {**kwargs, next(name for name in SAMPLE_NAMES if name in kwargs): sample}


def _with_timestep(args: tuple, kwargs: dict, factor: float) -> tuple[tuple, dict]:
    """The arguments with a factor on their timestep, which stays whole where it was."""

    def times(timestep: Any) -> Any:
        if not isinstance(timestep, Tensor):
            return type(timestep)(round(timestep * factor) if isinstance(timestep, int) else timestep * factor)
        made = timestep.double() * factor
        return (made if timestep.is_floating_point() else made.round()).to(timestep.dtype)

    name = next((name for name in TIMESTEP_NAMES if name in kwargs), None)
    if name is None:
        return (args[0], times(args[1]), *args[2:]), kwargs
    return args, {**kwargs, name: times(kwargs[name])}


def _is_spatial(value: Any) -> bool:
    """Whether an argument has planes, or is a list of such."""
    if isinstance(value, list | tuple):
        return any(map(_is_spatial, value))
    return isinstance(value, Tensor) and value.dim() >= 4


def _seed_of(image: Tensor) -> int:
    """A seed that the start noise of an image says, so that it is the same in every batch, and in every run."""
    numbers = image.flatten()[:SEEN].float().cpu().numpy().tobytes()
    return int.from_bytes(hashlib.sha256(numbers).digest()[:7])


def _fresh(seed: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
