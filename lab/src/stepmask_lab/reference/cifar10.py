"""CIFAR-10 as one array in memory, from a folder or a tar archive of images.

Knows only the image-folder form ``train/<class>/NNNN.jpg``; it downloads nothing.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from stepmask.errors import StepMaskError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def _files(source: Path, split: str) -> Iterator[tuple[str, bytes]]:
    """Yield (class name, encoded image) of one split."""
    if source.is_dir():
        for path in sorted((source / split).glob("*/*.*")):
            yield path.parent.name, path.read_bytes()
        return
    try:
        with tarfile.open(source) as archive:
            for member in archive:
                parts = Path(member.name).parts
                if member.isfile() and len(parts) >= 3 and parts[-3] == split:
                    yield parts[-2], archive.extractfile(member).read()
    except tarfile.TarError as error:
        raise StepMaskError(f"{source} is no tar archive, or cut short ({type(error).__name__})") from error


def load_cifar10(source: str | Path, split: str = "train") -> tuple[np.ndarray, np.ndarray]:
    """Read one split of CIFAR-10.

    Args:
        source: Folder or (compressed) tar archive that holds ``<split>/<class>/*.jpg``.
        split: ``"train"`` (50,000 images) or ``"test"`` (10,000).

    Returns:
        Images (N, 3, 32, 32) uint8 and labels (N,) int64, labels numbered as in `CLASSES`.

    Raises:
        StepMaskError: There is no such source, or no image of a known class in it.
    """
    source = Path(source)
    if not source.exists():
        raise StepMaskError(f"no CIFAR-10 at {source}: give a folder or tar archive with {split}/<class>/*.jpg")
    number = {name: i for i, name in enumerate(CLASSES)}
    images, labels = [], []
    for name, data in _files(source, split):
        if name in number:
            images.append(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
            labels.append(number[name])
    if not images:
        raise StepMaskError(f"{source} holds no images under {split}/<class>/, with classes named {', '.join(CLASSES)}")
    return np.stack(images).transpose(0, 3, 1, 2), np.asarray(labels)
