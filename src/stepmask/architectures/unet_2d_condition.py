"""UNet2DConditionModel: Stable Diffusion, SDXL, LDM. Sites: ResnetBlock2D, Transformer2DModel, samplers.

All hold states. The attention and feed-forward layers within the transformers are sites on request:
``register_sites(pipe, ["**.resnets.*", "**.attn1", "**.attn2", "**.ff", "**.downsamplers.*", "**.upsamplers.*"])``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from stepmask.architectures._unets import UNet
from stepmask.graph import BlockGraph
from stepmask.inspection.inputs import height_and_width, noise
from stepmask.inspection.registry import register


@register("UNet2DConditionModel")
class UNet2DCondition(UNet):
    """The text does not change from step to step; what a ControlNet adds reaches only sites that read the timestep."""

    declared_blocks = frozenset(
        {"DownBlock2D", "CrossAttnDownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"}
        | {"UNetMidBlock2DCrossAttn", "UNetMidBlock2D"}
    )

    def graph(self, model: nn.Module) -> BlockGraph:
        """The declared graph, with the values that are written into in place.

        A T2I-Adapter adds to the values of encoder blocks and of the middle. FreeU, where it is on, scales what a
        decoder's layer reads.
        """
        graph = super().graph(model)
        blocks = [
            ".".join(name.split(".")[:2]) if name.startswith("down") else name.split(".")[0] for name in graph.names
        ]
        last = {block: i for i, block in enumerate(blocks)}
        rewritten = {i for block, i in last.items() if block != "up_blocks"}
        if any(getattr(block, "b1", None) for block in model.up_blocks):
            rewritten |= {i for i, block in enumerate(blocks) if block == "up_blocks"}
        return replace(graph, rewritten=frozenset(rewritten))

    def example_inputs(self, model: nn.Module, batch_size: int = 1, tokens: int = 77) -> dict[str, Any]:
        """A sample of the configured size, text tokens, and what the configuration adds to them."""
        config = model.config
        width = config.cross_attention_dim
        width = config.encoder_hid_dim or (width if isinstance(width, int) else width[0])
        shapes = {
            "sample": (config.in_channels, *height_and_width(config.sample_size or 64)),
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
