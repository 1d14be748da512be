"""A small CIFAR-10 classifier whose features scores of image sets are computed on, where Inception's are not at hand.

Scores on these features say how near images are to CIFAR-10; they are no FID and are never called so. Precision is weak
on them: what the classifier cannot tell, noise even, lies amid the real images, and only the other scores, recall among
them, fall. Training is in `train_classifier`, the scores in `stepmask.evaluation`, which knows just its call.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from stepmask.errors import StepMaskError
from stepmask_lab.reference.cifar10 import CLASSES

FOLDER = Path(__file__).parent / "weights" / "classifier-cifar10"
WEIGHTS, STATISTICS, RECORD = "classifier.safetensors", "statistics.safetensors", "classifier.json"

SIZE = 32
"""Pixels; images of other sizes are resized."""
SPATIAL_CHANNELS = 4
"""Channels of the middle block that are kept with their places, as sFID keeps 7 of Inception's."""
WIDTHS = (32, 96, 128)
_MEAN, _STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class Block(nn.Module):
    """Two convolutions, half the size after the first."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)

    def forward(self, values: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H // 2, W // 2)."""
        values = torch.relu(self.first_norm(nn.functional.max_pool2d(self.first(values), 2)))
        return torch.relu(self.second_norm(self.second(values)))


class Classifier(nn.Module):
    """Three blocks behind a fixed layer that whitens patches of 2 x 2 pixels.

    Args:
        widths: Channels of the blocks; the last is the length of the features.

    Attributes:
        name: What scores on its features are called after.
        statistics: File with the statistics of CIFAR-10 under these features, or None.
    """

    name = "cifar"

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.statistics: Path | None = None
        self.whiten = nn.Conv2d(3, 24, 2, bias=False).requires_grad_(False)
        self.blocks = nn.ModuleList(Block(*pair) for pair in zip((24, *widths), widths, strict=False))
        self.head = nn.Linear(widths[-1], len(CLASSES))
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """What the classifier sees in images.

        Args:
            images: (N, 3, H, W) in [0, 1].

        Returns:
            ``features`` (N, D) before the last layer, ``spatial`` (N, D') of the middle block, where places count,
            and ``logits`` (N, 10).

        Raises:
            StepMaskError: The images have another shape.
        """
        if images.dim() != 4 or images.shape[1] != 3:
            raise StepMaskError(f"the classifier takes images of the shape (N, 3, H, W), got {tuple(images.shape)}")
        if images.shape[-2:] != (SIZE, SIZE):
            images = nn.functional.interpolate(images, (SIZE, SIZE), mode="bilinear", antialias=True)
        values = torch.relu(self.whiten((images - self.mean) / self.std))
        spatial = values
        for i, block in enumerate(self.blocks):
            values = block(values)
            spatial = values[:, :SPATIAL_CHANNELS] if i == len(self.blocks) - 2 else spatial
        features = values.amax((2, 3))
        return {"features": features, "spatial": spatial.flatten(1), "logits": self.head(features)}

    @torch.no_grad()
    def fit_whitening(self, images: Tensor, epsilon: float = 0.1) -> None:
        """Set the first layer: eigenvectors of the patches of images (N, 3, H, W) in [0, 1], and their negatives.

        Args:
            images: Of the train split.
            epsilon: Added to the eigenvalues. A small one blows up what photographs hardly have, fine detail in
                colour above all, and scores would then tell how much like JPEG files images are.
        """
        patches = nn.functional.unfold((images - self.mean) / self.std, 2).transpose(1, 2).reshape(-1, 12)
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (vectors / (values + epsilon).sqrt()).T.reshape(12, 3, 2, 2)
        self.whiten.weight.copy_(torch.cat([filters, -filters]))


def load_classifier(folder: str | Path | None = None) -> Classifier:
    """The classifier that comes with the package, or one of your own training, ready to extract features.

    Args:
        folder: Output of `train_classifier`; None is the package's.

    Raises:
        StepMaskError: There are no weights in the folder.
    """
    folder = FOLDER if folder is None else Path(folder)
    if not (folder / WEIGHTS).exists():
        raise StepMaskError(
            f"no classifier in {folder}: train one with python -m stepmask_lab.reference.train_classifier "
            f"--data CIFAR10 --output {folder} --hours 1"
        )
    state = load_file(folder / WEIGHTS)
    widths = tuple(len(state[f"blocks.{i}.first.weight"]) for i in range(sum("first.weight" in key for key in state)))
    model = Classifier(widths)
    model.load_state_dict(state)
    if (folder / STATISTICS).exists():
        model.statistics = folder / STATISTICS
    return model.eval().requires_grad_(False)
