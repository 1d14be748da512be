"""SD3Transformer2DModel: Stable Diffusion 3 and 3.5. Sites: attention and feed-forward of both streams of a block.

The joint attention has two results, one for the image and one for the text. What is added to the text reaches the
image through later attention only, so that it is dead where that is held: the traced graph says so.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from stepmask.graph import Site
from stepmask.inspection.architecture import Architecture
from stepmask.inspection.inputs import noise
from stepmask.inspection.registry import register
from stepmask.inspection.sites import find_sites

TEXT_TOKENS = 333


@register("SD3Transformer2DModel")
class SD3(Architecture):
    """Blocks with a second attention for the image alone (3.5 medium) have attn2 too."""

    patterns = {"transformer_blocks.*.attn": "attention", "transformer_blocks.*.ff": "mlp"}

    def sites(self, model: nn.Module) -> tuple[Site, ...]:
        """With attn2 and ff_context in the blocks that have them."""
        patterns = dict(self.patterns)
        for index, block in enumerate(model.transformer_blocks):
            name = f"transformer_blocks.{index}"
            if getattr(block, "attn2", None) is not None:
                patterns[f"{name}.attn2"] = "attention"
            if getattr(block, "ff_context", None) is not None:
                patterns[f"{name}.ff_context"] = "mlp"
        return find_sites(model, patterns)

    def example_inputs(self, model: nn.Module, batch_size: int = 1) -> dict[str, Any]:
        """The inputs are latents (N, C, H, W) of the configured size and the tokens (N, L, D) of CLIP and T5."""
        config = model.config
        return noise(
            model,
            batch_size,
            hidden_states=(config.in_channels, config.sample_size, config.sample_size),
            encoder_hidden_states=(TEXT_TOKENS, config.joint_attention_dim),
            pooled_projections=(config.pooled_projection_dim,),
        )
