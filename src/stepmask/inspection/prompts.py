"""Conditions as lists: the prompts that learning and measuring draw from, and the user's own, from a list or a file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from PIL.Image import Image

from stepmask.errors import StepMaskError
from stepmask.files import read_bytes

_OF_THE_RUN = (
    "sigmas", "timesteps", "ip_adapter", "control_guidance", "control_mode", "controlnet_conditioning",
    "controlnet_frame", "controls", "conditioning_frames", "prompt_cu_seqlens", "conditioning_scale", "skip_", "height",
    "width", "original_size", "target_size", "crops_", "negative_original_size", "negative_target_size",
    "negative_crops_", "negative_prompt_cu_seqlens", "callback_", "complex_human_instruction", "pag_",
    "history_sizes", "pyramid_",
)  # fmt: skip
"""How the names of lists and tuples begin that belong to a run as a whole."""


@cache
def default_prompts() -> tuple[str, ...]:
    """Return the two hundred varied prompts that come with the package."""
    text = resources.files("stepmask.inspection").joinpath("prompts.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def read_conditions(path: str | Path) -> list[str] | list[int]:
    """One prompt or class number per line of a text file; empty lines are passed over.

    Raises:
        StepMaskError: There is no such file, or nothing in it.
    """
    try:
        text = read_bytes(path, "conditions").decode()
    except UnicodeDecodeError as error:
        raise StepMaskError(f"cannot read conditions {path}: {error}") from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise StepMaskError(f"{path} holds no conditions: write one prompt, or one class number, per line")
    return [int(line) for line in lines] if all(line.isdecimal() for line in lines) else lines


def is_per_image(name: str, value: Any) -> bool:
    """Whether an argument of a pipeline's call may hold one value per image: a list or tensor, but not of the run.

    A list of control images holds one for each ControlNet, and a list of pictures that is called a video its frames.
    """
    tensor = getattr(value, "ndim", 0) > 0
    listed = isinstance(value, list | tuple) and not name.startswith("control_")
    frames = (
        listed
        and name.endswith("video")
        and all(isinstance(one, Image) or getattr(one, "ndim", 0) == 3 for one in value)
    )
    return (tensor or listed) and not frames and not name.startswith(_OF_THE_RUN)


def one_for_each(arguments: Mapping[str, Any], count: int, makes_videos: bool) -> dict[str, Any]:
    """Arguments of a call for so many images, where what a user says once holds for each.

    Pipelines take as many images as there are prompts. A single picture is left to them, since a list of pictures may
    be several references for one image; only that which begins or ends a video is said once for each.
    """
    each = {name for name, value in arguments.items() if isinstance(value, str) and re.fullmatch(r"prompt(_\d)?", name)}
    if makes_videos:
        each |= {name for name in ("image", "last_image") if isinstance(arguments.get(name), Image)}
    if count == 1:
        return dict(arguments)
    return {name: [value] * count if name in each else value for name, value in arguments.items()}


def without_clashes(drawn: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Drawn conditions without those for which the user gave something else: prompts beside their embeddings."""
    embeds = any(name.endswith("prompt_embeds") for name in given)
    return {name: value for name, value in drawn.items() if name not in given and not (embeds and name == "prompt")}


def condition_arguments(
    parameters: Sequence[str], conditions: str | Path | Sequence[Any] | None, name: str
) -> dict[str, Any]:
    """Conditions as arguments of a pipeline's call: prompts as ``prompt``, numbers as ``class_labels``.

    `parameters` are those of the call; errors name the pipeline by `name`.

    Raises:
        StepMaskError: They are neither, or not what this pipeline takes.
    """
    if conditions is None:
        return {}
    values = read_conditions(conditions) if isinstance(conditions, str | Path) else list(conditions)
    kinds = {type(value) for value in values}
    if kinds not in ({str}, {int}):
        got = ", ".join(sorted(kind.__name__ for kind in kinds)) or "none"
        raise StepMaskError(f"conditions are prompts, or class numbers, or a file of either; got {got}")
    argument = "prompt" if kinds == {str} else "class_labels"
    if argument not in parameters:
        other = next((other for other in ("prompt", "class_labels") if other in parameters), None)
        takes = f"{other}, not {argument}" if other else "no conditions"
        if other == "class_labels":
            strange = next((value for value in values if not value.isdecimal()), values[0])
            takes += f"; {strange!r} is no class number"
        raise StepMaskError(f"the call of {name} takes {takes}")
    return {argument: values}
