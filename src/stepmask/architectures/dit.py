"""DiTTransformer2DModel. Sites: attn1 and ff of every block; both are branches, added to the residual stream."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from stepmask.architectures._registry import Architecture, register
from stepmask.graph import BlockGraph, Site


@register("DiTTransformer2DModel")
class DiT(Architecture):
    """The value cached is the branch before its gate, so that the gate stays that of the current step."""

    step_inputs = ("hidden_states", "timestep")

    def describe(self, model: nn.Module) -> BlockGraph:
        """attn1, ff, attn1, ff, ..."""
        sites = []
        for index in range(len(model.transformer_blocks)):
            sites.append(Site(f"transformer_blocks.{index}.attn1", "attention"))
            sites.append(Site(f"transformer_blocks.{index}.ff", "mlp"))
        return BlockGraph.branches(sites)

    def feeders(self, model: nn.Module) -> dict[str, tuple[str, ...]]:
        """The layer norms; what modulates them also makes the gates, which are needed at every step."""
        feeders = {}
        for index in range(len(model.transformer_blocks)):
            name = f"transformer_blocks.{index}"
            feeders |= {f"{name}.attn1": (f"{name}.norm1.norm",), f"{name}.ff": (f"{name}.norm3",)}
        return feeders

    def example_inputs(self, model: nn.Module, batch_size: int = 1) -> dict[str, Any]:
        """Latents of the configured size, timesteps and labels."""
        parameter = next(model.parameters())
        size, options = model.config.sample_size, {"device": parameter.device}
        shape = (batch_size, model.config.in_channels, size, size)
        return {
            "hidden_states": torch.randn(shape, dtype=parameter.dtype, **options),
            "timestep": torch.full((batch_size,), 500, **options),
            "class_labels": torch.zeros(batch_size, dtype=torch.long, **options),
        }

    def used_output(self, model: nn.Module, output: Tensor) -> Tensor:
        """The noise; a learned variance in the second half of the channels is left out."""
        channels = model.config.in_channels
        return output[:, :channels] if output.shape[1] == 2 * channels else output

    def tiny(self) -> nn.Module:
        """Three blocks, learned variance as in DiT-XL/2."""
        from diffusers import DiTTransformer2DModel

        return DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=3,
            in_channels=4,
            out_channels=8,
            sample_size=8,
            patch_size=2,
            num_embeds_ada_norm=1000,
            activation_fn="gelu-approximate",
        )
