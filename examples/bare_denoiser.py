"""A loop of your own: any denoiser, any diffusers scheduler, here the second-order Heun with its 2T - 1 rows."""

import torch
from diffusers import HeunDiscreteScheduler

import stepmask
from stepmask_lab import reference


@torch.no_grad()
def main(steps: int = 20) -> None:
    denoiser = reference.load("ddpm-cifar10").unet
    scheduler = HeunDiscreteScheduler(beta_start=1e-4, beta_end=0.02)
    scheduler.set_timesteps(steps)
    mask = stepmask.schedules.fora(stepmask.describe(denoiser), scheduler.timesteps, interval=2)
    size = denoiser.config.sample_size
    sample = torch.randn(4, 3, size, size) * scheduler.init_noise_sigma
    with stepmask.apply(denoiser, mask, scheduler=scheduler) as run:
        for timestep in scheduler.timesteps:
            noise = denoiser(scheduler.scale_model_input(sample, timestep), timestep).sample
            sample = scheduler.step(noise, timestep, sample).prev_sample
        print(run.summary())


if __name__ == "__main__":
    main()
