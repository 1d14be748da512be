"""Diffusers pipelines whose denoisers no family knows, each small enough to be made and run in a moment."""

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from cases import NO_TEXT, Case, ddim, picture, random, sd_texts, square, texts, tiny_unet, vae
from diffusers import FlowMatchEulerDiscreteScheduler as FlowMatch
from torch import nn


def seeded(make: Callable[..., nn.Module], **config: Any) -> nn.Module:
    torch.manual_seed(0)
    return make(**config).eval()


def flux_2() -> Any:
    """Single blocks are one attention each, with its feed-forward inside."""
    model = seeded(
        diffusers.Flux2Transformer2DModel, in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=12, timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4),
    )  # fmt: skip
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    decoder = seeded(
        diffusers.AutoencoderKLFlux2, latent_channels=4, block_out_channels=(4, 4), norm_num_groups=2, **blocks
    )
    return diffusers.Flux2Pipeline(FlowMatch(), decoder, **NO_TEXT, transformer=model)


def z_image() -> Any:
    """Images and texts go to the denoiser as lists."""
    model = seeded(
        diffusers.ZImageTransformer2DModel, in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2,
        n_kv_heads=2, cap_feat_dim=12, axes_dims=[8, 4, 4], axes_lens=[64, 32, 32],
    )  # fmt: skip
    for pad in (model.x_pad_token, model.cap_pad_token):  # left empty by the model itself
        nn.init.normal_(pad, std=0.1)
    return diffusers.ZImagePipeline(FlowMatch(), vae(shift_factor=0.1), **NO_TEXT, transformer=model)


def texts_of_any_length(batch: int) -> dict[str, Any]:
    positive = [random(4 + number, 12, seed=3 + number) for number in range(batch)]
    return {"prompt_embeds": positive, "negative_prompt_embeds": [-one for one in positive], "guidance_scale": 4.0}


def hunyuan_video() -> Any:
    """Its refiner of the text reads the timestep and not the latents."""
    model = seeded(
        diffusers.HunyuanVideoTransformer3DModel, in_channels=4, out_channels=4, num_attention_heads=2,
        attention_head_dim=10, num_layers=1, num_single_layers=2, num_refiner_layers=1, text_embed_dim=12,
        pooled_projection_dim=8, rope_axes_dim=(2, 4, 4),
    )  # fmt: skip
    small = {"block_out_channels": (8,) * 4, "layers_per_block": 1, "norm_num_groups": 4}
    decoder = seeded(diffusers.AutoencoderKLHunyuanVideo, latent_channels=4, **small)
    others = {"text_encoder_2": None, "tokenizer_2": None}
    return diffusers.HunyuanVideoPipeline(**NO_TEXT, **others, transformer=model, vae=decoder, scheduler=FlowMatch())


def padded_video_texts(batch: int) -> dict[str, Any]:
    embeddings = texts(batch, prompt_embeds=(6, 12), pooled_prompt_embeds=(8,))
    positive = {name: value for name, value in embeddings.items() if not name.startswith("negative")}
    return positive | {"prompt_attention_mask": torch.arange(6).expand(batch, 6) < 4, "num_frames": 5}


def stable_video_diffusion() -> Any:
    """A U-Net over space and time."""
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    unet = seeded(
        diffusers.UNetSpatioTemporalConditionModel, sample_size=32, block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"), addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24, layers_per_block=1, cross_attention_dim=8, num_attention_heads=2,
    )  # fmt: skip
    decoder = seeded(
        diffusers.AutoencoderKLTemporalDecoder, latent_channels=4, block_out_channels=(32, 32), layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
    )  # fmt: skip
    sizes = {"hidden_size": 8, "projection_dim": 8, "intermediate_size": 8, "image_size": 32, "patch_size": 8}
    config = CLIPVisionConfig(num_hidden_layers=1, num_attention_heads=2, **sizes)
    encoder = CLIPVisionModelWithProjection(config).eval()
    scheduler = diffusers.EulerDiscreteScheduler(use_karras_sigmas=True, timestep_type="continuous")
    reader = CLIPImageProcessor(crop_size=32, size=32)
    return diffusers.StableVideoDiffusionPipeline(decoder, encoder, unet, scheduler, reader)


def animate_diff() -> Any:
    """Texts go to the denoiser once for every frame."""
    levels = {"block_out_channels": (8, 8), "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D")}
    unet = tiny_unet(**levels, up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
    motion = seeded(
        diffusers.MotionAdapter, block_out_channels=(8, 8), motion_norm_num_groups=4, motion_num_attention_heads=2,
        motion_layers_per_block=1, use_motion_mid_block=False,
    )  # fmt: skip
    return diffusers.AnimateDiffPipeline(vae(), **NO_TEXT, unet=unet, motion_adapter=motion, scheduler=ddim())


def cog_view_4() -> Any:
    """One feed-forward serves both streams."""
    model = seeded(
        diffusers.CogView4Transformer2DModel, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, text_embed_dim=12, time_embed_dim=8, condition_dim=4, sample_size=8,
        rope_axes_dim=(16, 16),
    )  # fmt: skip
    return diffusers.CogView4Pipeline(**NO_TEXT, vae=vae(), transformer=model, scheduler=FlowMatch())


SIDES = square(32, 64, 32)
STRANGERS = [
    Case("Flux 2", flux_2, lambda batch: {"prompt_embeds": random(batch, 6, 12, seed=3)}, "embedded", SIDES),
    Case("Z-Image", z_image, texts_of_any_length, "one call", SIDES),
    Case("HunyuanVideo", hunyuan_video, padded_video_texts, "embedded", SIDES),
    Case(
        "Stable Video Diffusion", stable_video_diffusion, lambda batch: {"image": picture(batch), "num_frames": 2},
        "one call", ({"height": 32, "width": 32},) * 2, steps=3,
    ),
    Case(
        "AnimateDiff", animate_diff, lambda batch: sd_texts(batch) | {"num_frames": 3}, "one call", square(8, 8, 16),
        steps=3,
    ),
]  # fmt: skip
