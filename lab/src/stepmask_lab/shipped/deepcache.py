"""The package DeepCache (0.1.1): its `DeepCacheSDHelper` on any U-Net pipeline.

At every `cache_interval`-th step the U-Net computes in full; between, it computes the layers above branch
`cache_branch_id` alone, where 0 is the outermost, and takes the rest from the latest full step. Settings: intervals 2,
3 and 5 at branch 0, which its README uses, and branch 1 at 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from stepmask.inspection.registry import denoiser_of
from stepmask_lab.method import Subject, Unmasked
from stepmask_lab.shipped._enabling import Rival


def methods() -> list[Unmasked]:
    """The one method of the package."""
    return [Rival("DeepCache package", "DeepCache", _settings, _enable).method()]


def _settings(subject: Subject) -> Mapping[str, dict[str, int]]:
    settings = {f"1:{interval}": {"cache_interval": interval, "cache_branch_id": 0} for interval in (2, 3, 5)}
    return settings | {"1:3, branch 1": {"cache_interval": 3, "cache_branch_id": 1}}


@contextmanager
def _enable(subject: Subject, options: dict[str, int]) -> Iterator[None]:
    from DeepCache import DeepCacheSDHelper

    helper = DeepCacheSDHelper(pipe=subject.pipe)
    helper.set_params(**options)
    helper.enable()
    hook = denoiser_of(subject.pipe).register_forward_pre_hook(_one_timestep)
    try:
        yield
    finally:
        hook.remove()
        helper.disable()


def _one_timestep(denoiser: Any, args: tuple) -> tuple:
    """One timestep for the whole batch, as Stable Diffusion passes it: the package reads it as a number."""
    if len(args) > 1 and getattr(args[1], "ndim", 0):
        return (args[0], args[1][0], *args[2:])
    return args
