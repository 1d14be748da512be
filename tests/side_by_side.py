"""What processes do that run one denoiser in common, or one each: started by `several.Started`."""

from collections.abc import Callable
from typing import Any

import diffusers
import torch
import torch.distributed as dist
from cases import BY_NAME, Case
from diffusers.hooks import tensor_parallel
from runs import all_ones, random_actions
from torch import Tensor

import stepmask
from stepmask import StepMask, StepMaskError, describe, measure_cost
from tiny import with_channel_gains

WAYS: dict[str, Callable[[], Any]] = {
    "ulysses": lambda: diffusers.ContextParallelConfig(ulysses_degree=2),
    "ulysses, uneven": lambda: diffusers.ContextParallelConfig(ulysses_degree=2, ulysses_anything=True),
    "ring": lambda: diffusers.ContextParallelConfig(ring_degree=2),
    "tensor": lambda: diffusers.TensorParallelConfig(tp_degree=2),
}


def spread(pipe: Any, way: str) -> None:
    """Let both processes run each call in common."""
    pipe.transformer.enable_parallelism(config=WAYS[way]())


def begin() -> None:
    """Meet the other; diffusers counts accelerators, and spreads weights over some kinds of them alone."""
    torch.accelerator.device_count = lambda: 1
    tensor_parallel._SUPPORTED_TP_DEVICES = ("cpu",)
    dist.init_process_group("gloo")


def masked(pipe: Any, case: Case, mask: StepMask, seed: int = 0) -> Tensor:
    with stepmask.apply(pipe, mask):
        return case.run(pipe, seed=seed)


def together(*runs: tuple[str, str, StepMask | None]) -> list[dict[str, Any]]:
    """Of each pipeline and way to spread it, images of one process and of two, in full and under a mask."""
    begin()
    return [_together(*run) for run in runs]


def _together(name: str, way: str, mask: StepMask | None = None) -> dict[str, Any]:
    case = BY_NAME[name]
    pipe = case.build()
    alone = case.run(pipe)
    if mask is None:
        random = random_actions(pipe, 3, forecasts=0.5)
        mask = with_channel_gains(random, pipe.transformer, lambda: case.run(pipe))
    found = {"alone": alone, "masked alone": masked(pipe, case, mask)}
    graph, cost = describe(pipe), measure_cost(pipe)
    spread(pipe, way)
    try:
        found["together"] = case.run(pipe)
    except ValueError as error:  # the attention of a CPU cannot do it
        return {"refused": str(error)}
    found["ones together"] = masked(pipe, case, all_ones(pipe))
    found["masked together"] = masked(pipe, case, mask)
    found["together again"] = case.run(pipe)
    same = describe(pipe) == graph and (measure_cost(pipe).macs == cost.macs).all()
    return {"the plain model": same} | {what: images.numpy() for what, images in found.items()}


def with_masks_of_their_own(name: str, *ways: str) -> list[str]:
    """What is said where the two apply different masks; then they apply the same one."""
    begin()
    case, said = BY_NAME[name], []
    for way in ways:
        pipe = case.build()
        plain = case.run(pipe)
        spread(pipe, way)
        try:
            masked(pipe, case, random_actions(pipe, seed=dist.get_rank()))
        except StepMaskError as error:
            said.append(str(error))
        assert (masked(pipe, case, all_ones(pipe)) - plain).norm() < 1e-4 * plain.norm()
    return said


def each_by_itself(name: str, mask: StepMask) -> Any:
    """Each process has a pipeline of its own, and other seeds."""
    begin()
    case = BY_NAME[name]
    pipe = case.build()
    return masked(pipe, case, mask, seed=dist.get_rank()).numpy()
