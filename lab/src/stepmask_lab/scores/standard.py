"""The Inception network of FID, from torch-fidelity, as an extractor: scores on it have the names that papers use."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from stepmask_lab.scores._weights import loaded, need

SPATIAL_CHANNELS = 7
"""Of 17 x 17 places, as sFID takes them (Nash et al. 2021): 2023 features."""


class InceptionFeatures(nn.Module):
    """torch-fidelity's InceptionV3 behind the call of an extractor.

    Args:
        network: A ``FeatureExtractorInceptionV3`` with the features "2048" and "logits_unbiased".
    """

    name = "inception"
    standard = True

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._spatial = torch.empty(0)
        network.Mixed_6d.branch1x1.register_forward_hook(self._keep)

    def _keep(self, _module: nn.Module, _inputs: tuple, output: Tensor) -> None:
        # places before channels, the order of guided-diffusion's reference statistics
        self._spatial = output[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Features (N, 2048), spatial (N, 2023) and logits (N, 1008) of images (N, 3, H, W) in [0, 1]."""
        features, logits = self.network((images * 255).round().clamp(0, 255).to(torch.uint8))
        return {"features": features, "spatial": self._spatial, "logits": logits}


def standard_features(weights: str | Path | None = None) -> InceptionFeatures:
    """The network that FID, sFID, IS and KID are defined by.

    Args:
        weights: torch-fidelity's file of weights; None downloads it on first use.

    Raises:
        StepMaskError: torch-fidelity is not installed, or the weights cannot be read.
    """
    need("FID and its kin", "torch_fidelity")
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    file = None if weights is None else str(weights)
    features = ["2048", "logits_unbiased"]
    network = loaded("FID", lambda: FeatureExtractorInceptionV3("inception-v3-compat", features, file))
    return InceptionFeatures(network).eval()
