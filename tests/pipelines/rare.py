"""Pipelines that the sweep alone tries, one for each denoiser that no other case has."""

from typing import Any

import diffusers
import torch
from cases import NO_TEXT, SAFE, Case, ddim, square, texts, vae, video_texts, wan
from diffusers import FlowMatchEulerDiscreteScheduler as FlowMatch
from strangers import cog_view_4, seeded

from tiny import tiny_model
from tiny_configs import TINY

VIDEO = ({"height": 16, "width": 16, "num_frames": 5},) * 2
LIKE_WAN = {
    "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4,
    "text_dim": 12, "freq_dim": 16, "ffn_dim": 32, "num_layers": 2, "rope_max_seq_len": 32,
}  # fmt: skip


def latte() -> Any:
    model = seeded(diffusers.LatteTransformer3DModel, **{**TINY["LatteTransformer3DModel"], "out_channels": 8})
    return diffusers.LattePipeline(**NO_TEXT, vae=vae(), transformer=model, scheduler=diffusers.DDIMScheduler())


def latte_texts(batch: int) -> dict[str, Any]:
    return video_texts(batch) | {"negative_prompt": None, "video_length": 2, "mask_feature": False}


def hunyuan_dit() -> Any:
    model, schedule = tiny_model("HunyuanDiT2DModel"), diffusers.DDPMScheduler()
    return diffusers.HunyuanDiTPipeline(vae(), **NO_TEXT, transformer=model, scheduler=schedule, **SAFE)


def hunyuan_texts(batch: int) -> dict[str, Any]:
    seen = {f"{sign}prompt_attention_mask{which}": torch.ones(batch, length)
            for sign in ("", "negative_") for which, length in (("", 4), ("_2", 6))}  # fmt: skip
    return texts(batch, prompt_embeds=(4, 8), prompt_embeds_2=(6, 16)) | seen | {"use_resolution_binning": False}


def sky_reels() -> Any:
    model = seeded(diffusers.SkyReelsV2Transformer3DModel, **LIKE_WAN, inject_sample_info=False)
    schedule = diffusers.UniPCMultistepScheduler(
        flow_shift=8.0, use_flow_sigmas=True, prediction_type="flow_prediction"
    )
    return diffusers.SkyReelsV2Pipeline(**NO_TEXT, transformer=model, vae=wan().vae, scheduler=schedule)


def wan_vace() -> Any:
    model = seeded(diffusers.WanVACETransformer3DModel, **LIKE_WAN, vace_layers=[0], vace_in_channels=72)
    return diffusers.WanVACEPipeline(**NO_TEXT, vae=wan().vae, scheduler=FlowMatch(), transformer=model)


def sana_video() -> Any:
    model = seeded(
        diffusers.SanaVideoTransformer3DModel, in_channels=4, out_channels=4, num_attention_heads=2,
        attention_head_dim=12, num_layers=2, num_cross_attention_heads=2, cross_attention_head_dim=12,
        cross_attention_dim=24, caption_channels=12, sample_size=4, patch_size=(1, 1, 1), mlp_ratio=2.0,
    )  # fmt: skip
    return diffusers.SanaVideoPipeline(**NO_TEXT, vae=wan().vae, transformer=model, scheduler=FlowMatch())


def sana_texts(batch: int) -> dict[str, Any]:
    masks = {name: torch.ones(batch, 8) for name in ("prompt_attention_mask", "negative_prompt_attention_mask")}
    return video_texts(batch) | masks | {"negative_prompt": None, "use_resolution_binning": False, "frames": 5}


def text_to_video() -> Any:
    unet = seeded(
        diffusers.UNet3DConditionModel, sample_size=16, block_out_channels=(8, 8), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"), norm_num_groups=4, cross_attention_dim=12,
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"), attention_head_dim=4,
    )  # fmt: skip
    return diffusers.TextToVideoSDPipeline(vae(), **NO_TEXT, unet=unet, scheduler=ddim())


RARE = [
    Case("CogView 4", cog_view_4, video_texts, "two calls", square(32, 64, 32)),
    Case("Latte", latte, latte_texts, "one call", square(16, 16, 32)),
    Case("Hunyuan-DiT", hunyuan_dit, hunyuan_texts, "one call", square(16, 16, 16)),
    Case("SkyReels V2", sky_reels, video_texts, "two calls", VIDEO),
    Case("Wan VACE", wan_vace, video_texts, "two calls", VIDEO),
    Case("Text to video", text_to_video, video_texts, "one call", VIDEO),
    Case("Sana-Video", sana_video, sana_texts, "one call", square(32, 32, 32)),
]
