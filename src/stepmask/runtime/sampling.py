"""Uniform ways to call what samples: any diffusers pipeline, or a bare denoiser with a scheduler.

Knows what a pipeline's call wants (labels, batch size, guidance) from its signature; knows no masks.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stepmask._timesteps import start_run
from stepmask.architectures import Architecture, architecture_of, denoiser_of
from stepmask.architectures._skeleton import meta_skeleton
from stepmask.errors import StepMaskError
from stepmask.runtime.gate import gated
from stepmask.runtime.prompts import condition_arguments, default_prompts


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

        Args:
            batch_size: Number of images.
            num_inference_steps: For ``scheduler.set_timesteps``.
            generator: Source of the noise, one for all or one per image.
            condition: Passed on to the denoiser (``class_labels=...``).
        """
        from diffusers.utils.torch_utils import randn_tensor

        parameter = next(self.denoiser.parameters())
        family = architecture_of(self.denoiser)
        name = family.step_inputs[0]
        shape, timestep_dtype = self._inputs_of(family)
        start_run(self.scheduler, num_inference_steps)
        shape = (batch_size, *shape)
        sample = randn_tensor(shape, generator=_list(generator), device=parameter.device, dtype=parameter.dtype)
        sample = sample * getattr(self.scheduler, "init_noise_sigma", 1.0)
        takes_generator = "generator" in inspect.signature(self.scheduler.step).parameters
        noise = {"generator": _list(generator)} if takes_generator else {}
        for timestep in self.scheduler.timesteps:
            scaled = sample
            if hasattr(self.scheduler, "scale_model_input"):
                scaled = self.scheduler.scale_model_input(sample, timestep)
            steps = timestep.expand(batch_size).to(parameter.device)
            if timestep_dtype.is_floating_point:
                steps = steps.to(timestep_dtype)
            inputs = {name: scaled.to(parameter.dtype), family.timestep_name: steps, **condition}
            output = family.run(self.denoiser, inputs)
            sample = self.scheduler.step(output, timestep, sample, return_dict=False, **noise)[0]
        return SimpleNamespace(images=sample)

    def _inputs_of(self, family: Architecture) -> tuple[tuple[int, ...], torch.dtype]:
        """Shape of one noisy sample and type of the timestep, as the family's example inputs have them."""
        if self._like is None:
            inputs = family.example_inputs(meta_skeleton(self.denoiser))  # random numbers are left as they are
            self._like = tuple(inputs[family.step_inputs[0]].shape[1:]), inputs[family.timestep_name].dtype
        return self._like


def _list(generator: Any) -> Any:
    return list(generator) if isinstance(generator, Sequence) else generator


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


def parameters_of(pipe: Any) -> Mapping[str, inspect.Parameter]:
    """Parameters of a pipeline's call; of a modular one the inputs of its blocks."""
    if not is_modular(pipe):
        return inspect.signature(type(pipe).__call__).parameters
    return {
        given.name: inspect.Parameter(
            given.name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=inspect.Parameter.empty if given.required else given.default,
        )
        for given in pipe._blocks.inputs  # `blocks` is a copy
        if given.name is not None
    }


def is_modular(pipe: Any) -> bool:
    """Whether it is one of diffusers' modular pipelines."""
    return any(class_.__name__ == "ModularPipeline" for class_ in type(pipe).__mro__)


OURS = {"num_inference_steps", "generator"}
"""Arguments of a pipeline's call that are not for users to give beside a number of steps and seeds."""


def check_call_kwargs(pipe: Any, call_kwargs: Mapping[str, Any] | None) -> None:
    """Refuse arguments that a pipeline's call, or the denoiser of a `SamplerLoop`, does not take.

    Raises:
        StepMaskError: Names them, and what is taken.
    """
    ours = sorted(OURS & set(call_kwargs or {}))
    if ours:
        raise StepMaskError(f"call_kwargs must not hold {', '.join(ours)}: stepmask says that to the call itself")
    parameters, owner = parameters_of(pipe), f"the call of {type(pipe).__name__}"
    if isinstance(pipe, SamplerLoop):
        parameters = inspect.signature(type(pipe.denoiser).forward).parameters
        owner = f"{type(pipe.denoiser).__name__}, sampled in a plain loop,"
    strangers = sorted(set(call_kwargs or {}) - set(parameters))
    if strangers and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        taken = [name for name, p in parameters.items() if name != "self" and p.kind is not p.VAR_POSITIONAL]
        raise StepMaskError(f"{owner} takes no {', '.join(strangers)}: leave it out; it takes {', '.join(taken)}")


def num_classes(pipe: Any) -> int | None:
    """Number of classes of a class-conditional pipeline or denoiser; None where there are none."""
    labels = getattr(pipe, "labels", None)  # of a DiTPipeline: numbers by name, several names for some
    if labels:
        return 1 + max(labels.values())
    embedder = getattr(pipe, "class_embedder", None)  # of a ClassConditionalLDMPipeline without names
    if embedder is not None:
        return embedder.config.num_classes
    config = getattr(denoiser_of(pipe), "config", None)
    return getattr(config, "num_embeds_ada_norm", None) or getattr(config, "num_class_embeds", None)


def listed_conditions(pipe: Any, conditions: str | Path | Sequence[Any] | None) -> dict[str, Any]:
    """Conditions that a user lists, or a file of them, as arguments of the pipeline's call.

    Raises:
        StepMaskError: The pipeline takes no such conditions, or has no such classes.
    """
    listed = condition_arguments(list(parameters_of(pipe)), conditions, type(pipe).__name__)
    count, labels = num_classes(pipe), listed.get("class_labels", ())
    strangers = [label for label in labels if count and not 0 <= label < count]
    if strangers:
        raise StepMaskError(f"there is no class {strangers[0]}: {type(pipe).__name__} has classes 0 to {count - 1}")
    return listed


def random_conditions(pipe: Any, batch_size: int, generator: torch.Generator) -> dict[str, Any]:
    """Call arguments that make `batch_size` images under random conditions: class labels, or prompts.

    Prompts are those of `default_prompts`, or the pipeline's own ``example_prompts``.

    Raises:
        StepMaskError: The pipeline wants something else.
    """
    parameters = parameters_of(pipe)
    loop = isinstance(pipe, SamplerLoop)
    classes = num_classes(pipe) if loop or "class_labels" in parameters else None
    arguments: dict[str, Any] = {"batch_size": batch_size} if "batch_size" in parameters else {}
    if classes:
        labels = torch.randint(0, classes, (batch_size,), generator=generator)
        arguments["class_labels"] = labels.to(next(denoiser_of(pipe).parameters()).device) if loop else labels.tolist()
    elif "prompt" in parameters and getattr(pipe, "tokenizer", None) is not None:
        prompts = getattr(pipe, "example_prompts", None) or default_prompts()
        numbers = torch.randint(0, len(prompts), (batch_size,), generator=generator)
        arguments["prompt"] = [prompts[number] for number in numbers]
    required = [
        name
        for name, p in parameters.items()
        if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD and name not in ("self", *arguments)
    ]
    if required or not arguments:
        raise StepMaskError(
            f"{type(pipe).__name__} needs conditions that stepmask cannot invent ({', '.join(required) or 'a prompt'})"
            ": give call_kwargs=dict(...) with everything its call needs"
        )
    return arguments


def forwards_per_image(pipe: Any, call_kwargs: Mapping[str, Any] | None = None) -> int:
    """Denoiser inputs per image and step, as the arguments of a call say it: 2 with classifier-free guidance, else 1.

    A scale that is an input of the model (Flux, consistency models) takes no second forward; true guidance of such a
    pipeline, by ``true_cfg_scale``, needs a negative prompt too. A third one is for perturbed attention
    (``pag_scale``), or for the image beside the prompt (``image_guidance_scale``).
    """
    if isinstance(pipe, nn.Module | SamplerLoop):
        return 1
    parameters = parameters_of(pipe)
    values = {name: p.default for name, p in parameters.items()} | dict(call_kwargs or {})
    if "true_cfg_scale" in parameters:
        negative = any(values.get(name) is not None for name in ("negative_prompt", "negative_prompt_embeds"))
        scale = values["true_cfg_scale"] if negative else None
    else:
        scale = None if _embeds_guidance(denoiser_of(pipe)) else values.get("guidance_scale")
    guided, image_scale = scale is not None and scale > 1, values.get("image_guidance_scale")
    if image_scale is not None:
        return 3 if guided and image_scale >= 1 else 1
    return 1 + guided + ((values.get("pag_scale") or 0) > 0)


def _embeds_guidance(denoiser: nn.Module) -> bool:
    config = getattr(denoiser, "config", None)
    return bool(getattr(config, "guidance_embeds", False)) or getattr(config, "time_cond_proj_dim", None) is not None


@contextlib.contextmanager
def same_processors(denoiser: nn.Module) -> Iterator[None]:
    """Put a denoiser's attention processors back, where a pipeline sets others for a run: for perturbed attention."""
    before = dict(getattr(denoiser, "attn_processors", {}))
    try:
        yield
    finally:
        if any(before[name] is not now for name, now in getattr(denoiser, "attn_processors", {}).items()):
            denoiser.set_attn_processor(before)


def seeded(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator per image, so that an image does not depend on the batch it is made in."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@contextlib.contextmanager
def quiet(pipe: Any) -> Iterator[None]:
    """Hide a pipeline's own progress bar for a while, and what modular ones log of an exception that they pass on."""
    bars = list(_with_progress_bars(pipe))
    before = [vars(bar).get("_progress_bar_config") for bar in bars]
    log = logging.getLogger("diffusers.modular_pipelines")
    level = log.level
    log.setLevel(logging.CRITICAL)
    for bar, config in zip(bars, before, strict=True):
        bar.set_progress_bar_config(**{**(config or {}), "disable": True})
    try:
        yield
    finally:
        log.setLevel(level)
        for bar, config in zip(bars, before, strict=True):
            if config is None:
                vars(bar).pop("_progress_bar_config", None)
            else:
                bar._progress_bar_config = config


def _with_progress_bars(part: Any) -> Iterator[Any]:
    """A pipeline; of a modular one the blocks that have one, at any depth."""
    part = part._blocks if is_modular(part) else part
    if hasattr(part, "set_progress_bar_config"):
        yield part
    for block in getattr(part, "sub_blocks", {}).values():
        yield from _with_progress_bars(block)


@contextlib.contextmanager
def unchecked(pipe: Any) -> Iterator[None]:
    """Take the safety checker out for a while: it blackens images, which would count as errors, or as none.

    For images that are measured; those that are shown to a user keep it.
    """
    checker = getattr(pipe, "safety_checker", None)
    if checker is None:
        yield
        return
    pipe.safety_checker = None
    try:
        yield
    finally:
        pipe.safety_checker = checker


@contextlib.contextmanager
def _global_noise(pipe: Any, seed: int) -> Iterator[None]:
    """Seed torch's own generators for a while, and put them back: not every pipeline hands its generator on."""
    device = next(denoiser_of(pipe).parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed) if device.type == "cuda" else torch.default_generator.manual_seed(seed)
        yield


@contextlib.contextmanager
def without_decoder(pipe: Any, keep_all: bool = False) -> Iterator[list[Tensor]]:
    """Let the decoder return its input: pipelines decode even where nobody needs the picture.

    Yields a list that holds the input of the latest call, or of all calls; empty for pipelines without a decoder.
    """
    latents: list[Tensor] = []
    vae = getattr(pipe, "vae", None)

    def keep(z: Tensor) -> Tensor:
        latents[:] = [*latents, z] if keep_all else [z]
        return z.detach()  # what follows only makes pictures, some with numpy

    if vae is None:
        yield latents
    elif type(vae).__name__ == "AutoencoderKL":

        def network(compute: Any, args: tuple, kwargs: dict) -> Tensor:
            return keep(args[0] if args else kwargs["sample"])

        with _in_one_piece(vae), gated([("vae.decoder", vae.decoder, network)]):
            yield latents
    else:  # others run their decoder once for every few frames

        def decode(z: Tensor, *args: Any, return_dict: bool = True, **kwargs: Any) -> Any:
            return SimpleNamespace(sample=keep(z)) if return_dict else (keep(z),)

        own = vars(vae).get("decode")  # a compiled one, for example
        vae.decode = decode
        try:
            yield latents
        finally:
            del vae.decode
            if own is not None:
                vae.decode = own


@contextlib.contextmanager
def _in_one_piece(vae: Any) -> Iterator[None]:
    """No slices of a batch, no tiles of an image."""
    before = {name: getattr(vae, name) for name in ("use_slicing", "use_tiling") if hasattr(vae, name)}
    try:
        for name in before:
            setattr(vae, name, False)
        yield
    finally:
        for name, value in before.items():
            setattr(vae, name, value)


RESULTS = ("images", "frames", "videos", "audios")
"""Where pipelines put what they make."""


def sample(pipe: Any, call_kwargs: Mapping[str, Any], seeds: Sequence[int], num_inference_steps: int) -> Tensor:
    """Run a pipeline once, quietly, with one seed per image.

    Returns:
        Images (N, C, H, W), or videos (N, frames, C, H, W), float32 on the CPU, in [0, 1] for pipelines; latents as
        they are where `call_kwargs` has ``output_type="latent"``.
    """
    arguments = dict(call_kwargs)
    if "output_type" in parameters_of(pipe) and arguments.get("output_type") != "latent":
        arguments["output_type"] = "pt"
    with quiet(pipe), _global_noise(pipe, seeds[0]):
        output = pipe(generator=seeded(seeds), num_inference_steps=num_inference_steps, **arguments)
    made = next((getattr(output, name) for name in RESULTS if hasattr(output, name)), None)
    if isinstance(made, np.ndarray):  # pipelines that know no "pt": (N, ..., C)
        made = torch.from_numpy(made).movedim(-1, -3)
    if not isinstance(made, Tensor):
        raise StepMaskError(f"{type(pipe).__name__} made {type(made).__name__} where a tensor of samples was expected")
    return made.float().cpu()


class _Called(Exception):
    """A run has reached its denoiser."""


def _until_first_call(pipe: Any, run: Callable[[], Any]) -> None:
    """Run a pipeline until it calls its denoiser."""

    def stop(module: nn.Module, args: tuple) -> None:
        raise _Called

    denoiser = denoiser_of(pipe)
    hook = denoiser.register_forward_pre_hook(stop, prepend=True)
    try:
        with same_processors(denoiser):
            run()
    except _Called:
        pass
    finally:
        hook.remove()


def timesteps_of_run(
    pipe: Any, call_kwargs: Mapping[str, Any], seeds: Sequence[int], num_inference_steps: int
) -> list[float]:
    """Timesteps of a run as the pipeline sets them.

    Pipelines for flow matching bring sigmas of their own, and shifts that depend on the resolution: they are called,
    and stopped where they first call the denoiser. For others the scheduler alone says it.
    """
    config = getattr(pipe.scheduler, "config", {})
    flows = "FlowMatch" in type(pipe.scheduler).__name__ or config.get("use_flow_sigmas")
    if flows or config.get("use_dynamic_shifting"):
        _until_first_call(pipe, lambda: sample(pipe, call_kwargs, seeds, num_inference_steps))
    else:
        start_run(pipe.scheduler, num_inference_steps)
    return [float(timestep) for timestep in pipe.scheduler.timesteps]
