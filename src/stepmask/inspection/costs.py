"""Measures costs: MACs on a copy without values, latency by timing every site in place."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from stepmask.cost import CostTable
from stepmask.gate import gated
from stepmask.graph import BlockGraph
from stepmask.inspection.call import check_call_kwargs
from stepmask.inspection.describe import describe
from stepmask.inspection.first_call import FirstStep, first_step
from stepmask.inspection.flops import FUSED_ATTENTION
from stepmask.inspection.inputs import repeated
from stepmask.inspection.registry import architecture_of, denoiser_of
from stepmask.inspection.skeleton import Twin, on_a_twin
from stepmask.inspection.structure import remembered
from stepmask.runtime.cache import num_bytes

_BATCHED = re.compile(r"bmm|scaled_dot_product")
"""Operations that attention takes its products with."""


def measure_cost(
    model: Any,
    *,
    scheduler: Any | None = None,
    call_kwargs: Mapping[str, Any] | None = None,
    latency: bool = False,
    batch_size: int = 16,
) -> CostTable:
    """Cost of every site of a pipeline's denoiser.

    MACs are counted by torch's FlopCounterMode on a copy without values, attention products included, per image: a
    guided image runs the denoiser on two inputs or more. How many, and the sizes of latents and texts, are those of the
    pipeline's first step, found by starting a call; for a bare denoiser the configured or usual ones. The products are
    also listed alone, for the convention that leaves them out (`CostTable.conv_linear`).

    Args:
        model: A pipeline or a denoiser.
        scheduler: Accepted beside a bare denoiser; costs do not depend on it.
        call_kwargs: What the pipeline will be called with: height and width, prompts; a ``guidance_scale`` of at most
            1 halves the cost.
        latency: Also time the sites on the model's device, for one batch.
        batch_size: Images in that batch.

    Raises:
        StepMaskError: The pipeline's call does not take one of `call_kwargs`.
    """
    if not isinstance(model, nn.Module):
        check_call_kwargs(model, call_kwargs)
    describe(model, call_kwargs=call_kwargs)
    denoiser, step = denoiser_of(model), first_step(model, call_kwargs)
    cost = cost_of_step(denoiser, step)
    if not latency:
        return cost
    times, always = _time_sites(denoiser, describe(denoiser), batch_size * step.forwards, step.inputs)
    return replace(cost, latency_ms=times, always_latency_ms=always)


def cost_of_step(denoiser: nn.Module, step: FirstStep) -> CostTable:
    """MACs of what a step asks of the denoiser for one image."""
    inputs, forwards = step
    one = _count_macs(denoiser, describe(denoiser), inputs)
    return replace(
        one,
        macs=one.macs * forwards,
        always_macs=one.always_macs * forwards,
        forwards_per_image=forwards,
        value_bytes=one.value_bytes * forwards,
        product_macs=one.product_macs * forwards,
        always_product_macs=one.always_product_macs * forwards,
    )


def _inputs(denoiser: nn.Module, model: nn.Module, inputs: Mapping[str, Any] | None, batch: int = 1) -> dict[str, Any]:
    """Arguments for `model`, which is `denoiser` or a copy of it: those of a call, else the family's example."""
    family = architecture_of(denoiser)
    return family.example_inputs(model, batch) if inputs is None else repeated(inputs, batch, next(model.parameters()))


def _count_macs(denoiser: nn.Module, graph: BlockGraph, inputs: Mapping[str, Any] | None = None) -> CostTable:
    """MACs of each site and of everything else, and the bytes of each site's value, for one input."""
    return remembered(
        denoiser,
        (architecture_of(denoiser), graph.names),
        inputs,
        lambda: on_a_twin(denoiser, lambda twin: _count_macs_of(denoiser, twin, graph, inputs)),
    )


def _count_macs_of(denoiser: nn.Module, twin: Twin, graph: BlockGraph, inputs: Mapping[str, Any] | None) -> CostTable:
    size: dict[str, int] = {}
    modules = dict(twin.model.named_modules())
    for name in graph.names:
        modules[name].register_forward_hook(lambda _m, _a, value, name=name: size.update({name: num_bytes(value)}))
    with torch.no_grad(), twin.running():
        inputs = twin.inputs(_inputs(denoiser, twin.model, inputs))
        with FlopCounterMode(display=False, custom_mapping=FUSED_ATTENTION) as counter:
            architecture_of(denoiser).run(twin.model, inputs)
    by_module = counter.get_flop_counts()
    prefix = type(twin.model).__name__
    macs = np.array([sum(by_module.get(f"{prefix}.{name}", {}).values()) / 2 for name in graph.names])
    products = np.array([_product_macs(by_module, prefix, name, modules[name]) for name in graph.names])
    return CostTable(
        graph.names,
        macs,
        counter.get_total_flops() / 2 - macs.sum(),
        value_bytes=np.array([size[name] for name in graph.names]),
        product_macs=products,
        always_product_macs=_product_macs(by_module, prefix, "", twin.model) - products.sum(),
    )


def _product_macs(by_module: Mapping[str, Mapping[Any, int]], prefix: str, name: str, module: nn.Module) -> float:
    """MACs of the attention products in a module: batched products, other than those of linear layers."""

    def batched(path: str) -> float:
        counts = by_module.get(f"{prefix}.{path}" if path else "Global", {})
        return sum(flops for op, flops in counts.items() if _BATCHED.search(str(op))) / 2

    # torch runs a linear layer as a batched product where its input is not contiguous
    layers = [path for path, child in module.named_modules(prefix=name) if isinstance(child, nn.Linear)]
    return batched(name) - sum(map(batched, layers))


@torch.no_grad()
def _time_sites(
    denoiser: nn.Module, graph: BlockGraph, batch_size: int, inputs: Mapping[str, Any] | None = None, rounds: int = 5
) -> tuple[np.ndarray, float]:
    """Median milliseconds of each site, and of the rest of a forward pass."""
    family = architecture_of(denoiser)
    inputs = _inputs(denoiser, denoiser, inputs, batch_size)
    device = next(denoiser.parameters()).device
    spent = np.zeros((rounds, len(graph) + 1))
    current = 0

    def now() -> float:
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return 1000 * time.perf_counter()

    def timer(column: int) -> Callable[[Callable[[], Any], tuple, dict], Any]:
        def control(compute: Callable[[], Any], args: tuple, kwargs: dict) -> Any:
            start = now()
            value = compute()
            spent[current, column] += now() - start
            return value

        return control

    modules = dict(denoiser.named_modules())
    training = denoiser.training
    denoiser.eval()
    try:
        family.run(denoiser, inputs)
        with gated([(name, modules[name], timer(i)) for i, name in enumerate(graph.names)]):
            for current in range(rounds):
                start = now()
                family.run(denoiser, inputs)
                spent[current, -1] = now() - start - spent[current, :-1].sum()
    finally:
        denoiser.train(training)
    median = np.median(spent, axis=0)
    return median[:-1], float(max(median[-1], 0.0))
