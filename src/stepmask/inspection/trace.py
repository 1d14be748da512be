"""Finds a block graph by tracing one forward pass of a copy without values (`twin`).

Every tensor carries a set of sources, one for each site and one for inputs that change with the step; every operation
passes on the union. When a site returns, what its value was made of are its writers, and the value becomes a source of
its own. Nothing is computed, so nothing hides: a `where` or a masked key counts as read. What is written into a tensor
reaches all that share its memory. What cannot be followed is refused: a site that runs twice, a choice by the value of
a tensor, a module that keeps a value for the next call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

from stepmask.errors import StepMaskError, UnsupportedModelError
from stepmask.graph import FRESH, STEP, BlockGraph, GraphBuilder, Origins, Site
from stepmask.inspection.twin import written
from stepmask.values import tensors_in

NOTHING: Origins = frozenset()


class SitesError(UnsupportedModelError):
    """Some of the sites, named by `sites`, cannot be; others may."""

    def __init__(self, message: str, sites: Sequence[str]) -> None:
        super().__init__(message)
        self.sites = tuple(sites)


def trace(
    twin: nn.Module,
    sites: Sequence[Site],
    inputs: Mapping[str, Any],
    changing: Sequence[str],
    run: Callable[[], Any],
) -> BlockGraph:
    """Run `twin` once and return the graph of these sites, in the order in which they ran.

    Args:
        twin: A copy of the model without values; it is left with hooks.
        sites: What to watch; the order does not matter.
        inputs: Arguments of the call; those that change have no values.
        changing: Names of those that change from step to step.
        run: Runs `twin` on these inputs and returns what a sampler uses.

    Raises:
        UnsupportedModelError: The trace cannot prove who reads whom.
    """
    name = type(twin).__name__
    modules = dict(twin.named_modules())
    builder = GraphBuilder()
    sources = _Sources()
    indices: dict[str, int] = {}

    def watch(site: Site) -> None:
        def after(module: nn.Module, args: Any, output: Any) -> Any:
            if site.name in indices:
                raise SitesError(
                    f"{site.name} runs more than once in a forward pass of {name}, so a step has no single value "
                    "to keep: choose other sites",
                    [site.name],
                )
            indices[site.name] = len(indices)
            value = builder.site(site.name, site.kind, sources.union(output), site.depth)
            # copies: the same tensor may have other readers
            output = tree_map_only(Tensor, torch.empty_like, output)
            sources.mark(output, value)
            sources.watch_writes(output, indices[site.name])
            return output

        modules[site.name].register_forward_hook(after)

    for site in sites:
        watch(site)
    sources.mark([inputs[name] for name in changing if name in inputs], FRESH)
    try:
        with torch.no_grad(), sources:
            output = run()
    except StepMaskError:
        raise
    except Exception as error:  # whatever a model's code may raise
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UnsupportedModelError(
            f"{name} cannot be traced without computing anything ({type(error).__name__}: {reason}). If the example "
            "inputs are right, its graph has to be declared: CONTRIBUTING.md shows how"
        ) from error
    idle = [site.name for site in sites if site.name not in indices]
    if idle:
        raise SitesError(
            f"{idle[0]} did not run in a forward pass of {name} on the example inputs: leave it out, or give inputs "
            "with which it runs",
            idle,
        )
    sources.check_nothing_is_kept(twin)
    return builder.finish(sources.union(output) - {STEP}, sources.rewritten)


class _Sources(TorchDispatchMode):
    """Carries `Origins` with every tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.of: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self.rewritten: set[int] = set()
        """Sites whose value is written into after they returned it."""
        self._written: dict[int, Origins] = {}
        self._values: dict[int, int] = {}
        self._alive: list[Tensor] = []  # memory that is known by its address must not be freed

    def union(self, tree: Any) -> Origins:
        """What the tensors in a tree were made of."""
        return NOTHING.union(
            *(self.of.get(t, NOTHING) | self._written.get(_memory(t), NOTHING) for t in tensors_in(tree))
        )

    def mark(self, tree: Any, value: Origins) -> None:
        """Say what the tensors in a tree were made of."""
        for tensor in tensors_in(tree):
            self.of[tensor] = value

    def watch_writes(self, tree: Any, site: int) -> None:
        """Remember whose value this is, to see when something writes into it."""
        for tensor in tensors_in(tree):
            self._values[_memory(tensor)] = site
            self._alive.append(tensor)

    def check_nothing_is_kept(self, twin: nn.Module) -> None:
        """Raise where a module keeps a site's value, which a later step may read."""
        for name, module in twin.named_modules():
            kept = {key: value for key, value in vars(module).items() if not key.startswith("_")}
            kept |= module._buffers
            for key, value in kept.items():
                if isinstance(value, Tensor) and self.union(value) - {STEP}:
                    raise UnsupportedModelError(
                        f"{name}.{key} of {type(twin).__name__} keeps what a site made for a later call, which no mask "
                        "can know of: choose other sites"
                    )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        value = self.union((args, kwargs))
        result = func(*args, **kwargs)
        self.mark(result, value)
        for leaf in written(func, args, kwargs):
            memory = _memory(leaf)
            self._written[memory] = self._written.get(memory, NOTHING) | value
            self._alive.append(leaf)
            if memory in self._values:
                self.rewritten.add(self._values[memory])
        return result


def _memory(tensor: Tensor) -> int:
    """Identifies what a tensor and its views share."""
    return tensor.untyped_storage()._cdata
