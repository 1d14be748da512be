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
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from stepmask.cost import BATCH_SIZE, CostTable
from stepmask.gate import Controller, gated
from stepmask.graph import BlockGraph
from stepmask.inspection.architecture import Architecture
from stepmask.inspection.describe import Description, description_of
from stepmask.inspection.first_step import FirstStep, first_step
from stepmask.inspection.inputs import repeated
from stepmask.inspection.pipeline_call import PipelineCall
from stepmask.inspection.placement import device_of
from stepmask.inspection.sites import Patterns, ends_of, gates_of
from stepmask.inspection.structure import remembered
from stepmask.inspection.twin import Twin, on_a_twin
from stepmask.nesting import outline, parents_of
from stepmask.values import num_bytes, put_together, take_apart

_BATCHED = re.compile(r"bmm|scaled_dot_product")
"""Operations that attention takes its products with."""


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


_attention_flops._get_raw = True  # torch gives such a formula tensors, not shapes
FUSED_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
"""The fused attention of the CPU, which torch takes for free."""


def measure_cost(
    model: Any,
    *,
    scheduler: Any | None = None,
    call_kwargs: Mapping[str, Any] | None = None,
    sites: Patterns | None = None,
    example_inputs: Mapping[str, Any] | None = None,
    latency: bool = False,
    batch_size: int = BATCH_SIZE,
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
        sites: As `describe` takes them; None takes those that `describe(model)` has.
        example_inputs: As `describe` takes them.
        latency: Also time the sites on the model's device, for one batch, in milliseconds.
        batch_size: Images in that batch.

    Raises:
        StepMaskError: The pipeline's call does not take one of `call_kwargs`, or `describe` raises it.
    """
    if not isinstance(model, nn.Module):
        PipelineCall(model).check(call_kwargs)
    description = description_of(model, sites, example_inputs, call_kwargs)
    return cost_of(description, first_step(model, call_kwargs), latency=latency, batch_size=batch_size)


def cost_of(
    description: Description, step: FirstStep, *, latency: bool = False, batch_size: int = BATCH_SIZE
) -> CostTable:
    """Cost of what a step asks of a denoiser for one image; with `latency` also times, for a batch of images."""
    (inputs, forwards), denoiser = step, description.denoiser
    one = remembered(
        denoiser,
        ("costs", description.architecture.key, description.graph.names),
        inputs,
        lambda: on_a_twin(denoiser, lambda twin: _count_macs(twin, description, inputs)),
    )
    cost = replace(
        one,
        macs=one.macs * forwards,
        always_macs=one.always_macs * forwards,
        forwards_per_image=forwards,
        value_bytes=one.value_bytes * forwards,
        product_macs=one.product_macs * forwards,
        always_product_macs=one.always_product_macs * forwards,
    )
    if not latency:
        return cost
    times, always = _time_sites(description, batch_size * forwards, inputs)
    return replace(cost, latency_ms=times, always_latency_ms=always)


def call_inputs(
    architecture: Architecture, model: nn.Module, inputs: Mapping[str, Any] | None, batch: int = 1
) -> dict[str, Any]:
    """Arguments for the denoiser or a copy of it: those of a call, else the family's example."""
    if inputs is None:
        return architecture.example_inputs(model, batch)
    return repeated(inputs, batch, device_of(model))


def _count_macs(twin: Twin, description: Description, inputs: Mapping[str, Any] | None) -> CostTable:
    """MACs of each site and of everything else, and the bytes of each site's value, for one input."""
    size: dict[str, int] = {}
    modules, names = dict(twin.model.named_modules()), description.graph.names
    for name in names:
        last = modules[ends_of(twin.model, name)[1]]
        last.register_forward_hook(lambda _m, _a, value, name=name: size.update({name: num_bytes(value)}))
    with torch.no_grad(), twin.running():
        inputs = twin.inputs(call_inputs(description.architecture, twin.model, inputs))
        with FlopCounterMode(display=False, custom_mapping=FUSED_ATTENTION) as counter:
            description.architecture.run(twin.model, inputs)
    by_module = counter.get_flop_counts()
    prefix = type(twin.model).__name__
    macs = _own(description.graph, lambda name: sum(by_module.get(f"{prefix}.{name}", {}).values()) / 2)
    products = _own(description.graph, lambda name: _product_macs(by_module, prefix, name, modules[name]))
    return CostTable(
        names,
        macs,
        counter.get_total_flops() / 2 - macs.sum(),
        value_bytes=np.array([size[name] for name in names]),
        product_macs=products,
        always_product_macs=_product_macs(by_module, prefix, "", twin.model) - products.sum(),
    )


def _own(graph: BlockGraph, of_module: Callable[[str], float]) -> np.ndarray:
    """What of each site's cost lies in no site within it; nothing of a list's, whose blocks are called one by one."""
    total = np.array([0.0 if site.kind == "stack" else of_module(site.name) for site in graph.sites])
    own = total.copy()
    for i, parent in enumerate(parents_of(graph.names)):  # what contains others comes after them
        if parent is not None and graph.sites[parent].kind == "stack":
            total[parent] += total[i]
        elif parent is not None:
            own[parent] -= total[i]
    return own


def _product_macs(by_module: Mapping[str, Mapping[Any, int]], prefix: str, name: str, module: nn.Module) -> float:
    """MACs of the attention products in a module: batched products, other than those of linear layers."""

    def batched(path: str) -> float:
        counts = by_module.get(f"{prefix}.{path}" if path else "Global", {})
        return sum(flops for op, flops in counts.items() if _BATCHED.search(str(op))) / 2

    # torch runs a linear layer as a batched product where its input is not contiguous
    layers = [path for path, child in module.named_modules(prefix=name) if isinstance(child, nn.Linear)]
    return batched(name) - sum(map(batched, layers))


class _Controls:
    """What gates do while sites are timed.

    Args:
        now: The time in milliseconds.
        num_sites: B.
    """

    def __init__(self, now: Callable[[], float], num_sites: int) -> None:
        self._now = now
        self.taken = np.zeros(num_sites)
        """Milliseconds of each site when it computed last."""
        self._values: dict[int, tuple[Any, Any]] = {}
        self._tensors: dict[Any, list[Any]] = {}  # one value of each shape, for all sites

    def computes(self, site: int) -> Controller:
        """Compute, and note the time."""

        def control(compute: Callable[[], Any], args: tuple, kwargs: dict) -> Any:
            start = self._now()
            value = compute()
            self.taken[site] = self._now() - start
            tensors, layout = take_apart(value)
            shapes = tuple((tensor.shape, tensor.dtype) for tensor in tensors)
            self._values[site] = shapes, layout
            self._tensors.setdefault(shapes, tensors)
            return value

        return control

    def rests(self, site: int) -> Controller:
        """Hand out a forecast of what came last."""

        def control(compute: Callable[[], Any], args: tuple, kwargs: dict) -> Any:
            shapes, layout = self._values[site]
            return put_together([torch.lerp(tensor, tensor, 2.0) for tensor in self._tensors[shapes]], layout)

        return control


@torch.no_grad()
def _time_sites(
    description: Description, batch_size: int, inputs: Mapping[str, Any] | None = None, rounds: int = 5
) -> tuple[np.ndarray, float]:
    """Milliseconds by which a step gets shorter where each site rests, (B,), and those of a step in which all rest.

    Of a site that contains others, how much shorter it gets than where those rest. A site that rests still takes some
    time, for it is asked and hands out a forecast: what all sites of one depth save together is measured, and they
    share in it by what they take. Depths are measured apart, so that no clock runs within another. All are medians.
    """
    denoiser, architecture, graph = description.denoiser, description.architecture, description.graph
    inputs = call_inputs(architecture, denoiser, inputs, batch_size)
    device, by_depth = device_of(denoiser), _sites_by_depth(graph)

    def now() -> float:
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return 1000 * time.perf_counter()

    def step() -> float:
        start = now()
        architecture.run(denoiser, inputs)
        return now() - start

    controls = _Controls(now, len(graph))
    full, taken, resting = [], [], []
    training = denoiser.training
    denoiser.eval()
    try:
        step()
        for _ in range(rounds):
            full.append(step())
            resting.append([])
            for sites in by_depth:
                others = set(range(len(graph))) - set(sites)
                with gated(gates_of(denoiser, graph, controls.computes, others)):
                    step()
                with gated(gates_of(denoiser, graph, controls.rests, others)):
                    resting[-1].append(step())
            taken.append(controls.taken.copy())
    finally:
        denoiser.train(training)
    whole, saved = float(np.median(full)), np.median(taken, axis=0)
    for sites, rest in zip(by_depth, np.median(resting, axis=0), strict=True):
        saved[sites] *= max(whole - float(rest), 0.0) / max(saved[sites].sum(), 1e-9)
    own = np.maximum(_own(graph, lambda name: saved[graph.names.index(name)]), 0.0)
    return own, max(whole - float(own.sum()), 0.0)


def _sites_by_depth(graph: BlockGraph) -> list[list[int]]:
    """The sites, by how many others contain each; without lists of blocks, which are not called as a whole."""
    found: dict[int, list[int]] = {}
    for site, depth in outline(graph.names):
        if graph.sites[site].kind != "stack":
            found.setdefault(depth, []).append(site)
    return list(found.values())
