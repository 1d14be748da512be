"""UNet2DModel: the unconditional U-Net of DDPM. Sites: ResnetBlock2D, Attention, samplers; all hold states."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from stepmask.architectures._unets import UNet
from stepmask.inspection.inputs import height_and_width, noise
from stepmask.inspection.registry import register


@register("UNet2DModel")
class UNet2D(UNet):
    """Class labels, where it has them, go the way of the timestep."""

    declared_blocks = frozenset({"DownBlock2D", "AttnDownBlock2D", "UpBlock2D", "AttnUpBlock2D", "UNetMidBlock2D"})

    def example_inputs(self, model: nn.Module, batch_size: int = 1) -> dict[str, Any]:
        """A sample of the configured size, and labels where the model wants them."""
        config = model.config
        inputs = noise(model, batch_size, sample=(config.in_channels, *height_and_width(config.sample_size or 32)))
        if config.num_class_embeds is not None:
            inputs["class_labels"] = torch.zeros(batch_size, dtype=torch.long, device=inputs["sample"].device)
        return inputs
