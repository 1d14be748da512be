"""PixArtTransformer2DModel. Sites: attn1, attn2 and ff of every block, branches of the residual stream."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from stepmask.graph import BlockGraph
from stepmask.inspection.architecture import Architecture
from stepmask.inspection.inputs import noise
from stepmask.inspection.registry import register

TEXT_TOKENS = 300


@register("PixArtTransformer2DModel")
class PixArt(Architecture):
    """The value cached is the branch before its gate, so that the gate stays that of the current step."""

    patterns = {
        "transformer_blocks.*.attn1": "attention",
        "transformer_blocks.*.attn2": "cross_attention",
        "transformer_blocks.*.ff": "mlp",
    }
    feeding = {"attn1": ("norm1",), "ff": ("norm2",)}

    def graph(self, model: nn.Module) -> BlockGraph:
        """attn1, attn2, ff, attn1, attn2, ff, ..."""
        return BlockGraph.branches(self.sites(model))

    def example_inputs(self, model: nn.Module, batch_size: int = 1) -> dict[str, Any]:
        """The inputs are latents (N, C, H, W) of the configured size and a text (N, 300, D)."""
        config = model.config
        inputs = noise(
            model,
            batch_size,
            hidden_states=(config.in_channels, config.sample_size, config.sample_size),
            encoder_hidden_states=(TEXT_TOKENS, config.caption_channels),
        )
        like, added = inputs["hidden_states"], {"resolution": None, "aspect_ratio": None}
        if model.use_additional_conditions:  # PixArt-alpha at 1024
            added = {"resolution": like.new_ones(batch_size, 2), "aspect_ratio": like.new_ones(batch_size, 1)}
        return inputs | {"added_cond_kwargs": added}

    def used_output(self, model: nn.Module, output: Tensor) -> Tensor:
        """The noise; a learned variance in the second half of the channels is left out."""
        channels = model.config.in_channels
        return output[:, :channels] if output.shape[1] == 2 * channels else output
