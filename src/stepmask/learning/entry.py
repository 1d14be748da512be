"""learn and learn_family: a mask, or a family of masks, for a frozen model, inside the user's own pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from stepmask.errors import StepMaskError, TargetError
from stepmask.family import MaskFamily, Member
from stepmask.inspection.loop import as_pipeline
from stepmask.inspection.registry import denoiser_of
from stepmask.learning._arguments import check_count, check_seed
from stepmask.learning.effort import Effort
from stepmask.learning.end_to_end.config import GlobalConfig
from stepmask.learning.end_to_end.search import Round
from stepmask.learning.end_to_end.select import Asked, Selecting
from stepmask.learning.end_to_end.start import Start
from stepmask.learning.noise import with_conditions
from stepmask.learning.per_step.config import LearnConfig
from stepmask.learning.per_step.learner import LearnProgress, learn_per_step
from stepmask.learning.progress import show_rounds
from stepmask.mask import StepMask
from stepmask_lab.rivals.dip_go.config import FullChainConfig
from stepmask_lab.rivals.dip_go.learner import Iteration, learn_full_chain
from stepmask_lab.rivals.ecad.config import GeneticConfig
from stepmask_lab.rivals.ecad.search import Generation, learn_genetic

Method = Literal["global", "per-step", "paper", "harmonica", "l2c", "ecad", "dip-go"]
Config = GlobalConfig | LearnConfig | GeneticConfig | FullChainConfig
Report = Round | LearnProgress | Generation | Iteration


class _Default(float):
    """A budget that nobody asked for."""


DEFAULT_TARGET = _Default(0.6)
"""Where nothing else is asked for."""

CONFIGS: dict[str, Callable[..., Config]] = {
    "global": GlobalConfig,
    "per-step": LearnConfig,
    "paper": LearnConfig.paper,
    "harmonica": LearnConfig.harmonica,
    "l2c": LearnConfig.l2c,
    "ecad": GeneticConfig,
    "dip-go": FullChainConfig,
}
"""What makes the knobs of each method."""

_METHOD_OF = {LearnConfig: "per-step", GeneticConfig: "ecad", FullChainConfig: "dip-go"}


@torch.inference_mode(False)  # what is made under a caller's inference mode could not be updated
def learn(
    pipe: Any,
    num_inference_steps: int = 50,
    target_macs: float | None = DEFAULT_TARGET,
    *,
    method: Method = "global",
    target_speedup: float | None = None,
    min_psnr: float | None = None,
    max_cache_bytes: int | None = None,
    scheduler: Any | None = None,
    seed: int = 0,
    call_kwargs: Mapping[str, Any] | None = None,
    conditions: str | Path | Sequence[str] | Sequence[int] | None = None,
    start: Start | None = None,
    resume: str | Path | None = None,
    callback: Callable[[Report], None] | None = None,
    progress: bool = True,
    config: Config | None = None,
    **options: Any,
) -> StepMask:
    """Learn which block computes, holds or forecasts at which step.

    Args:
        pipe: A diffusers pipeline, unconditional or class-conditional, or any other with `call_kwargs`; or a denoiser
            with its `scheduler`.
        num_inference_steps: Of the runs that the mask will be used for.
        target_macs: Kept share of the full run's MACs after elimination, 0.6 for 60%. The plan ends at or under it.
            None with ``method="paper"`` or ``"per-step"`` learns with a fixed ``lambda_sparse``.
        method: ``"global"`` selects end to end by the final image (`GlobalConfig`); ``"paper"`` is arXiv 2603.19939 as
            we read it, ``"per-step"`` the same frame with what was found to help, ``"harmonica"`` and ``"l2c"`` are
            HarmoniCa and Learning-to-Cache in that frame (`LearnConfig`); ``"ecad"`` is a genetic search
            (`GeneticConfig`), ``"dip-go"`` learns by gradients through the whole run (`FullChainConfig`). All but the
            first make binary masks.
        target_speedup: Instead of `target_macs`: the factor by which the denoiser's time shall fall, by latencies of
            the sites that are measured here and now.
        min_psnr: Instead of `target_macs`: the cheapest mask whose images have at least this mean PSNR in dB against
            the full run's, on held-back noise.
        max_cache_bytes: Most bytes that cached values may take per image, guidance included.
        scheduler: For a bare denoiser.
        seed: Of noise, conditions and draws. The same seed gives the same mask.
        call_kwargs: Arguments for the pipeline's call (guidance_scale, negative_prompt, ...).
        conditions: Prompts or class numbers to learn on, or a text file with one per line, gone through again and
            again; by default random classes, or 200 varied prompts.
        start: A mask, a family or several masks to start from, such as those learned before a fine-tune, for another
            sampler or by another method. On the validation noise the result is not worse than those that keep to the
            target; where one costs nearly as much, the walk down from the full run is left out.
        resume: File to keep the state in. Where it exists, learning goes on from it, to the same mask.
        callback: Called after each round; an exception in it stops learning.
        progress: Whether to show a progress bar.
        config: All other knobs, a configuration of the method; one of another kind than `GlobalConfig` chooses it.
        options: Single knobs, in place of `config`.

    Returns:
        The mask; its provenance says what was asked and what was reached, on how many held-back images, and what it
        took, resumed or not: ``denoiser_calls`` and ``seconds``.

    Raises:
        TargetError: No plan can cost so little, or none was found that has the PSNR.
        UnsupportedModelError: The model is offloaded, compiled, or not differentiable.
        StepMaskError: An option makes no sense, or `resume` belongs to another run.
    """
    if method not in get_args(Method):
        raise StepMaskError(f"method must be one of {', '.join(get_args(Method))}, got {method!r}")
    if method == "global":
        method = _METHOD_OF.get(type(config), method)
    config = config_for(method, config, options)
    check_count("num_inference_steps", num_inference_steps)
    check_seed(seed)
    pipe = as_pipeline(pipe, scheduler)
    call_kwargs = with_conditions(pipe, conditions, call_kwargs)
    other = {"target_speedup": target_speedup, "min_psnr": min_psnr, "max_cache_bytes": max_cache_bytes}
    only_global = {**other, "start": start}
    unused = [name for name, value in only_global.items() if value is not None]
    if unused and not isinstance(config, GlobalConfig):
        raise StepMaskError(f'{", ".join(unused)} needs method="global", got method={method!r}')
    if isinstance(target_macs, _Default):
        target_macs = None if target_speedup is not None or min_psnr is not None else float(target_macs)
    rest = seed, call_kwargs, resume, callback, progress, config
    if isinstance(config, LearnConfig):
        return learn_per_step(pipe, num_inference_steps, target_macs, *rest)
    if isinstance(config, FullChainConfig):
        return learn_full_chain(pipe, num_inference_steps, target_macs, *rest)
    if isinstance(config, GeneticConfig):
        return learn_genetic(pipe, num_inference_steps, (target_macs,), *rest).at(target_macs)
    asked = Asked(target_macs=target_macs, **other)
    effort = Effort()
    with effort.counting(denoiser_of(pipe)):
        mask = _select(pipe, num_inference_steps, asked, *rest, start, effort).mask()
    return _noted(mask, effort)


@torch.inference_mode(False)
def learn_family(
    pipe: Any,
    num_inference_steps: int = 50,
    targets: Iterable[float] = (0.7, 0.6, 0.5, 0.4, 0.3),
    *,
    method: Literal["global", "ecad"] = "global",
    max_cache_bytes: int | None = None,
    scheduler: Any | None = None,
    seed: int = 0,
    call_kwargs: Mapping[str, Any] | None = None,
    conditions: str | Path | Sequence[str] | Sequence[int] | None = None,
    start: Start | None = None,
    resume: str | Path | None = None,
    callback: Callable[[Round | Generation], None] | None = None,
    progress: bool = True,
    config: GlobalConfig | GeneticConfig | None = None,
    **options: Any,
) -> MaskFamily:
    """Learn masks for several budgets in one pass, each started from those before.

    Args:
        pipe: As for `learn`.
        num_inference_steps: As for `learn`.
        targets: Kept shares of the full run's MACs.
        method: As for `learn`; of the others only ``"ecad"`` makes families.
        max_cache_bytes: As for `learn`.
        scheduler: As for `learn`.
        seed: As for `learn`.
        call_kwargs: As for `learn`.
        conditions: As for `learn`.
        start: As for `learn`.
        resume: As for `learn`.
        callback: As for `learn`.
        progress: As for `learn`.
        config: As for `learn`.
        options: As for `learn`.

    Returns:
        The best mask at each target and those found between; ``family.at(0.45)`` picks one.
    """
    if method == "global":
        method = _METHOD_OF.get(type(config), method)
    if method not in ("global", "ecad"):
        raise StepMaskError(f"families are learned end to end, or by ECAD: give a GlobalConfig, got method={method!r}")
    config = config_for(method, config, options)
    check_count("num_inference_steps", num_inference_steps)
    check_seed(seed)
    pipe = as_pipeline(pipe, scheduler)
    call_kwargs = with_conditions(pipe, conditions, call_kwargs)
    if not isinstance(targets, Iterable) or isinstance(targets, str):
        raise TargetError(f"targets are several shares of the full run, such as (0.6, 0.4), got {targets!r}")
    asked = Asked(targets=tuple(targets), max_cache_bytes=max_cache_bytes)
    rest = seed, call_kwargs, resume, callback, progress, config
    if isinstance(config, GeneticConfig):
        unused = [n for n, v in (("max_cache_bytes", max_cache_bytes), ("start", start)) if v is not None]
        if unused:
            raise StepMaskError(f'{", ".join(unused)} needs method="global", got method="ecad"')
        return learn_genetic(pipe, num_inference_steps, asked.shares(), *rest)
    effort = Effort()
    with effort.counting(denoiser_of(pipe)):
        found = _select(pipe, num_inference_steps, asked, *rest, start, effort).family()
    return MaskFamily(tuple(Member(one.macs, one.psnr, _noted(one.mask, effort)) for one in found))


def _select(
    pipe: Any,
    num_inference_steps: int,
    asked: Asked,
    seed: int,
    call_kwargs: Mapping[str, Any] | None,
    resume: str | Path | None,
    callback: Callable[[Round], None] | None,
    progress: bool,
    config: GlobalConfig,
    start: Start | None,
    effort: Effort,
) -> Selecting:
    """Run a search to its end."""
    path = None if resume is None else Path(resume)
    selecting = Selecting(pipe, num_inference_steps, asked, seed, call_kwargs, config, path, effort, start)
    with show_rounds(progress, selecting.num_rounds) as show:

        def report(done: Round) -> None:
            show(done)
            if callback is not None:
                callback(done)

        selecting.run(report)
    return selecting


def _noted(mask: StepMask, effort: Effort) -> StepMask:
    """The mask with what it took."""
    return replace(mask, provenance={**mask.provenance, **effort.facts()})


def config_for(method: str, config: Any, options: Mapping[str, Any]) -> Config:
    """The knobs of a method."""
    make = CONFIGS[method]
    kind = getattr(make, "__self__", make)
    if config is not None:
        if options:
            raise StepMaskError(f"give config or single options, not both ({', '.join(options)})")
        if not isinstance(config, kind):
            raise StepMaskError(f"method={method!r} takes a {kind.__name__}, got {type(config).__name__}")
        return config
    strangers = set(options) - set(kind.names())
    if strangers:
        raise StepMaskError(f"method={method!r} has no option {min(strangers)!r}; there are {', '.join(kind.names())}")
    return make(**options)
