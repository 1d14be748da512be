"""Parts and layers of a U-Net, as diffusers names its submodules. Knows names and levels, no model."""

from __future__ import annotations

import re
from typing import Literal

from stepmask.errors import StepMaskError
from stepmask.graph import BlockGraph

Part = Literal["down", "mid", "up"]


def parts_of(graph: BlockGraph, method: str, instead: str) -> list[Part]:
    """For each site whether it lies in the encoder, the middle or the decoder.

    Raises:
        StepMaskError: The graph is not that of a U-Net; names `method` and what to take `instead`.
    """
    found = [re.match(r"(down|mid|up)_?(blocks?)?\b", site.name) for site in graph.sites]
    if not all(found) or any(site.depth is None for site in graph.sites):
        raise StepMaskError(f"{method} needs a U-Net, whose sites lie in an encoder and a decoder; {instead}")
    return [match[1] for match in found]


def distances(graph: BlockGraph, parts: list[Part]) -> list[int | None]:
    """How many layers lie between each site and the full resolution; None in the middle.

    A layer is a resnet with what follows it (attention or transformers), or a downsampler. In the decoder the last
    layer is 0 away and reads the skip from before the first layer of the encoder, which is 1 away: the layer of the
    decoder at distance d reads the layer of the encoder at distance d. An upsampler belongs to the layer before it.
    """
    layers: dict[Part, list[str]] = {"down": [], "up": []}
    layer_of: list[str | None] = []
    for site, part in zip(graph.sites, parts, strict=True):
        if part == "mid":
            layer_of.append(None)
            continue
        name = _layer(site.name)
        if site.kind == "sampler" and part == "up":
            name = layers[part][-1]
        if name not in layers[part]:
            layers[part].append(name)
        layer_of.append(name)
    away = {name: i + 1 for i, name in enumerate(layers["down"])}
    away |= {name: i for i, name in enumerate(reversed(layers["up"]))}
    return [None if name is None else away[name] for name in layer_of]


def _layer(name: str) -> str:
    """A name that the sites of one layer share: ``up_blocks.0.1`` of ``up_blocks.0.attentions.1.proj``."""
    match = re.match(r"(.*?)\.(?:resnets|attentions|motion_modules|temp_\w+)\.(\d+)", name)
    return f"{match[1]}.{match[2]}" if match else name
