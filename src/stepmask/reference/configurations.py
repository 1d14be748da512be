"""What the reference models are: one function each that builds an untrained diffusers pipeline.

Knows nothing of training (`train.py`) or of where weights lie (`__init__.py`).
"""

from __future__ import annotations

from diffusers import (
    AutoencoderKL,
    DDIMPipeline,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    UNet2DModel,
)

from stepmask.reference.cifar10 import CLASSES


def ddpm_cifar10() -> DDIMPipeline:
    """Unconditional DDPM on 32x32 pixels: google/ddpm-cifar10-32 made narrow, with its levels and sites."""
    unet = UNet2DModel(
        sample_size=32,
        block_out_channels=(32, 64, 96, 96),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=None,
        norm_num_groups=8,
        norm_eps=1e-6,
        freq_shift=1,
        flip_sin_to_cos=False,
        downsample_padding=0,
    )
    return DDIMPipeline(unet=unet, scheduler=_linear_schedule(clip_sample=True))


def autoencoder_cifar10() -> AutoencoderKL:
    """Autoencoder 32x32x3 -> 16x16x4, the first stage of `dit_cifar10`."""
    return AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=32,
        scaling_factor=1.0,
    )


def dit_cifar10() -> DiTPipeline:
    """Class-conditional latent DiT: 64 tokens, 7 blocks of width 192.

    DiTPipeline hard-codes class 1000 as the null class, so the label embeddings have 1001 rows, of which ten and
    the null class are trained.
    """
    transformer = DiTTransformer2DModel(
        num_attention_heads=6,
        attention_head_dim=32,
        num_layers=7,
        in_channels=4,
        out_channels=4,
        sample_size=16,
        patch_size=2,
        num_embeds_ada_norm=1000,
        activation_fn="gelu-approximate",
        attention_bias=True,
    )
    pipe = DiTPipeline(
        transformer=transformer,
        vae=autoencoder_cifar10(),
        scheduler=_linear_schedule(clip_sample=False),
        id2label=dict(enumerate(CLASSES)),
    )
    pipe.register_to_config(id2label={str(number): name for number, name in enumerate(CLASSES)})
    return pipe


def _linear_schedule(clip_sample: bool) -> DDIMScheduler:
    return DDIMScheduler(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, clip_sample=clip_sample)


BUILDERS = {"ddpm-cifar10": ddpm_cifar10, "dit-cifar10": dit_cifar10}
