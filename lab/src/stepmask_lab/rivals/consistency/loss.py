"""What a consistency model is distilled by (Song et al. 2023; its latent form, Luo et al. 2023, arXiv 2310.04378)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from stepmask_lab.reference.losses import Loss, spread_timesteps

HUBER = 0.00054
"""Times the root of the number of values, the softening of the distance (Song and Dhariwal 2023)."""


def distillation_loss(teacher: nn.Module, scheduler: Any, consistent: bool = True) -> Loss:
    """Distance between the student's clean sample and one that the teacher helps to.

    The student predicts the velocity, from which the clean sample follows without dividing by the signal. Its target
    is the student's own clean sample, one step of the teacher's DDIM further down; at the last step the teacher's.
    Teacher and student see the same timesteps, so the student begins with the teacher's weights.

    Args:
        teacher: Predicts noise, from noisy samples, timesteps and labels.
        scheduler: An LCMScheduler of velocities; ``original_inference_steps`` says how many steps the teacher takes.
        consistent: False takes the teacher's clean sample at the same timestep for a target: what a student learns
            first that so far predicts noise.
    """
    stride = scheduler.config.num_train_timesteps // scheduler.config.original_inference_steps

    def loss(model: nn.Module, x: Tensor, label: Tensor) -> Tensor:
        timesteps = spread_timesteps(len(x), scheduler.config.original_inference_steps, x.device) * stride + stride - 1
        before = timesteps - stride
        signal, noise_level = levels(scheduler, timesteps)
        noisy = signal * x + noise_level * torch.randn_like(x)
        with torch.no_grad():
            noise = teacher(noisy, timesteps, label).float()
            clean = (noisy - noise_level * noise) / signal
            clean = clean.clamp(-1, 1) if scheduler.config.clip_sample else clean
            if consistent:
                signal_before, level_before = levels(scheduler, before)
                less_noisy = signal_before * clean + level_before * (noisy - signal * clean) / noise_level
                jumped = clean_sample(model, scheduler, less_noisy, before.clamp(min=0), label)
                clean = torch.where((before < 0)[:, None, None, None], clean, jumped)
        distance = (clean_sample(model, scheduler, noisy, timesteps, label) - clean).square().flatten(1).sum(1)
        soft = HUBER * x[0].numel() ** 0.5
        return ((distance + soft**2).sqrt() - soft).mean()

    return loss


def clean_sample(model: nn.Module, scheduler: Any, noisy: Tensor, timesteps: Tensor, label: Tensor) -> Tensor:
    """What the student takes the end of the run to be, as LCMScheduler works it out of the velocity."""
    signal, noise_level = levels(scheduler, timesteps)
    clean = signal * noisy - noise_level * model(noisy, timesteps, label).float()
    keep, take = scheduler.get_scalings_for_boundary_condition_discrete(timesteps[:, None, None, None])
    return take * clean + keep * noisy


def levels(scheduler: Any, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """Share of the signal and of the noise at timesteps (N,), each (N, 1, 1, 1); below 0 there is no noise."""
    kept = scheduler.alphas_cumprod.to(timesteps.device)[timesteps.clamp(min=0)]
    kept = torch.where(timesteps < 0, 1.0, kept)[:, None, None, None]
    return kept.sqrt(), (1 - kept).sqrt()
