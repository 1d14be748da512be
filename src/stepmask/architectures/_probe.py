"""Finds a block graph by tracing one forward pass on the meta device.

Every tensor carries a set of sources, one bit per site and one for inputs that change with the step; every operation
passes on the union. When a site returns, what its value was made of are its writers, and the value becomes a source of
its own. Nothing is computed, so nothing hides: a `where` or a masked key counts as read. Writes into views of a tensor
are not followed to its base.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

from stepmask.architectures._builder import FRESH, STEP, GraphBuilder, Value
from stepmask.architectures._registry import architecture_of
from stepmask.architectures._skeleton import meta_skeleton
from stepmask.graph import BlockGraph, Site


class _Sources(TorchDispatchMode):
    """Carries a `Value` with every tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.of: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def union(self, tree: Any) -> Value:
        tensors = [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor)]
        return frozenset().union(*(self.of.get(tensor, frozenset()) for tensor in tensors))

    def mark(self, tree: Any, value: Value) -> None:
        for leaf in tree_flatten(tree)[0]:
            if isinstance(leaf, Tensor):
                self.of[leaf] = value

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self.mark(result, self.union((args, kwargs)))
        return result


def probe(model: nn.Module, sites: Sequence[Site]) -> BlockGraph:
    """Trace `model` and return the graph of these sites, in the order in which they ran.

    Args:
        model: A denoiser of a registered family.
        sites: What to watch; the order does not matter.
    """
    family = architecture_of(model)
    twin = meta_skeleton(model)
    inputs = family.example_inputs(twin)
    modules = dict(twin.named_modules())
    builder = GraphBuilder()
    sources = _Sources()

    def watch(site: Site) -> None:
        def after(module: nn.Module, args: Any, output: Any) -> Any:
            value = builder.site(site.name, site.kind, sources.union(output), site.depth)
            output = tree_map_only(Tensor, torch.ops.aten.alias, output)  # the same tensor may have other readers
            sources.mark(output, value)
            return output

        modules[site.name].register_forward_hook(after)

    for site in sites:
        watch(site)
    sources.mark({name: inputs[name] for name in family.step_inputs}, FRESH)
    with torch.no_grad(), sources:
        output = family.used_output(twin, twin(**inputs, return_dict=False)[0])
    return builder.finish(sources.union(output) - {STEP})
