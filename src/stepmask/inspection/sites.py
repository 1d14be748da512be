"""From patterns of names to sites: which submodules match, and what kind each is."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import get_args

from torch import nn

from stepmask.errors import StepMaskError, UnsupportedModelError
from stepmask.gate import Controller, one_within_the_other
from stepmask.graph import BlockGraph, Kind, Site

Patterns = Mapping[str, Kind] | Sequence[str]
"""Names of submodules, perhaps with their kinds: ``*`` stands for one part of a dotted name, ``**`` for any number."""

_BY_CLASS = (
    ("sampler", r"Downsample|Upsample"),
    ("resnet", r"Resnet|ResBlock"),
    ("mlp", r"FeedForward|Mlp|MLP"),
    ("transformer", r"Transformer|Block"),
)


def find_sites(model: nn.Module, patterns: Patterns) -> tuple[Site, ...]:
    """Find the sites whose names match, in the order of ``model.named_modules()``.

    Args:
        model: The denoiser.
        patterns: Patterns of names. Where no kind is given, it is told from the module's class and name.

    Raises:
        StepMaskError: A pattern matches nothing, or there is no such kind.
        UnsupportedModelError: A site lies within another, so that it would not run where the other does not.
    """
    if not patterns or isinstance(patterns, str):
        raise StepMaskError(f"{type(model).__name__} needs sites: a list of patterns, got {patterns!r}")
    kinds = dict(patterns) if isinstance(patterns, Mapping) else dict.fromkeys(patterns)
    strange = sorted({kind for kind in kinds.values() if kind is not None} - set(get_args(Kind)))
    if strange:
        raise StepMaskError(f"no kind of site {strange[0]!r}; there are {', '.join(get_args(Kind))}")
    modules = {name: module for name, module in model.named_modules() if name}
    found: dict[str, Kind | None] = {}
    for pattern, kind in kinds.items():
        matches = _regex(pattern).fullmatch
        matching = [pattern] if pattern in modules else [name for name in modules if matches(name)]
        if not matching:
            raise StepMaskError(
                f"no submodule of {type(model).__name__} matches {pattern!r}; it has {_outline(modules)} "
                "(* stands for one part of a dotted name, ** for any number)"
            )
        found |= dict.fromkeys(matching, kind)
    _check_apart(model, found)
    return tuple(
        Site(name, found[name] or kind_of(name, module), depth_of(name, model))
        for name, module in modules.items()
        if name in found
    )


def sites_around(model: nn.Module, sites: Iterable[Site]) -> tuple[Site, ...]:
    """Modules and lists of modules that contain some of the sites, outermost first: what may rest as a whole."""
    given = {site.name for site in sites}
    parts = [name.split(".") for name in given]
    names = {".".join(path[:length]) for path in parts for length in range(1, len(path))} - given
    found = []
    for name, module in model.named_modules():
        if name not in names:
            continue
        if not isinstance(module, nn.ModuleList):
            found.append(Site(name, "block", depth_of(name, model)))
        elif len(module) > 1 and not (given & {f"{name}.{i}" for i in range(len(module))} and _in_block(name, names)):
            found.append(Site(name, "stack", depth_of(name, model)))
    return tuple(sorted(found, key=lambda site: site.name.count(".")))


def _in_block(name: str, names: set[str]) -> bool:
    """Whether a module of these names contains this one, so that a list of layers says nothing that it does not say."""
    return any(name.startswith(f"{other}.") for other in names)


def ends_of(model: nn.Module, site: str) -> tuple[str, str]:
    """Names of the modules with which a site begins and ends: of a list its first and its last, else the site's own."""
    module = model.get_submodule(site)
    return (f"{site}.0", f"{site}.{len(module) - 1}") if isinstance(module, nn.ModuleList) else (site, site)


def gates_of(
    model: nn.Module, graph: BlockGraph, controller: Callable[[int], Controller], without: Collection[int] = ()
) -> list[tuple[str, nn.Module, Controller]]:
    """A gate for every site of a graph; a list of blocks has it on its last block, around that block's own.

    Args:
        model: The denoiser.
        graph: Its sites.
        controller: Makes the controller of a site from its index.
        without: Sites that get none.
    """
    gates: dict[str, Controller] = {}
    for index, site in enumerate(graph.sites):  # of two sites that end with one module, the inner one comes first
        if index in without:
            continue
        name, control = ends_of(model, site.name)[1], controller(index)
        gates[name] = one_within_the_other(control, gates[name]) if name in gates else control
    return [(name, model.get_submodule(name), control) for name, control in gates.items()]


def kind_of(name: str, module: nn.Module) -> Kind:
    """What a submodule is, as its name and the name of its class tell."""
    last = name.rpartition(".")[2]
    if re.search(r"attn2|cross", last):
        return "cross_attention"
    for kind, pattern in _BY_CLASS:
        if re.search(pattern, type(module).__name__):
            return kind
    return "attention" if re.search(r"attn|attention", f"{last} {type(module).__name__}", re.IGNORECASE) else "mlp"


def depth_of(name: str, model: nn.Module) -> int | None:
    """Level of a U-Net's submodule, 0 at full resolution; None where there are no levels."""
    if not hasattr(model, "down_blocks") or not hasattr(model, "up_blocks"):
        return None
    deepest = len(model.down_blocks) - 1
    part, _, rest = name.partition(".")
    number = rest.partition(".")[0]
    if part not in ("down_blocks", "up_blocks"):
        return deepest
    if not number:  # the list of all levels
        return 0
    return int(number) if part == "down_blocks" else deepest - int(number)


def _regex(pattern: str) -> re.Pattern:
    parts = {"**": ".+", "*": "[^.]+"}
    return re.compile("".join(parts.get(piece, re.escape(piece)) for piece in re.split(r"(\*\*|\*)", pattern)))


def _check_apart(model: nn.Module, names: Mapping[str, object]) -> None:
    for name in names:
        outer = next((other for other in names if name.startswith(f"{other}.")), None)
        if outer is not None:
            raise UnsupportedModelError(
                f"{name} lies within {outer}, so it cannot compute where {outer} does not: choose patterns that "
                f"match one of both in {type(model).__name__}"
            )


def _outline(modules: Mapping[str, nn.Module]) -> str:
    """The first few names at depth 1 to 3, with numbers as stars."""
    names = dict.fromkeys(re.sub(r"\.\d+", ".*", name) for name in modules if name.count(".") <= 2)
    shown = list(names)[:24]
    return ", ".join(shown) + (", ..." if len(names) > len(shown) else "")
