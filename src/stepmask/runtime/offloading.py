"""Group offloading of diffusers under a mask: groups are on the device where something of them runs, and no others.

The first module of a group brings its weights to the device and the last one takes them away; with streams, each group
brings the one that follows it. A module that rests is not called and does neither. So before each call of the denoiser
these roles are given to the modules that will run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from stepmask.graph import BlockGraph
from stepmask.inspection.placement import diffusers_hooks


class Groups:
    """The groups of one denoiser; there may be none.

    Args:
        denoiser: The model.
        graph: Its sites.
        feeders: Per name of a site, submodules that rest with it.
    """

    def __init__(self, denoiser: nn.Module, graph: BlockGraph, feeders: Mapping[str, Sequence[str]]) -> None:
        hooks = {module: diffusers_hooks(module) for module in denoiser.modules()}
        offloaded = [module for module in hooks if "group_offloading" in hooks[module]]
        self._lazy = [module for module in offloaded if "layer_execution_tracker" in hooks[module]]
        """Modules whose order is being found out by a first call, for streams."""
        self._hooks = {module: hooks[module]["group_offloading"] for module in offloaded}
        names = {module: name for name, module in denoiser.named_modules()} if offloaded else {}
        places = [(i, site.name) for i, site in enumerate(graph.sites) if site.kind != "stack"]
        places += [(i, name) for i, site in enumerate(graph.sites) for name in feeders.get(site.name, ())]
        self._within = {
            module: [i for i, place in places if f"{names[module]}.".startswith(f"{place}.")] for module in offloaded
        }
        """By module, the sites that have to run for it to run."""
        groups = {id(hook.group): hook.group for hook in self._hooks.values()}
        self._groups = [(group, [m for m in offloaded if self._hooks[m].group is group]) for group in groups.values()]
        self._leaders = [(group.onload_leader, group.offload_leader) for group in groups.values()]
        self._next: dict[nn.Module, Any] = {}
        self._prepared: Sequence[bool] | None = None
        if not self._lazy:
            self._note_order()

    def called(self) -> bool:
        """Note that a call is over; whether it was the one that found out the order, after which hooks change."""
        if not self._lazy or any("layer_execution_tracker" in diffusers_hooks(module) for module in self._lazy):
            return False
        self._lazy = []
        self._note_order()
        return True

    def _note_order(self) -> None:
        self._next = {module: hook.next_group for module, hook in self._hooks.items()}

    def prepare(self, runs: Sequence[bool] | None) -> None:
        """Give the roles to the modules that run in the next call; `runs` says it of each site, None that all do."""
        if not self._hooks or (runs is None and self._prepared is None) or runs == self._prepared:
            return
        self._prepared = runs
        running = {m for m in self._hooks if runs is None or all(runs[i] for i in self._within[m])}
        for (group, members), (first, last) in zip(self._groups, self._leaders, strict=True):
            there = [module for module in members if module in running]
            group.onload_leader = there[0] if there and first in members else first
            group.offload_leader = there[-1] if there and last in members else last
        for module in [] if self._lazy else running:
            self._hooks[module].next_group = next(self._following(module, running), None)

    def _following(self, module: nn.Module, running: set[nn.Module]) -> Iterator[Any]:
        """The groups that follow a module's and of which something runs."""
        members = {id(group): modules for group, modules in self._groups}
        seen: set[int] = set()
        group = self._next[module]
        while group is not None and id(group) not in seen:
            seen.add(id(group))
            if running.intersection(members[id(group)]):
                yield group
            group = self._next[members[id(group)][0]]

    def restore(self) -> None:
        """Give all roles back to those that had them."""
        self.prepare(None)
