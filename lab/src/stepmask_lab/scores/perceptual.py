"""LPIPS and CLIP score, image by image, on their standard networks: adapters around torchmetrics and transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from stepmask.errors import StepMaskError
from stepmask_lab.scores._weights import loaded, need

CLIP_MODEL = "openai/clip-vit-base-patch16"
"""What CLIP scores of papers mostly are of; scores of another model are other scores."""

Distance = Callable[[Tensor, Tensor], Tensor]
"""Takes two batches of images (N, 3, H, W) in [-1, 1]; returns N distances."""


def lpips_network(backbone: str = "alex") -> Distance:
    """The learned perceptual distance of Zhang et al. 2018, from torchmetrics, on torchvision's weights.

    Args:
        backbone: "alex", which papers take to compare images; "vgg" or "squeeze".

    Raises:
        StepMaskError: torchvision is not installed, or the weights cannot be downloaded.
    """
    need("LPIPS", "torchvision")
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    return loaded("LPIPS", lambda: LearnedPerceptualImagePatchSimilarity(net_type=backbone).net)


@torch.no_grad()
def lpips_per_image(images: Tensor, reference: Tensor, network: Distance, batch_size: int = 64) -> Tensor:
    """Perceptual distance of each image to the one that it should have been; 0 is the same.

    Args:
        images: (N, 3, H, W) in [0, 1], at least 32 pixels wide and high for AlexNet.
        reference: The same shape.
        network: As `lpips_network` gives.
        batch_size: Images at once.

    Returns:
        (N,) float32.
    """
    if images.shape != reference.shape or images.dim() != 4 or images.shape[1] != 3:
        raise StepMaskError(
            f"LPIPS compares images of one shape (N, 3, H, W), got {tuple(images.shape)} and {tuple(reference.shape)}"
        )
    pairs = zip(images.split(batch_size), reference.split(batch_size), strict=True)
    return torch.cat([network(2 * one - 1, 2 * other - 1).reshape(-1).float().cpu() for one, other in pairs])


def clip_network(name: str = CLIP_MODEL) -> tuple[Any, Any]:
    """A CLIP model and its processor, from the Hugging Face hub or a folder.

    Raises:
        StepMaskError: transformers is not installed, or there is no such model.
    """
    need("CLIP score", "transformers")
    from transformers import CLIPModel, CLIPProcessor

    load = lambda: (CLIPModel.from_pretrained(name).eval(), CLIPProcessor.from_pretrained(name))  # noqa: E731
    return loaded("CLIP score", load)


@torch.no_grad()
def clip_score_per_image(
    images: Tensor, prompts: Sequence[str], model: Any, processor: Any, batch_size: int = 64
) -> Tensor:
    """100 times the cosine of image and prompt in CLIP's space, at least 0 (Hessel et al. 2021 without their 2.5).

    Args:
        images: (N, 3, H, W) in [0, 1].
        prompts: One per image; what is beyond CLIP's length of text is cut off.
        model: As `clip_network` gives.
        processor: Likewise.
        batch_size: Images at once.

    Returns:
        (N,) float32.
    """
    if len(prompts) != len(images) or images.dim() != 4 or images.shape[1] != 3:
        raise StepMaskError(
            f"CLIP score needs images (N, 3, H, W) and a prompt for each, got {tuple(images.shape)} and {len(prompts)}"
        )
    device, scores = next(model.parameters()).device, []
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        pixels = (images[part] * 255).round().clamp(0, 255).to(torch.uint8)
        inputs = processor(
            text=list(prompts[part]),
            images=list(pixels),
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=model.config.text_config.max_position_embeddings,
        ).to(device)
        found = model(**inputs)
        scores.append(torch.cosine_similarity(found.image_embeds, found.text_embeds).float().cpu())
    return 100 * torch.cat(scores).clamp(min=0)
