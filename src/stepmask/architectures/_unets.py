"""What diffusers' U-Nets share: encoder, middle, decoder, and the skips between them. All sites hold states."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from torch import nn

from stepmask.errors import UnsupportedModelError
from stepmask.graph import BlockGraph, Site
from stepmask.inspection.architecture import Architecture
from stepmask.inspection.graph_builder import FRESH, GraphBuilder, Origins
from stepmask.inspection.sites import kind_of


class UNet(Architecture):
    """Sites are resnets, what follows them (attention or a transformer), and samplers.

    The decoder also reads every state of the encoder.
    """

    step_inputs = ("sample", "timestep")
    declared_blocks: ClassVar[frozenset[str]]
    """Classes of blocks that run their layers in the order assumed here."""

    def graph(self, model: nn.Module) -> BlockGraph:
        """Sites in execution order; raises UnsupportedModelError for blocks that are not declared."""
        self._check(model)
        builder = GraphBuilder()
        deepest = len(model.down_blocks) - 1
        hidden: Origins = FRESH  # conv_in
        skips = [hidden]
        for level, block in enumerate(model.down_blocks):
            name = f"down_blocks.{level}"
            skips += _layers(builder, name, block, hidden, level)
            skips += _samplers(builder, f"{name}.downsamplers", block.downsamplers, skips[-1], level)
            hidden = skips[-1]
        if model.mid_block is not None:
            hidden = _middle(builder, model.mid_block, hidden, deepest)
        for index, block in enumerate(model.up_blocks):
            name, level = f"up_blocks.{index}", deepest - index
            values = _layers(builder, name, block, hidden, level, skips)
            values += _samplers(builder, f"{name}.upsamplers", block.upsamplers, values[-1], level)
            hidden = values[-1]
        return builder.finish(hidden)

    def sites(self, model: nn.Module) -> tuple[Site, ...]:
        """The declared sites, in execution order."""
        return self.graph(model).sites

    def _check(self, model: nn.Module) -> None:
        blocks = [*model.down_blocks, *model.up_blocks, *([] if model.mid_block is None else [model.mid_block])]
        strange = sorted({type(block).__name__ for block in blocks} - self.declared_blocks)
        if strange:
            raise UnsupportedModelError(
                f"{self.class_name} with {', '.join(strange)} is not supported; its blocks may be "
                f"{', '.join(sorted(self.declared_blocks))}"
            )


def _layers(
    builder: GraphBuilder, name: str, block: nn.Module, hidden: Origins, level: int, skips: list[Origins] | None = None
) -> list[Origins]:
    """The value after each layer of a block; a decoder's layers also take and read a skip each."""
    values = []
    for layer, attention in enumerate(_attentions(block)):
        skip = skips.pop() if skips is not None else frozenset()
        hidden = builder.site(f"{name}.resnets.{layer}", "resnet", hidden | skip | FRESH, level)
        hidden = _attention(builder, f"{name}.attentions.{layer}", attention, hidden, level)
        values.append(hidden)
    return values


def _middle(builder: GraphBuilder, block: nn.Module, hidden: Origins, level: int) -> Origins:
    hidden = builder.site("mid_block.resnets.0", "resnet", hidden | FRESH, level)
    for layer, attention in enumerate(block.attentions):
        hidden = _attention(builder, f"mid_block.attentions.{layer}", attention, hidden, level)
        hidden = builder.site(f"mid_block.resnets.{layer + 1}", "resnet", hidden | FRESH, level)
    return hidden


def _attentions(block: nn.Module) -> list[nn.Module | None]:
    return list(getattr(block, "attentions", None) or [None] * len(block.resnets))


def _attention(builder: GraphBuilder, name: str, module: nn.Module | None, hidden: Origins, level: int) -> Origins:
    return hidden if module is None else builder.site(name, kind_of(name, module), hidden, level)


def _samplers(
    builder: GraphBuilder, name: str, samplers: Iterable[nn.Module] | None, hidden: Origins, level: int
) -> list[Origins]:
    """Convolutions, or resnets that change the resolution and read the timestep embedding."""
    values = []
    for i, sampler in enumerate(samplers or ()):
        if hasattr(sampler, "time_emb_proj"):
            hidden = builder.site(f"{name}.{i}", "resnet", hidden | FRESH, level)
        else:
            hidden = builder.site(f"{name}.{i}", "sampler", hidden, level)
        values.append(hidden)
    return values
