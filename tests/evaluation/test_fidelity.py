"""PSNR and SSIM, image by image, against closed forms."""

import pytest
import torch

from stepmask import StepMaskError
from stepmask.evaluation.fidelity import PSNR_CAP, Spread, psnr_per_image, ssim_per_image


def pictures(count=3, size=16):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_psnr_of_a_constant_error_is_its_closed_form():
    reference = pictures() * 0.5
    error = torch.tensor([0.1, 0.01, 0.25]).view(3, 1, 1, 1)
    assert psnr_per_image(reference + error, reference).tolist() == pytest.approx([20.0, 40.0, 12.0412], abs=1e-3)


def test_identical_images_are_capped():
    images = pictures()
    assert psnr_per_image(images, images).tolist() == [PSNR_CAP] * 3
    assert ssim_per_image(images, images).tolist() == pytest.approx([1.0] * 3)


def test_ssim_falls_with_noise_and_needs_a_whole_window():
    images = pictures()
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    little, much = (ssim_per_image((images + s * noise).clamp(0, 1), images) for s in (0.02, 0.2))
    assert little.shape == (3,) and (little > much).all() and (little < 1).all()
    assert ssim_per_image(pictures(size=10), pictures(size=10)) is None


@pytest.mark.parametrize("shape", [(3, 3, 16, 20), (2, 9, 3, 16, 16)])
def test_ssim_in_parts_is_ssim_at_once(shape):
    """Of pictures, and of videos with more channels than are compared at once."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    reference = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    images = (reference + 0.1).clamp(0, 1)
    flat = [x.flatten(1, 2) if x.dim() == 5 else x for x in (images, reference)]
    at_once = structural_similarity_index_measure(*flat, data_range=1.0, reduction="none")
    torch.testing.assert_close(ssim_per_image(images, reference), at_once)


def test_spread():
    spread = Spread.of([1.0, 2.0, 3.0, 4.0])
    assert spread.to_dict() == pytest.approx({"mean": 2.5, "min": 1.0, "standard_error": 0.645497}, abs=1e-6)
    assert Spread.of([7.0]).standard_error == 0.0


@pytest.mark.parametrize(("images", "reference", "words"), [
    (pictures(2), pictures(3), "same seeds"),
    (pictures(2)[0], pictures(2)[0], r"\(N, C, H, W\)"),
    (pictures(2) * torch.nan, pictures(2), "NaN"),
])  # fmt: skip
def test_what_cannot_be_compared_is_refused(images, reference, words):
    with pytest.raises(StepMaskError, match=words):
        psnr_per_image(images, reference)
