"""What the reference models are trained to do: predict noise, or rebuild images."""

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


def noise_prediction_loss(scheduler: Any, snr_cap: float = 5.0) -> Loss:
    """Mean squared error of the predicted noise, weighted by min(SNR, cap) / SNR (Hang et al. 2023).

    The model predicts noise from noisy samples, timesteps and labels, as those of `conditioning` do.
    """

    def loss(model: nn.Module, x: Tensor, label: Tensor) -> Tensor:
        noise = torch.randn_like(x)
        timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (len(x),), device=x.device)
        predicted = model(scheduler.add_noise(x, noise, timesteps), timesteps, label).float()
        snr = compute_snr(scheduler, timesteps)
        weight = snr.clamp(max=snr_cap) / snr
        return (weight * (predicted - noise).square().mean(dim=(1, 2, 3))).mean()

    return loss


def reconstruction_loss(model: AutoencoderKL, x: Tensor, label: Tensor) -> Tensor:
    """Mean absolute and squared error of the decoded image plus a slight pull towards a unit Gaussian."""
    inner = getattr(model, "module", model)
    posterior = inner.encode(x).latent_dist
    decoded = inner.decode(posterior.sample()).sample.float()
    return F.l1_loss(decoded, x) + F.mse_loss(decoded, x) + 1e-4 * posterior.kl().mean() / posterior.mean[0].numel()
