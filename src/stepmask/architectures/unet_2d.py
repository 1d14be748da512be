"""UNet2DModel: the unconditional U-Net of DDPM and LDM. Sites: ResnetBlock2D, Attention, samplers; all hold states."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from stepmask.architectures._builder import FRESH, GraphBuilder, Value
from stepmask.architectures._registry import Architecture, register
from stepmask.errors import UnsupportedModelError
from stepmask.graph import BlockGraph

DECLARED_BLOCKS = {"DownBlock2D", "AttnDownBlock2D", "UpBlock2D", "AttnUpBlock2D", "UNetMidBlock2D"}


@register("UNet2DModel")
class UNet2D(Architecture):
    """Encoder, middle, decoder; the decoder also reads every state of the encoder."""

    step_inputs = ("sample", "timestep")

    def describe(self, model: nn.Module) -> BlockGraph:
        """Sites in execution order; raises UnsupportedModelError for blocks that are not declared."""
        self._check(model)
        builder = GraphBuilder()
        deepest = len(model.down_blocks) - 1
        hidden: Value = FRESH  # conv_in
        skips = [hidden]
        for level, block in enumerate(model.down_blocks):
            name = f"down_blocks.{level}"
            for layer, attention in _layers(block):
                hidden = builder.site(f"{name}.resnets.{layer}", "resnet", hidden | FRESH, level)
                if attention is not None:
                    hidden = builder.site(f"{name}.attentions.{layer}", "attention", hidden, level)
                skips.append(hidden)
            for i, sampler in enumerate(block.downsamplers or ()):
                hidden = _sampler(builder, f"{name}.downsamplers.{i}", sampler, hidden, level)
                skips.append(hidden)
        if model.mid_block is not None:
            hidden = self._middle(builder, model.mid_block, hidden, deepest)
        for index, block in enumerate(model.up_blocks):
            name, level = f"up_blocks.{index}", deepest - index
            for layer, attention in _layers(block):
                hidden = builder.site(f"{name}.resnets.{layer}", "resnet", hidden | skips.pop() | FRESH, level)
                if attention is not None:
                    hidden = builder.site(f"{name}.attentions.{layer}", "attention", hidden, level)
            for i, sampler in enumerate(block.upsamplers or ()):
                hidden = _sampler(builder, f"{name}.upsamplers.{i}", sampler, hidden, level)
        return builder.finish(hidden)

    def example_inputs(self, model: nn.Module, batch_size: int = 1) -> dict[str, Any]:
        """A sample of the configured size, and labels where the model wants them."""
        parameter = next(model.parameters())
        size = model.config.sample_size or 32
        height, width = (size, size) if isinstance(size, int) else size
        options = {"device": parameter.device}
        shape = (batch_size, model.config.in_channels, height, width)
        inputs = {
            "sample": torch.randn(shape, dtype=parameter.dtype, **options),
            "timestep": torch.full((batch_size,), 500, **options),
        }
        if model.config.num_class_embeds is not None:
            inputs["class_labels"] = torch.zeros(batch_size, dtype=torch.long, **options)
        return inputs

    def tiny(self) -> nn.Module:
        """Three levels with attention in the middle one."""
        from diffusers import UNet2DModel

        return UNet2DModel(
            sample_size=16,
            block_out_channels=(8, 16, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=8,
            norm_num_groups=4,
        )

    @staticmethod
    def _check(model: nn.Module) -> None:
        blocks = [*model.down_blocks, *model.up_blocks, *([] if model.mid_block is None else [model.mid_block])]
        strange = sorted({type(block).__name__ for block in blocks} - DECLARED_BLOCKS)
        if strange:
            raise UnsupportedModelError(
                f"UNet2DModel with {', '.join(strange)} is not supported; its blocks may be "
                f"{', '.join(sorted(DECLARED_BLOCKS))}"
            )

    @staticmethod
    def _middle(builder: GraphBuilder, block: nn.Module, hidden: Value, level: int) -> Value:
        hidden = builder.site("mid_block.resnets.0", "resnet", hidden | FRESH, level)
        for layer, attention in enumerate(block.attentions):
            if attention is not None:
                hidden = builder.site(f"mid_block.attentions.{layer}", "attention", hidden, level)
            hidden = builder.site(f"mid_block.resnets.{layer + 1}", "resnet", hidden | FRESH, level)
        return hidden


def _layers(block: nn.Module) -> Iterable[tuple[int, nn.Module | None]]:
    attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
    yield from enumerate(attentions)


def _sampler(builder: GraphBuilder, name: str, module: nn.Module, hidden: Value, level: int) -> Value:
    """A convolution, or a resnet that changes the resolution and reads the timestep embedding."""
    if hasattr(module, "time_emb_proj"):
        return builder.site(name, "resnet", hidden | FRESH, level)
    return builder.site(name, "sampler", hidden, level)
