"""U-Nets of diffusers: encoder, middle, decoder, and the skips between them. All sites hold states.

The attention and feed-forward layers within the transformers of Stable Diffusion are sites on request:
``register_sites(pipe, ["**.resnets.*", "**.attn1", "**.attn2", "**.ff", "**.downsamplers.*", "**.upsamplers.*"])``.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import nn

from stepmask.errors import UnsupportedModelError
from stepmask.graph import BlockGraph, Kind, Site
from stepmask.inspection.architecture import Architecture
from stepmask.inspection.inputs import noise
from stepmask.inspection.registry import register
from stepmask.inspection.sites import find_sites, kind_of


class UNet(Architecture):
    """The innermost sites are resnets, what follows them (attention or a transformer), and samplers.

    The decoder also reads every state of the encoder, so blocks of the encoder rest layer by layer alone.
    """

    step_inputs = ("sample", "timestep")
    declared_blocks: ClassVar[frozenset[str]]
    """Classes of blocks that run their layers in the order assumed here."""

    def sites(self, model: nn.Module) -> tuple[Site, ...]:
        """Every layer of every block; raises UnsupportedModelError for blocks of other classes."""
        strange = self._strange_blocks(model)
        if strange:
            raise UnsupportedModelError(
                f"{self.class_name} with {', '.join(strange)} is not supported as such; its blocks may be "
                f"{', '.join(sorted(self.declared_blocks))}. Of any other give the pipeline, which shows what it is "
                "called with, or call stepmask.register_sites(model, sites=[patterns], example_inputs={...}) first"
            )
        layers = (
            name
            for name, _ in model.named_modules()
            if re.fullmatch(r"(.+_blocks\.\d+|mid_block)\.(resnets|attentions|downsamplers|upsamplers)\.\d+", name)
        )
        return find_sites(model, {name: _kind(name, model.get_submodule(name)) for name in layers})

    def knows(self, model: nn.Module) -> bool:
        """Whether all of its blocks are declared: those of DeepFloyd and Kandinsky are not."""
        return not self._strange_blocks(model)

    def _strange_blocks(self, model: nn.Module) -> list[str]:
        blocks = [*model.down_blocks, *model.up_blocks, *([] if model.mid_block is None else [model.mid_block])]
        return sorted({type(block).__name__ for block in blocks} - self.declared_blocks)


@register("UNet2DModel")
class UNet2D(UNet):
    """The unconditional U-Net of DDPM. Class labels, where it has them, go the way of the timestep."""

    declared_blocks = frozenset({"DownBlock2D", "AttnDownBlock2D", "UpBlock2D", "AttnUpBlock2D", "UNetMidBlock2D"})

    def example_inputs(self, model: nn.Module, batch_size: int = 1) -> dict[str, Any]:
        """A sample of the configured size, and labels where the model wants them."""
        config = model.config
        inputs = noise(model, batch_size, sample=(config.in_channels, *_height_and_width(config.sample_size or 32)))
        if config.num_class_embeds is not None:
            inputs["class_labels"] = torch.zeros(batch_size, dtype=torch.long, device=inputs["sample"].device)
        return inputs


@register("UNet2DConditionModel")
class UNet2DCondition(UNet):
    """Stable Diffusion, SDXL, LDM.

    The text does not change from step to step; what a ControlNet adds reaches only sites that read the timestep.
    """

    declared_blocks = frozenset(
        {"DownBlock2D", "CrossAttnDownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"}
        | {"UNetMidBlock2DCrossAttn", "UNetMidBlock2D"}
    )

    def graph(self, model: nn.Module) -> BlockGraph:
        """The traced graph, with the values that are written into in place.

        A T2I-Adapter adds to the values of encoder blocks and of the middle. FreeU, where it is on, scales what a
        decoder's layer reads.
        """
        graph = super().graph(model)
        parts = [name.split(".") for name in graph.names]
        blocks = [".".join(part[: 2 if part[0] == "down_blocks" else 1]) for part in parts]
        last = {block: i for i, block in enumerate(blocks) if i not in graph.within}
        rewritten = {i for block, i in last.items() if block != "up_blocks"}
        rewritten |= {i for i in graph.within if not graph.names[i].startswith("up_blocks")}
        if any(getattr(block, "b1", None) for block in model.up_blocks):
            rewritten |= {i for i, block in enumerate(blocks) if block == "up_blocks"}
        return replace(graph, rewritten=frozenset(rewritten))

    def example_inputs(self, model: nn.Module, batch_size: int = 1, tokens: int = 77) -> dict[str, Any]:
        """A sample of the configured size, text tokens, and what the configuration adds to them."""
        config = model.config
        width = config.cross_attention_dim
        width = config.encoder_hid_dim or (width if isinstance(width, int) else width[0])
        shapes = {
            "sample": (config.in_channels, *_height_and_width(config.sample_size or 64)),
            "encoder_hidden_states": (tokens, width),
        }
        inputs = noise(model, batch_size, **shapes)
        like = inputs["sample"]
        if config.addition_embed_type == "text_time":  # SDXL
            text = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
            sizes = {"text_embeds": like.new_zeros(batch_size, text), "time_ids": like.new_zeros(batch_size, 6)}
            inputs["added_cond_kwargs"] = sizes
        if config.class_embed_type == "projection":
            inputs["class_labels"] = like.new_zeros(batch_size, config.projection_class_embeddings_input_dim)
        elif config.num_class_embeds is not None:
            inputs["class_labels"] = torch.zeros(batch_size, dtype=torch.long, device=like.device)
        return inputs


def _height_and_width(size: int | tuple[int, int]) -> tuple[int, int]:
    """A configured sample size as two numbers."""
    return (size, size) if isinstance(size, int) else tuple(size)


def _kind(name: str, module: nn.Module) -> Kind:
    """Samplers are convolutions, or resnets that change the resolution and read the timestep embedding."""
    if re.search(r"\.(down|up)samplers\.", name):
        return "resnet" if hasattr(module, "time_emb_proj") else "sampler"
    return "resnet" if ".resnets." in name else kind_of(name, module)
