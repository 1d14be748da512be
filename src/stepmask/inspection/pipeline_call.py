"""PipelineCall: what the call of a pipeline takes, read from its signature once."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stepmask.errors import StepMaskError
from stepmask.inspection.placement import device_of
from stepmask.inspection.prompts import condition_arguments, default_prompts
from stepmask.inspection.registry import denoiser_of
from stepmask.inspection.sampler_loop import SamplerLoop
from stepmask.words import did_you_mean

OURS = {"num_inference_steps", "generator"}
"""Arguments of a pipeline's call that are not for users to give beside a number of steps and seeds."""


class PipelineCall:
    """What the call of a pipeline, of a `SamplerLoop`, or of a bare denoiser takes.

    Raises:
        StepMaskError: It is none of these.
    """

    def __init__(self, pipe: Any) -> None:
        denoiser, loop = denoiser_of(pipe), isinstance(pipe, SamplerLoop)
        config = getattr(denoiser, "config", None)
        self.name = type(pipe).__name__
        self.parameters = _parameters_of(pipe)
        """Parameters of the call; of a modular pipeline the inputs of its blocks."""
        self.kwargs, self._kwargs_of = self.parameters, f"the call of {self.name}"
        """What users may give beside a number of steps and seeds; in a plain loop what the denoiser's forward takes."""
        if loop:
            self.kwargs = inspect.signature(type(denoiser).forward).parameters
            self._kwargs_of = f"{type(denoiser).__name__}, sampled in a plain loop,"
        self.num_classes = _num_classes(pipe, config)
        """Number of classes of a class-conditional pipeline or denoiser; None where there are none."""
        self.prompts: Sequence[str] | None = None
        """Prompts to draw from where none are given; None where the pipeline reads no text."""
        if getattr(pipe, "tokenizer", None) is not None:
            self.prompts = getattr(pipe, "example_prompts", None) or default_prompts()
        self.device = device_of(denoiser) if loop else None
        """Where labels of a plain loop have to be; None for pipelines, which take lists."""
        embedded = getattr(config, "guidance_embeds", False) or getattr(config, "time_cond_proj_dim", None) is not None
        self.embeds_guidance = bool(embedded)
        """Whether the guidance scale is an input of the denoiser, and takes no second forward."""
        self.is_denoiser = loop or isinstance(pipe, nn.Module)
        """Whether it is a bare denoiser, or a plain loop over one, which knows no guidance."""

    def takes(self, name: str) -> bool:
        """Whether the call has a parameter of this name."""
        return name in self.parameters

    def steps(self, num_inference_steps: int) -> dict[str, int]:
        """The argument that says the number of steps; some runs are told their steps otherwise, or by their class."""
        name, takes_any = "num_inference_steps", any(p.kind is p.VAR_KEYWORD for p in self.parameters.values())
        return {name: num_inference_steps} if takes_any or self.takes(name) else {}

    def default(self, name: str) -> Any:
        """Default of a parameter; None where it has none, or is not there."""
        parameter = self.parameters.get(name)
        return None if parameter is None or parameter.default is parameter.empty else parameter.default

    def guidance(self, call_kwargs: Mapping[str, Any] | None) -> float | None:
        """The strength of guidance that a call with these arguments has; None where it takes no number for it."""
        scale = (call_kwargs or {}).get("guidance_scale", self.default("guidance_scale"))
        return scale if self.takes("guidance_scale") and isinstance(scale, int | float) else None

    def check(self, call_kwargs: Mapping[str, Any] | None) -> None:
        """Refuse arguments that the call does not take.

        Raises:
            StepMaskError: Names them, and what is taken.
        """
        given = set(call_kwargs or {})
        ours, strangers = sorted(OURS & given), sorted(given - set(self.kwargs))
        if ours:
            raise StepMaskError(f"call_kwargs must not hold {', '.join(ours)}: stepmask says that to the call itself")
        if strangers and not any(p.kind is p.VAR_KEYWORD for p in self.kwargs.values()):
            taken = [name for name, p in self.kwargs.items() if name != "self" and p.kind is not p.VAR_POSITIONAL]
            raise StepMaskError(
                f"{self._kwargs_of} takes no {', '.join(strangers)}: leave it out; it takes {', '.join(taken)}"
                f"{did_you_mean(strangers[0], taken)}"
            )

    def listed(self, conditions: str | Path | Sequence[Any] | None) -> dict[str, Any]:
        """Conditions that a user lists, or a file of them, as arguments of the call.

        Raises:
            StepMaskError: The pipeline takes no such conditions, or has no such classes.
        """
        listed = condition_arguments(list(self.parameters), conditions, self.name)
        count, labels = self.num_classes, listed.get("class_labels", ())
        strangers = [label for label in labels if count and not 0 <= label < count]
        if strangers:
            raise StepMaskError(f"there is no class {strangers[0]}: {self.name} has classes 0 to {count - 1}")
        return listed

    def drawn(self, batch_size: int, generator: torch.Generator, given: Collection[str] = ()) -> dict[str, Any]:
        """Call arguments that make `batch_size` images under random conditions: class labels, or prompts.

        `given` are names of arguments that the user gives.

        Raises:
            StepMaskError: The pipeline wants something else beside those.
        """
        classes = self.num_classes if self.device is not None or self.takes("class_labels") else None
        arguments: dict[str, Any] = {"batch_size": batch_size} if self.takes("batch_size") else {}
        if classes:
            labels = torch.randint(0, classes, (batch_size,), generator=generator)
            arguments["class_labels"] = labels.tolist() if self.device is None else labels.to(self.device)
        elif self.takes("prompt") and self.prompts is not None:
            numbers = torch.randint(0, len(self.prompts), (batch_size,), generator=generator)
            arguments["prompt"] = [self.prompts[number] for number in numbers]
        required = [
            name
            for name, p in self.parameters.items()
            if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD and name not in ("self", *arguments, *given)
        ]
        if required or not (arguments or given):
            raise StepMaskError(
                f"{self.name} needs conditions that stepmask cannot invent ({', '.join(required) or 'a prompt'})"
                ": give call_kwargs=dict(...) with everything its call needs"
            )
        return arguments

    def forwards_per_image(self, call_kwargs: Mapping[str, Any] | None = None) -> int:
        """Denoiser inputs per image and step, as the arguments say it: 2 with classifier-free guidance, else 1.

        A scale that is an input of the model (Flux, consistency models) takes no second forward; true guidance of such
        a pipeline, by ``true_cfg_scale``, needs a negative prompt too. A third forward is for perturbed attention
        (``pag_scale``), or for the image beside the prompt (``image_guidance_scale``).
        """
        if self.is_denoiser:
            return 1
        values = {name: p.default for name, p in self.parameters.items()} | dict(call_kwargs or {})
        if self.takes("true_cfg_scale"):
            negative = any(values.get(name) is not None for name in ("negative_prompt", "negative_prompt_embeds"))
            scale = values["true_cfg_scale"] if negative else None
        else:
            scale = None if self.embeds_guidance else values.get("guidance_scale")
        guided, image_scale = scale is not None and scale > 1, values.get("image_guidance_scale")
        if image_scale is not None:
            return 3 if guided and image_scale >= 1 else 1
        return 1 + guided + ((values.get("pag_scale") or 0) > 0)


def is_modular(pipe: Any) -> bool:
    """Whether it is one of diffusers' modular pipelines."""
    return any(class_.__name__ == "ModularPipeline" for class_ in type(pipe).__mro__)


def _parameters_of(pipe: Any) -> Mapping[str, inspect.Parameter]:
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


def _num_classes(pipe: Any, config: Any) -> int | None:
    labels = getattr(pipe, "labels", None)  # of a DiTPipeline: numbers by name, several names for some
    if isinstance(labels, Mapping) and labels:
        return 1 + max(labels.values())
    embedder = getattr(pipe, "class_embedder", None)  # of a ClassConditionalLDMPipeline without names
    if embedder is not None:
        return getattr(getattr(embedder, "config", None), "num_classes", None)
    return getattr(config, "num_embeds_ada_norm", None) or getattr(config, "num_class_embeds", None)
