"""FluxTransformer2DModel and its kin (Chroma): blocks of two streams, then blocks of one.

Sites of a double block: attn, whose value is a tuple of image and text, ff and ff_context. Sites of a single block:
attn and proj_mlp, which proj_out alone reads, and proj_out, the branch of both; holding it rests the whole block.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from stepmask.inspection.architecture import Architecture
from stepmask.inspection.inputs import noise
from stepmask.inspection.registry import register


@register("FluxTransformer2DModel", "ChromaTransformer2DModel")
class Flux(Architecture):
    """What is added to the text reaches the image through later attention only, as the traced graph says."""

    patterns = {
        "transformer_blocks.*.attn": "attention",
        "transformer_blocks.*.ff": "mlp",
        "transformer_blocks.*.ff_context": "mlp",
        "single_transformer_blocks.*.attn": "attention",
        "single_transformer_blocks.*.proj_mlp": "mlp",
        "single_transformer_blocks.*.proj_out": "transformer",
    }

    def example_inputs(self, model: nn.Module, batch_size: int = 1, side: int = 4, tokens: int = 5) -> dict[str, Any]:
        """The inputs are packed latents (N, side * side, C) and text (N, tokens, D)."""
        config = model.config
        inputs = noise(
            model,
            batch_size,
            hidden_states=(side * side, config.in_channels),
            encoder_hidden_states=(tokens, config.joint_attention_dim),
        )
        like = inputs["hidden_states"]
        inputs |= {"img_ids": like.new_zeros(side * side, 3), "txt_ids": like.new_zeros(tokens, 3)}
        inputs["timestep"] = torch.full((batch_size,), 0.5, device=like.device, dtype=like.dtype)
        if hasattr(config, "pooled_projection_dim"):
            inputs["pooled_projections"] = like.new_zeros(batch_size, config.pooled_projection_dim)
        if getattr(config, "guidance_embeds", False):
            inputs["guidance"] = like.new_full((batch_size,), 3.5)
        return inputs
