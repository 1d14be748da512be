"""What the reference models are trained to do: remove noise, or rebuild images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.training_utils import compute_snr
from torch import Tensor, nn

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""From a model, samples (N, C, H, W) and labels (N,) to a scalar."""


def spread_timesteps(count: int, num_train_timesteps: int, device: torch.device) -> Tensor:
    """Timesteps for a batch, each uniform by itself, together spread evenly: losses vary less (Kingma et al. 2021)."""
    places = (torch.arange(count, device=device) / count + torch.rand(1, device=device)) % 1
    return (places * num_train_timesteps).long()


def denoising_loss(scheduler: Any, snr_cap: float = 5.0) -> Loss:
    """Mean squared error of the predicted noise or the predicted clean sample, whichever the scheduler expects.

    The noise's is weighted by min(SNR, cap) / SNR (Hang et al. 2023), the sample's by min(SNR + 1, cap), so that the
    step from pure noise, where SNR is 0, is learned too. The model predicts from noisy samples, timesteps and labels,
    as those of `conditioning` do.
    """
    clean = scheduler.config.prediction_type == "sample"

    def loss(model: nn.Module, x: Tensor, label: Tensor) -> Tensor:
        noise = torch.randn_like(x)
        timesteps = spread_timesteps(len(x), scheduler.config.num_train_timesteps, x.device)
        predicted = model(scheduler.add_noise(x, noise, timesteps), timesteps, label).float()
        snr = compute_snr(scheduler, timesteps)
        target, weight = (x, (snr + 1).clamp(max=snr_cap)) if clean else (noise, snr.clamp(max=snr_cap) / snr)
        return (weight * (predicted - target).square().mean(dim=(1, 2, 3))).mean()

    return loss


def reconstruction_loss(kl_weight: float = 1e-4) -> Loss:
    """Mean absolute and squared error of the decoded image plus a slight pull towards a unit Gaussian.

    Args:
        kl_weight: Of the pull, which is the divergence per number in the latents.
    """

    def loss(model: AutoencoderKL, x: Tensor, label: Tensor) -> Tensor:
        inner = getattr(model, "module", model)
        posterior = inner.encode(x).latent_dist
        decoded = inner.decode(posterior.sample()).sample.float()
        pull = posterior.kl().mean() / posterior.mean[0].numel()
        return F.l1_loss(decoded, x) + F.mse_loss(decoded, x) + kl_weight * pull

    return loss
