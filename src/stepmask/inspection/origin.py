"""Where a pipeline comes from, as far as that is no secret, and what its call is told beside steps and seeds."""

from __future__ import annotations

import inspect
from typing import Any

from stepmask.files import is_folder
from stepmask.hub import is_repo_id

CONDITIONS = ("prompt", "class_labels")
"""What calls of pipelines take as conditions, the first that is there."""


def origin_of(pipe: Any) -> dict[str, str]:
    """What a card says of a pipeline; what is not known is left out.

    Returns:
        ``pipeline``, the name of a class of diffusers, with ``condition``, one of `CONDITIONS`; and ``base_model``, the
        id of a repository on the hub, never a folder of this machine.
    """
    found, name = {}, getattr(getattr(pipe, "config", None), "_name_or_path", None)
    if type(pipe).__module__.startswith("diffusers."):
        found["pipeline"] = type(pipe).__name__
        takes = inspect.signature(type(pipe).__call__).parameters
        condition = next((one for one in CONDITIONS if one in takes), None)
        found |= {"condition": condition} if condition else {}
    if isinstance(name, str) and is_repo_id(name) and not is_folder(name):
        found["base_model"] = name
    return found
