"""The image-folder reader, on tiny made folders and archives."""

import tarfile

import numpy as np
import pytest
from PIL import Image

from refusal import check_refused
from stepmask_lab.reference.cifar10 import CLASSES, load_cifar10


@pytest.fixture
def folder(tmp_path):
    """Two images of each of three classes in train, one in test, and things that are none of ours."""
    root = tmp_path / "cifar10"
    for split, count in (("train", 2), ("test", 1)):
        for number in (0, 3, 9):
            where = root / split / CLASSES[number]
            where.mkdir(parents=True)
            for i in range(count):
                pixels = np.full((32, 32, 3), (20 * number, 100 * i, 7), dtype=np.uint8)
                Image.fromarray(pixels).save(where / f"{i:04}.png")
    (root / "train" / "unicorn").mkdir()
    Image.new("RGB", (32, 32)).save(root / "train" / "unicorn" / "0000.png")
    (root / "README.md").write_text("not an image")
    return root


def archive(folder, suffix: str):
    path = folder.parent / f"cifar10{suffix}"
    with tarfile.open(path, "w:gz" if suffix.endswith("gz") else "w") as file:
        file.add(folder, arcname="some/where")
    return path


def assert_loaded(images, labels, count):
    assert images.shape == (3 * count, 3, 32, 32) and images.dtype == np.uint8
    assert labels.dtype == np.int64 and sorted(labels.tolist()) == sorted([0, 3, 9] * count)
    for image, label in zip(images, labels, strict=True):
        assert (image[0] == 20 * label).all() and (image[2] == 7).all(), "channels first, labels by class name"


@pytest.mark.parametrize(("split", "count"), [("train", 2), ("test", 1)])
def test_folders_and_archives(folder, split, count):
    assert_loaded(*load_cifar10(folder, split), count)
    assert_loaded(*load_cifar10(str(archive(folder, ".tar")), split), count)
    assert_loaded(*load_cifar10(archive(folder, ".tar.gz"), split), count)


def test_what_is_not_there(folder, tmp_path):
    check_refused(r"no CIFAR-10 at .*nowhere", load_cifar10, tmp_path / "nowhere")
    check_refused(r"holds no images under validation/<class>/.*airplane", load_cifar10, folder, "validation")


def test_a_file_that_is_no_archive(tmp_path):
    (tmp_path / "data.tar").write_text("not an archive")
    check_refused(r"data\.tar", load_cifar10, tmp_path / "data.tar")
