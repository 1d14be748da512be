"""Denoisers that several processes run in common: context parallelism, tensor parallelism, sharded weights.

All of them have to run the same cells, or they wait for each other for ever.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from stepmask.errors import MaskMismatchError
from stepmask.inspection.placement import device_of
from stepmask.inspection.structure import PARALLEL
from stepmask.liveness import Plan


def mesh_of(denoiser: nn.Module) -> Any:
    """The mesh of the processes that run each call in common, by diffusers or by sharded weights; None of one alone."""
    config = getattr(denoiser, PARALLEL, None)
    in_context = getattr(config, "context_parallel_config", None)
    if in_context is not None:
        return in_context._flattened_mesh
    if not (dist.is_available() and dist.is_initialized()):
        return None
    meshes = (getattr(weight, "device_mesh", None) for weight in denoiser.parameters())
    return next((mesh for mesh in meshes if mesh is not None), None)


def check_same_plan(denoiser: nn.Module, plan: Plan) -> None:
    """See that all processes that run a denoiser in common run the same plan.

    Raises:
        MaskMismatchError: They do not; in all of them.
    """
    mesh = mesh_of(denoiser)
    if mesh is None:
        return
    number = int.from_bytes(_digest(plan)[:7], "big")
    numbers = torch.tensor([number, -number], dtype=torch.int64, device=device_of(denoiser))
    for dimension in range(mesh.ndim):
        dist.all_reduce(numbers, dist.ReduceOp.MAX, mesh.get_group(dimension))
    most, least = numbers.tolist()
    if most != -least:
        raise MaskMismatchError(
            f"the processes that run the {type(denoiser).__name__} in common have different masks applied, and would "
            "wait for each other for ever: load the same file in each of them, and apply it with the same options"
        )


def _digest(plan: Plan) -> bytes:
    found = hashlib.sha256(repr(plan.sites).encode())
    for array in _arrays(plan):
        found.update(array.tobytes())
    return found.digest()


def _arrays(plan: Plan) -> Iterable[Any]:
    yield from (plan.states, plan.keep)
    yield from ([] if plan.gains is None else [plan.gains])
    for by_site in (plan.channel_gains, plan.weights):
        yield from (by_site[site] for site in sorted(by_site))
