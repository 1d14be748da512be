"""What the call of a pipeline takes, from its signature: conditions, guidance, and what users may give beside them."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stepmask.errors import StepMaskError
from stepmask.inspection.prompts import condition_arguments, default_prompts
from stepmask.inspection.registry import denoiser_of
from stepmask.inspection.sampler_loop import SamplerLoop


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


def random_conditions(
    pipe: Any, batch_size: int, generator: torch.Generator, given: Collection[str] = ()
) -> dict[str, Any]:
    """Call arguments that make `batch_size` images under random conditions: class labels, or prompts.

    Prompts are those of `default_prompts`, or the pipeline's own ``example_prompts``.

    Args:
        pipe: The pipeline.
        batch_size: Number of images.
        generator: Draws them.
        given: Names of arguments that the user gives.

    Raises:
        StepMaskError: The pipeline wants something else beside those.
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
        if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD and name not in ("self", *arguments, *given)
    ]
    if required or not (arguments or given):
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
