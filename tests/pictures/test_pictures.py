"""Image grids: every pixel as it was made."""

import numpy as np
import pytest
import torch
from PIL import Image

from stepmask import StepMaskError, pictures
from stepmask.pictures.image_sheets import GAP, MARGIN, to_pixels


def images(count=3, size=32, channels=3):
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(0))


def test_small_images_are_enlarged_by_a_whole_factor():
    batch = images(4)
    sheet = np.asarray(pictures.tiles(batch))
    assert pictures.tiles(images(1, 128)).size == (128, 128), "large ones keep their size"
    assert to_pixels(images(channels=1)).shape == to_pixels(images(channels=4)).shape == (3, 32, 32, 3)
    assert sheet.shape == (2 * 96 + GAP, 2 * 96 + GAP, 3)
    for i in range(4):
        top, left = (i // 2) * (96 + GAP), (i % 2) * (96 + GAP)
        tile = sheet[top : top + 96, left : left + 96]
        assert (tile[::3, ::3] == to_pixels(batch)[i]).all() and (tile[1::3, 2::3] == tile[::3, ::3]).all()


def test_halves_show_the_same_images_in_the_same_place():
    batch = images(3)
    sheet = np.asarray(pictures.side_by_side(batch, 1 - batch, ("full", "masked"), ("50 steps", "a note")))
    top = MARGIN + 52
    width = 2 * 96 + GAP
    left, right = sheet[top:-MARGIN, MARGIN:][:, :width], sheet[top:-MARGIN, 2 * MARGIN + width :][:, :width]
    assert (left == np.asarray(pictures.tiles(batch))).all()
    assert (right == np.asarray(pictures.tiles(1 - batch))).all()


def test_long_captions_widen_the_halves():
    short = pictures.side_by_side(images(1), images(1))
    long = pictures.side_by_side(images(1), images(1), notes=("a much longer note than the picture is wide", ""))
    assert long.width > short.width


def test_what_are_no_images_is_refused():
    with pytest.raises(StepMaskError, match="N, C, H, W"):
        pictures.tiles(torch.rand(3, 32, 32))
    with pytest.raises(StepMaskError, match="same shape"):
        pictures.side_by_side(images(4), images(2))


def test_an_animation_keeps_every_pixel(tmp_path):
    frames = [Image.fromarray(pixels) for pixels in to_pixels(images(3, 16))]
    with Image.open(pictures.save_animation(frames, tmp_path / "video.webp")) as video:
        assert video.n_frames == 3
        for i, frame in enumerate(frames):
            video.seek(i)
            assert (np.asarray(video.convert("RGB")) == np.asarray(frame)).all()
