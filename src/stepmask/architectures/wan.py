"""WanTransformer3DModel: text and image to video. Sites: attn1, attn2 and ffn of every block, all of them branches."""

from __future__ import annotations

from typing import Any

from torch import nn

from stepmask.graph import BlockGraph
from stepmask.inspection.architecture import Architecture
from stepmask.inspection.inputs import noise
from stepmask.inspection.registry import register


@register("WanTransformer3DModel")
class Wan(Architecture):
    """In a pipeline with two transformers (Wan 2.2) a row of the mask belongs to the one that runs at that step."""

    patterns = {
        "blocks.*.attn1": "attention",
        "blocks.*.attn2": "cross_attention",
        "blocks.*.ffn": "mlp",
    }

    def graph(self, model: nn.Module) -> BlockGraph:
        """attn1, attn2, ffn, attn1, attn2, ffn, ..."""
        return BlockGraph.branches(self.sites(model))

    def example_inputs(
        self, model: nn.Module, batch_size: int = 1, video: tuple[int, int, int] = (2, 8, 8), tokens: int = 6
    ) -> dict[str, Any]:
        """The inputs are latents (N, C, frames, height, width) of size `video` and text (N, tokens, D)."""
        config = model.config
        inputs = noise(
            model,
            batch_size,
            hidden_states=(config.in_channels, *video),
            encoder_hidden_states=(tokens, config.text_dim),
        )
        if config.image_dim is not None:
            image = inputs["hidden_states"].new_zeros(batch_size, 257, config.image_dim)
            inputs["encoder_hidden_states_image"] = image
        return inputs
