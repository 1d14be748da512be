"""The pruner: a small network over one learned query per cell; thrown away once the mask is made."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTH, HEADS, LAYERS = 32, 4, 2

FIRST_LOGIT = 2.0
"""Gates begin nearly open: sigmoid(2) is 0.88."""


class Pruner(nn.Module):
    """Predicts the gates of all cells together, so that what is learned of one says something of others.

    Args:
        num_cells: Number of gates.
    """

    def __init__(self, num_cells: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, num_cells, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, 1)
        nn.init.constant_(self.head.bias, FIRST_LOGIT)

    def forward(self) -> Tensor:
        """(num_cells,) gates in (0, 1)."""
        return self.head(self.layers(self.queries)).flatten().sigmoid()
