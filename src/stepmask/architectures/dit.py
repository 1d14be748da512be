"""DiTTransformer2DModel. Sites: attn1 and ff of every block; both are branches, added to the residual stream."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from stepmask.graph import BlockGraph
from stepmask.inspection.architecture import Architecture
from stepmask.inspection.inputs import noise
from stepmask.inspection.registry import register


@register("DiTTransformer2DModel")
class DiT(Architecture):
    """The cached value is the branch before its gate, so that the gate stays that of the current step."""

    patterns = {"transformer_blocks.*.attn1": "attention", "transformer_blocks.*.ff": "mlp"}
    # what modulates the norms also makes the gates, which are needed at every step
    feeding = {"attn1": ("norm1.norm",), "ff": ("norm3",)}

    def graph(self, model: nn.Module) -> BlockGraph:
        """Every value is a branch: attn1, ff, attn1, ff, ... in the order of the blocks."""
        return BlockGraph.branches(self.sites(model))

    def example_inputs(self, model: nn.Module, batch_size: int = 1) -> dict[str, Any]:
        """The inputs are latents (N, C, H, W) of the configured size, timesteps (N,) and labels (N,)."""
        config = model.config
        inputs = noise(model, batch_size, hidden_states=(config.in_channels, config.sample_size, config.sample_size))
        labels = torch.zeros(batch_size, dtype=torch.long, device=inputs["timestep"].device)
        return inputs | {"class_labels": labels}

    def used_output(self, model: nn.Module, output: Tensor) -> Tensor:
        """The noise; a learned variance in the second half of the channels is left out."""
        channels = model.config.in_channels
        return output[:, :channels] if output.shape[1] == 2 * channels else output
