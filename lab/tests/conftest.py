"""Fixtures for tests of the laboratory."""

import numpy as np
import pytest
from PIL import Image

from stepmask_lab.reference.cifar10 import CLASSES


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A folder like that of CIFAR-10, with 64 images of 16 x 16 pixels."""
    root = tmp_path_factory.mktemp("cifar10")
    random = np.random.default_rng(0)
    for i in range(64):
        where = root / "train" / CLASSES[i % 10]
        where.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(where / f"{i:04}.png")
    return root
