"""Caching hooks of diffusers (0.42.1): FirstBlockCache, MagCache, TaylorSeer, FasterCache, Pyramid Attention Broadcast.

diffusers offers them by ``enable_cache``, which U-Nets, DiT and PixArt lack; their functions ``apply_...`` take any
model. What ``enable_cache`` and the pipelines that know it do besides is done here: a cache context around the call,
the current timestep, a new state for every call. Both halves of a guided batch are one context.

Settings, where nothing is said those of the documentation:

- FirstBlockCache: thresholds 0.05 (the default) to 0.2. It decides for a whole batch.
- MagCache: thresholds 0.06 (the default) to 0.24, on magnitudes that it calibrates before, on 8 images of other seeds.
- TaylorSeer: intervals 2, 3 and 5 (the default), order 1, on attentions, feed-forwards and residual blocks, factors in
  float32 as in its example; on transformers also its lite mode, the whole step forecast at the output projection.
- FasterCache: as by default, the unconditional half at every second step, and over the whole run. It needs guidance, in
  one batch with the unconditional half first; only transformers skip self-attentions too.
- Pyramid Attention Broadcast: self-attentions every k-th step, cross-attentions every 3k-th, at timesteps 100 to 800.

Left out: SeaCache, which takes a noise level between 0 and 1 from pipelines of flow matching, and computes everything
where there is none; TextKVCache, which is for one model.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from stepmask.evaluation import sampler_for
from stepmask.inspection.pipeline_call import PipelineCall
from stepmask.inspection.placement import diffusers_hooks
from stepmask.inspection.registry import denoiser_of
from stepmask.runtime.position import timestep_of
from stepmask.schedules import fora
from stepmask_lab.method import Subject, Unmasked
from stepmask_lab.shipped._enabling import NotSupported, Rival, num_rows, restored, silent

CALIBRATION_SEEDS = range(8)
CONDITIONAL_FIRST = ("DiTPipeline",)
"""Pipelines whose guided batch begins with the conditional half."""


def methods() -> list[Unmasked]:
    """One method per hook."""
    hooks = [
        Hook("FirstBlockCache", "apply_first_block_cache", _first_block, _plain),
        Hook("MagCache", "apply_mag_cache", _mag_thresholds, _calibrated),
        Hook("TaylorSeer", "apply_taylorseer_cache", _taylor, _plain, "TaylorSeerCacheConfig"),
        Hook("FasterCache", "apply_faster_cache", _faster, _guided),
        Hook("PAB", "apply_pyramid_attention_broadcast", _pyramid, _timed, "PyramidAttentionBroadcastConfig"),
    ]
    return [Rival(f"diffusers {hook.name}", "diffusers.hooks", hook.settings, hook.enable).method() for hook in hooks]


@dataclass(frozen=True)
class Hook:
    """One kind of caching.

    Attributes:
        name: As tables call it.
        function: Name of what applies it.
        settings: Arguments of its config, for a subject.
        complete: Adds what only a subject can say to them, and a function that gives the current timestep.
        config: Name of its config's class, where that is not `name` with "Config".
    """

    name: str
    function: str
    settings: Callable[[Subject], Mapping[str, dict[str, Any]]]
    complete: Callable[[Subject, dict[str, Any], Callable[[], float]], dict[str, Any]]
    config: str | None = None

    @contextmanager
    def enable(self, subject: Subject, options: dict[str, Any]) -> Iterator[None]:
        """Apply it for one call."""
        import diffusers
        from diffusers import CacheMixin, hooks

        denoiser = denoiser_of(subject.pipe)
        make_config = getattr(hooks, self.config or f"{self.name}Config", None)
        if make_config is None:
            raise NotSupported(f"is not in diffusers {diffusers.__version__}: install a newer one")
        clock = _Clock()
        config = make_config(**self.complete(subject, options, clock))
        handle = denoiser.register_forward_pre_hook(clock.read, with_kwargs=True)
        try:
            with silent():
                try:
                    getattr(hooks, self.function)(denoiser, config)
                except IndexError as error:  # FirstBlockCache takes the first of the blocks that it found
                    raise NotSupported(f"finds no list of transformer blocks in {type(denoiser).__name__}") from error
            if not any(diffusers_hooks(module) for module in denoiser.modules()):
                raise NotSupported(f"finds nothing to cache in {type(denoiser).__name__}")
            with CacheMixin.cache_context(denoiser, "both halves"):
                yield
        finally:
            handle.remove()


class _Clock:
    """The timestep of the denoiser's latest call."""

    def __init__(self) -> None:
        self._timestep = 0.0

    def read(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """A forward hook."""
        timestep = timestep_of(args, kwargs)
        self._timestep = float(timestep.flatten()[0]) if hasattr(timestep, "flatten") else float(timestep)

    def __call__(self) -> float:
        return self._timestep


def _plain(subject: Subject, options: dict[str, Any], now: Callable[[], float]) -> dict[str, Any]:
    return options


def _timed(subject: Subject, options: dict[str, Any], now: Callable[[], float]) -> dict[str, Any]:
    return {**options, "current_timestep_callback": now}


def _guided(subject: Subject, options: dict[str, Any], now: Callable[[], float]) -> dict[str, Any]:
    if PipelineCall(subject.pipe).forwards_per_image(subject.call_kwargs) < 2:
        raise NotSupported("skips the unconditional half of a guided batch, and here is no guidance")
    if type(subject.pipe).__name__ in CONDITIONAL_FIRST:
        raise NotSupported(
            f"takes the first half of a batch for unconditional, {type(subject.pipe).__name__} the second"
        )
    return {**options, "tensor_format": "BCHW", "current_timestep_callback": now}


def _first_block(subject: Subject) -> Mapping[str, dict[str, Any]]:
    return {f"{value:g}": {"threshold": value} for value in (0.05, 0.1, 0.2)}


def _pyramid(subject: Subject) -> Mapping[str, dict[str, Any]]:
    return {
        f"1:{k}": {"spatial_attention_block_skip_range": k, "cross_attention_block_skip_range": 3 * k} for k in (2, 4)
    }


def _faster(subject: Subject) -> Mapping[str, dict[str, Any]]:
    whole = {"spatial_attention_timestep_skip_range": (-1, 1000), "unconditional_batch_timestep_skip_range": (-1, 1000)}
    return {
        "default": {},
        "unconditional 1:2": {"unconditional_batch_skip_range": 2},
        "whole run": whole,
    }


def _taylor(subject: Subject) -> Mapping[str, dict[str, Any]]:
    import torch

    denoiser = denoiser_of(subject.pipe)
    common = {"max_order": 1, "taylor_factors_dtype": torch.float32}
    layers = {"cache_identifiers": [re.escape(name) for name in _layers(denoiser)]}
    settings = {f"1:{k}": {"cache_interval": k, **common, **layers} for k in (2, 3, 5)}
    last = next(
        (name for name in ("proj_out", "proj_out_2") if isinstance(getattr(denoiser, name, None), nn.Linear)), None
    )
    if last is not None:
        lite = {"skip_predict_identifiers": [r"transformer_blocks\.\d+"], "cache_identifiers": [last]}
        settings["1:3, lite"] = {"cache_interval": 3, **common, **lite}
    return settings


def _layers(denoiser: nn.Module) -> list[str]:
    """Attentions, feed-forwards and residual blocks: what returns one tensor."""
    from diffusers.models.attention import FeedForward
    from diffusers.models.attention_processor import Attention
    from diffusers.models.resnet import ResnetBlock2D

    kinds = Attention, FeedForward, ResnetBlock2D
    return [name for name, module in denoiser.named_modules() if isinstance(module, kinds)]


def _mag_thresholds(subject: Subject) -> Mapping[str, dict[str, Any]]:
    return {f"{value:g}": {"threshold": value} for value in (0.06, 0.12, 0.24)}


_magnitudes: WeakKeyDictionary[nn.Module, dict[tuple, list[float]]] = WeakKeyDictionary()
"""By denoiser, of runs that were calibrated."""


def _calibrated(subject: Subject, options: dict[str, Any], now: Callable[[], float]) -> dict[str, Any]:
    rows = num_rows(subject)
    known = _magnitudes.setdefault(denoiser_of(subject.pipe), {})
    key = rows, type(subject.pipe.scheduler).__name__, repr(sorted(subject.call_kwargs.items()))
    if key not in known:
        known[key] = _calibrate(subject, rows)
    return {**options, "mag_ratios": known[key], "num_inference_steps": rows}


def _calibrate(subject: Subject, rows: int) -> list[float]:
    """The ratios that MagCache prints after a run of calibration, as its documentation has them copied."""
    from diffusers.hooks import MagCacheConfig, apply_mag_cache

    pipe, steps = subject.pipe, subject.steps
    everything = fora(pipe, steps, 1)
    plain, seeds = sampler_for(pipe, everything, CALIBRATION_SEEDS, steps, subject.call_kwargs, subject.conditions)
    printed = io.StringIO()
    with restored(pipe), silent():
        apply_mag_cache(denoiser_of(pipe), MagCacheConfig(calibrate=True, num_inference_steps=rows))
        if not any(diffusers_hooks(module) for module in denoiser_of(pipe).modules()):
            raise NotSupported(f"finds nothing to cache in {type(denoiser_of(pipe)).__name__}")
        with contextlib.redirect_stdout(printed):
            plain.full(0, seeds)
    return json.loads(printed.getvalue().strip().splitlines()[-1])
