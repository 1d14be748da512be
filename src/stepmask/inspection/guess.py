"""Sites of a model that no family knows, told by what its blocks are made of.

In transformers those are attentions, and the feed-forward and large linear layers beside them; in U-Nets the blocks of
each level. Whether a mask may decide on them is not guessed: `trace` proves it, and what it refuses or
does not see run is left out.
"""

from __future__ import annotations

import re

from torch import nn

from stepmask.errors import UnknownArchitectureError
from stepmask.graph import Kind
from stepmask.inspection.sites import kind_of

LARGE = 0.04
"""Share of its block's parameters from which a linear layer beside an attention is a site."""

_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_FEED_FORWARD = re.compile(r"feed_?forward|ffn|mlp|swiglu|moe|(^|_)ff(_|$)", re.IGNORECASE)
_OTHER_LINEAR = re.compile(r"norm|mod|ada|emb|time|skip", re.IGNORECASE)
"""Layers that make scales and shifts out of the timestep, and those that join a long skip."""

_OF_UNETS = re.compile(
    r"(down_blocks|mid_block|up_blocks)\.(.+\.)?"
    r"(\w*resnets\w*|\w*attentions|motion_modules|temp_convs|downsamplers|upsamplers)\.\d+"
    r"|(input_blocks\.\d+|middle_block|output_blocks\.\d+)\.\d+"
)
"""As diffusers names them, and as latent-diffusion did, where a lone convolution takes in the sample."""


def guessed_sites(model: nn.Module) -> dict[str, Kind]:
    """Names and kinds of what looks like sites, none of which lies within another.

    Raises:
        UnknownArchitectureError: Nothing does.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    found = {name for name, module in modules.items() if _OF_UNETS.fullmatch(name) and any(module.children())}
    found = found or {f"{block}.{child}" for block in _blocks(modules) for child in _parts(modules[block])}
    outermost = [name for name in modules if name in found and not _within(name, found)]
    if not outermost:
        raise UnknownArchitectureError(
            f"no blocks with an attention were found in {type(model).__name__}, which is none of the supported classes:"
            " say which of its submodules a mask shall decide on, stepmask.register_sites(pipe, [patterns])"
        )
    return {name: kind_of(name, modules[name]) for name in outermost}


def _blocks(modules: dict[str, nn.Module]) -> list[str]:
    """Parents of attentions, within lists of blocks."""
    attentions = {name for name, module in modules.items() if _is_attention(module)}
    parents = dict.fromkeys(name.rpartition(".")[0] for name in attentions if not _within(name, attentions))
    return [name for name in parents if re.search(r"(^|\.)\d+(\.|$)", name)]


def _parts(block: nn.Module) -> list[str]:
    """Names of a block's attentions, feed-forwards and large linear layers."""
    total = _size(block)

    def counts(name: str, part: nn.Module) -> bool:
        if not _size(part) or "Norm" in type(part).__name__:
            return False
        if isinstance(part, nn.Linear):
            return _size(part) >= LARGE * total and not _OTHER_LINEAR.search(name)
        return _is_attention(part) or any(map(_FEED_FORWARD.search, (name, type(part).__name__)))

    return [name for name, part in block.named_children() if counts(name, part)]


def _is_attention(module: nn.Module) -> bool:
    name = type(module).__name__
    return (
        bool(_ATTENTION.search(name)) and not re.search("Norm|Block|Processor|ModuleList", name) and _size(module) > 0
    )


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _within(name: str, others: set[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:length]) in others for length in range(1, len(parts)))
