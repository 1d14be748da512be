"""Further pipelines that make videos, for the sweep alone: a line or two for each class."""

from functools import partial
from typing import Any

import diffusers
import torch
from cases import NO_DECODER, ddim, texts, video_texts, wan
from diffusers import FlowMatchEulerDiscreteScheduler as FlowMatch
from parts import (
    SIDES,
    clip_text_projected,
    clip_vision,
    image,
    image_reader,
    images,
    made_of,
    own,
    prompts,
    randomised,
    rows,
    seen,
    siglip,
    t5,
    words,
)
from rare import LIKE_WAN, sky_reels
from strangers import seeded
from torch import nn

from tiny import tiny_model
from tiny_configs import TINY

HEADS = {"attention_head_dim": 8, "num_attention_heads": 2}
SMALL = {"height": 16, "width": 16, "num_frames": 5}


def transformer(kind: str, **config: Any) -> nn.Module:
    return seeded(getattr(diffusers, kind), **config)


def one_image(batch: int) -> Any:
    return image()


def video(batch: int) -> list:
    return images(5)


# --- like Wan


def any_flow(kind: str) -> Any:
    causal = {"chunk_partition": (1, 1), "full_chunk_limit": 2} if "FAR" in kind else {}
    name = "AnyFlowFARTransformer3DModel" if causal else "AnyFlowTransformer3DModel"
    scheduler = diffusers.FlowMapEulerDiscreteScheduler()
    return made_of(kind, transformer=transformer(name, **LIKE_WAN, **causal), vae=wan().vae, scheduler=scheduler)


def chrono_edit(kind: str) -> Any:
    config = {**LIKE_WAN, "in_channels": 12, "image_dim": 8, "added_kv_proj_dim": 24}
    parts = {
        "image_encoder": clip_vision(kind="CLIPVisionModel"),
        "image_processor": image_reader(),
        "vae": wan().vae,
        "scheduler": FlowMatch(),
    }
    return made_of(kind, transformer=transformer("ChronoEditTransformer3DModel", **config), **parts)


def wan_animate(kind: str) -> Any:
    config = {**LIKE_WAN, "in_channels": 12, "latent_channels": 4, "image_dim": 8, "added_kv_proj_dim": 24}
    motion = {
        "motion_encoder_size": 16, "motion_style_dim": 8, "motion_dim": 4, "motion_encoder_dim": 16,
        "motion_encoder_channel_sizes": {"4": 8, "8": 8, "16": 8}, "face_encoder_hidden_dim": 16,
        "face_encoder_num_heads": 2, "inject_face_latents_blocks": 2,
    }  # fmt: skip
    model = transformer("WanAnimateTransformer3DModel", **config, **motion)
    parts = {
        "image_encoder": clip_vision(kind="CLIPVisionModel"),
        "image_processor": image_reader(),
        "vae": wan().vae,
        "scheduler": FlowMatch(),
    }
    return made_of(kind, transformer=model, **parts)


def sky_reels_of(kind: str) -> Any:
    parts = sky_reels().components
    if "ImageToVideo" in kind:
        config = {**LIKE_WAN, "in_channels": 12, "image_dim": 8, "added_kv_proj_dim": 24, "inject_sample_info": False}
        parts |= {"transformer": transformer("SkyReelsV2Transformer3DModel", **config)}
        parts |= {"image_encoder": clip_vision(), "image_processor": image_reader()}
    return getattr(diffusers, kind)(**parts)


# --- CogVideoX, EasyAnimate, Allegro


def cog_video(kind: str, in_channels: int = 8) -> Any:
    blocks = {f"{way.lower()}_block_types": (f"CogVideoX{way}Block3D",) * 4 for way in ("Down", "Up")}
    decoder = seeded(
        diffusers.AutoencoderKLCogVideoX, block_out_channels=(4,) * 4, latent_channels=4, layers_per_block=1,
        norm_num_groups=2, **blocks,
    )  # fmt: skip
    config = {**TINY["CogVideoXTransformer3DModel"], "in_channels": in_channels, "sample_width": 2, "sample_height": 2}
    model = transformer("CogVideoXTransformer3DModel", **config)
    return made_of(kind, vae=decoder, transformer=model, scheduler=diffusers.CogVideoXDDIMScheduler())


def easy_animate(kind: str, in_channels: int = 4) -> Any:
    blocks = {f"{way.lower()}_block_types": (f"Spatial{way}Block3D", *[f"SpatialTemporal{way}Block3D"] * 3)
              for way in ("Down", "Up")}  # fmt: skip
    decoder = seeded(
        diffusers.AutoencoderKLMagvit, block_out_channels=(4,) * 4, latent_channels=4, layers_per_block=1,
        norm_num_groups=2, spatial_group_norm=False, **blocks,
    )  # fmt: skip
    model = transformer(
        "EasyAnimateTransformer3DModel", num_attention_heads=2, attention_head_dim=16, in_channels=in_channels,
        out_channels=4, time_embed_dim=2, text_embed_dim=12, num_layers=2, sample_width=16, sample_height=16,
        patch_size=2,
    )  # fmt: skip
    return made_of(kind, vae=decoder, transformer=model, scheduler=FlowMatch())


def allegro(kind: str) -> Any:
    blocks = {f"{way.lower()}_block_types": (f"Allegro{way}Block3D",) * 4 for way in ("Down", "Up")}
    decoder = seeded(
        diffusers.AutoencoderKLAllegro, block_out_channels=(8,) * 4, latent_channels=4, layers_per_block=1,
        norm_num_groups=2, **blocks,
    )  # fmt: skip
    model = transformer(
        "AllegroTransformer3DModel", num_attention_heads=2, attention_head_dim=12, num_layers=2, caption_channels=12,
        cross_attention_dim=24, sample_width=8, sample_height=8, sample_frames=8,
    )  # fmt: skip
    return made_of(kind, vae=decoder, transformer=model, scheduler=ddim())


# --- HunyuanVideo, Kandinsky 5, Motif, LTX, Cosmos


def hunyuan_vae() -> nn.Module:
    small = {"block_out_channels": (8,) * 4, "layers_per_block": 1, "norm_num_groups": 4}
    return seeded(diffusers.AutoencoderKLHunyuanVideo, latent_channels=4, **small)


LIKE_HUNYUAN = {
    "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 10, "num_layers": 1, "num_single_layers": 2,
    "num_refiner_layers": 1, "text_embed_dim": 12, "pooled_projection_dim": 8, "rope_axes_dim": (2, 4, 4),
}  # fmt: skip
SECOND = {"text_encoder_2": None, "tokenizer_2": None}


def hunyuan(kind: str) -> Any:
    model = transformer("HunyuanVideoTransformer3DModel", in_channels=8, **LIKE_HUNYUAN)
    return made_of(kind, transformer=model, vae=hunyuan_vae(), scheduler=FlowMatch(), **SECOND)


def frame_pack(kind: str) -> Any:
    more = {"has_image_proj": True, "image_proj_dim": 8, "has_clean_x_embedder": True}
    model = transformer("HunyuanVideoFramepackTransformer3DModel", in_channels=4, **LIKE_HUNYUAN, **more)
    readers = dict(zip(("image_encoder", "feature_extractor"), siglip(), strict=True))
    return made_of(kind, transformer=model, vae=hunyuan_vae(), scheduler=FlowMatch(), **SECOND, **readers)


def hunyuan_texts(batch: int) -> dict[str, Any]:
    found = texts(batch, prompt_embeds=(6, 12), pooled_prompt_embeds=(8,)) | seen(batch, "prompt_attention_mask")
    return found | {"height": 32, "width": 32, "num_frames": 5}


def hunyuan_1_5(kind: str) -> Any:
    model = transformer(
        "HunyuanVideo15Transformer3DModel", in_channels=9, out_channels=4, **HEADS, num_layers=2, num_refiner_layers=1,
        mlp_ratio=2.0, text_embed_dim=12, text_embed_2_dim=12, image_embed_dim=8, rope_axes_dim=(2, 2, 4),
        target_size=16, task_type="t2v",
    )  # fmt: skip
    decoder = seeded(
        diffusers.AutoencoderKLHunyuanVideo15, latent_channels=4, block_out_channels=(16, 16), layers_per_block=1,
        spatial_compression_ratio=4, temporal_compression_ratio=2, downsample_match_channel=False,
        upsample_match_channel=False,
    )  # fmt: skip
    guider = diffusers.ClassifierFreeGuidance(guidance_scale=3.0)
    return made_of(kind, transformer=model, vae=decoder, scheduler=FlowMatch(), guider=guider, **SECOND)


def hunyuan_1_5_texts(batch: int) -> dict[str, Any]:
    masks = seen(batch, "prompt_embeds_mask") | seen(batch, "prompt_embeds_mask_2")
    return texts(batch, prompt_embeds=(6, 12), prompt_embeds_2=(6, 12)) | masks | SMALL


def kandinsky_5(kind: str) -> Any:
    model = transformer(
        "Kandinsky5Transformer3DModel", in_visual_dim=4, out_visual_dim=4, in_text_dim=12, in_text_dim2=12, time_dim=8,
        patch_size=(1, 2, 2), model_dim=16, ff_dim=16, num_text_blocks=1, num_visual_blocks=2, axes_dims=(4, 2, 2),
        visual_cond=True,
    )  # fmt: skip
    return made_of(kind, transformer=randomised(model), vae=hunyuan_vae(), scheduler=FlowMatch(), **SECOND)


def kandinsky_5_texts(batch: int) -> dict[str, Any]:
    lengths = {f"{sign}prompt_cu_seqlens": torch.arange(batch + 1, dtype=torch.int32) * 6 for sign in ("", "negative_")}
    return texts(batch, prompt_embeds_qwen=(6, 12), prompt_embeds_clip=(12,)) | lengths | {**SIDES, "num_frames": 5}


def motif(kind: str) -> Any:
    model = transformer(
        "MotifVideoTransformer3DModel", in_channels=9, out_channels=4, **HEADS, num_layers=1, num_single_layers=2,
        text_embed_dim=12, rope_axes_dim=(2, 2, 4),
    )  # fmt: skip
    guider = diffusers.ClassifierFreeGuidance(guidance_scale=3.0)
    parts = {"vae": wan().vae, "scheduler": FlowMatch(), "guider": guider, "feature_extractor": None}
    return made_of(kind, transformer=model, **parts)


def ltx_2(kind: str) -> Any:
    audio = {"audio_in_channels": 4, "audio_out_channels": 4, "audio_num_attention_heads": 2}
    audio |= {"audio_attention_head_dim": 4, "audio_cross_attention_dim": 8}
    model = transformer(
        "LTX2VideoTransformer3DModel", in_channels=4, out_channels=4, **HEADS, cross_attention_dim=16, num_layers=2,
        caption_channels=12, rope_double_precision=False, rope_type="split", **audio,
    )  # fmt: skip
    from diffusers.pipelines.ltx2 import LTX2TextConnectors, LTX2Vocoder

    heads = {f"{part}_connector_num_attention_heads": 2 for part in ("video", "audio")}
    heads |= {f"{part}_connector_attention_head_dim": 6 for part in ("video", "audio")}
    heads |= {f"{part}_connector_num_layers": 1 for part in ("video", "audio")}
    heads |= {f"{part}_connector_num_learnable_registers": None for part in ("video", "audio")}
    connectors = seeded(
        LTX2TextConnectors, caption_channels=12, text_proj_in_factor=2, connector_rope_base_seq_len=32,
        rope_double_precision=False, rope_type="split", **heads,
    )  # fmt: skip
    decoder = seeded(
        diffusers.AutoencoderKLLTX2Video, latent_channels=4, block_out_channels=(8,), decoder_block_out_channels=(8,),
        down_block_types=("LTX2VideoDownBlock3D",), layers_per_block=(1,), decoder_layers_per_block=(1, 1),
        spatio_temporal_scaling=(True,), decoder_spatio_temporal_scaling=(True,), decoder_inject_noise=(False,) * 2,
        downsample_type=("spatial",), upsample_type=("spatial",), upsample_residual=(False,), upsample_factor=(1,),
        patch_size=1, decoder_causal=False,
    )  # fmt: skip
    sounds = seeded(
        diffusers.AutoencoderKLLTX2Audio, base_channels=4, ch_mult=(1,), num_res_blocks=1, resolution=32,
        latent_channels=2, mel_bins=8,
    )  # fmt: skip
    vocoder = seeded(
        LTX2Vocoder, in_channels=16, hidden_channels=32, upsample_kernel_sizes=[4, 4], upsample_factors=[2, 2],
        resnet_kernel_sizes=[3], resnet_dilations=[[1, 3, 5]], output_sampling_rate=16000,
    )  # fmt: skip
    parts = {"vae": decoder, "audio_vae": sounds, "connectors": connectors, "vocoder": vocoder}
    return made_of(kind, transformer=model, scheduler=FlowMatch(), **parts)


def ltx_2_texts(batch: int) -> dict[str, Any]:
    found = texts(batch, prompt_embeds=(8, 24)) | seen(batch, "prompt_attention_mask", 8)
    off = {"stg_scale": 0.0, "audio_stg_scale": 0.0, "spatio_temporal_guidance_blocks": None}
    return found | off | {**SIDES, "num_frames": 5, "modality_scale": 1.0, "audio_modality_scale": 1.0}


def ltx_long(kind: str) -> Any:
    from small import video_autoencoder

    model = tiny_model("LTXVideoTransformer3DModel")
    return getattr(diffusers, kind)(
        diffusers.LTXEulerAncestralRFScheduler(), video_autoencoder(), t5(), words(128), model
    )


def cosmos(kind: str) -> Any:
    from more_transformers import Unchecked

    is_first = kind in ("CosmosTextToWorldPipeline", "CosmosVideoToWorldPipeline")
    model = transformer(
        "CosmosTransformer3DModel", in_channels=4 if kind == "CosmosTextToWorldPipeline" else 5, out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16, num_layers=2, mlp_ratio=2.0, text_embed_dim=12, adaln_lora_dim=4, max_size=(4, 32, 32),
        rope_scale=(1.0, 4.0, 4.0), concat_padding_mask=False, extra_pos_embed_type="learnable" if is_first else None,
    )  # fmt: skip
    decoder = wan().vae
    if is_first:
        decoder = seeded(
            diffusers.AutoencoderKLCosmos, latent_channels=4, encoder_block_out_channels=(8, 8), num_layers=1,
            decode_block_out_channels=(8, 8), attention_resolutions=(8,), resolution=64, patch_size=4,
            spatial_compression_ratio=4, temporal_compression_ratio=4,
            latents_mean=[0.0] * 64, latents_std=[1.0] * 64,
        )  # fmt: skip
    scheduler = (
        diffusers.EDMEulerScheduler(sigma_schedule="karras", prediction_type="epsilon")
        if is_first
        else FlowMatch(use_karras_sigmas=True)
    )
    return made_of(kind, transformer=model, vae=decoder, scheduler=scheduler, safety_checker=Unchecked())


# --- Stable Cascade, DreamLite


def cascade(kind: str) -> Any:
    is_prior = "Prior" in kind
    sizes = {
        "block_out_channels": (16, 16), "num_attention_heads": (2, 2), "down_num_layers_per_block": (1, 1),
        "up_num_layers_per_block": (1, 1), "dropout": (0.1, 0.1), "conditioning_dim": 16,
        "clip_text_pooled_in_channels": 12,
    }  # fmt: skip
    sizes |= (
        {"clip_text_in_channels": 12, "clip_image_in_channels": 8, "switch_level": (False,)}
        if is_prior
        else {"in_channels": 4, "out_channels": 4, "effnet_in_channels": 16, "patch_size": 1}
    )
    made = transformer("StableCascadeUNet", **sizes)
    from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel

    parts = {
        "text_encoder": clip_text_projected(),
        "tokenizer": words(),
        "scheduler": diffusers.DDPMWuerstchenScheduler(),
    }
    parts |= (
        {"prior": made}
        if is_prior
        else {"decoder": made, "vqgan": seeded(PaellaVQModel, bottleneck_blocks=1, num_vq_embeddings=2, embed_dim=8)}
    )
    return getattr(diffusers, kind)(**parts)


VIDEOS = [
    own("AnyFlowPipeline", any_flow, video_texts, SMALL),
    own("AnyFlowFARPipeline", any_flow, video_texts, SMALL, chunk_partition=(1, 1)),
    own("ChronoEditPipeline", chrono_edit, video_texts, SMALL, image=one_image),
    own("WanAnimatePipeline", wan_animate, video_texts, height=16, width=16, image=one_image, pose_video=video,
        face_video=video, segment_frame_length=5),
    own("SkyReelsV2DiffusionForcingPipeline", sky_reels_of, video_texts, SMALL, prompt=None, base_num_frames=5),
    own("SkyReelsV2DiffusionForcingVideoToVideoPipeline", sky_reels_of, video_texts, SMALL | {"num_frames": 9},
        video=video, base_num_frames=9, overlap_history=1),
    own("SkyReelsV2ImageToVideoPipeline", sky_reels_of, video_texts, SMALL, image=one_image),
    own("CogVideoXImageToVideoPipeline", cog_video, video_texts, SMALL | {"num_frames": 9}, image=one_image),
    own("CogVideoXVideoToVideoPipeline", partial(cog_video, in_channels=4), video_texts, height=16, width=16,
        video=video),
    own("CogVideoXFunControlPipeline", cog_video, video_texts, height=16, width=16, control_video=video),
    own("EasyAnimatePipeline", easy_animate, video_texts, SMALL, partial(seen, name="prompt_attention_mask", tokens=8)),
    own("AllegroPipeline", allegro, {"negative_prompt": None}, video_texts, NO_DECODER, partial(seen,
        name="prompt_attention_mask", tokens=8),
        SMALL | {"num_frames": 8}),
    own("HunyuanSkyreelsImageToVideoPipeline", hunyuan, hunyuan_texts, image=one_image),
    own("HunyuanVideoFramepackPipeline", frame_pack, hunyuan_texts, image=one_image, latent_window_size=2,
        num_frames=9),
    own("HunyuanVideo15Pipeline", hunyuan_1_5, hunyuan_1_5_texts),
    own("Kandinsky5T2VPipeline", kandinsky_5, kandinsky_5_texts),
    own("Kandinsky5I2VPipeline", kandinsky_5, kandinsky_5_texts, image=one_image, num_frames=21),
    own("MotifVideoPipeline", motif, SMALL, partial(texts, prompt_embeds=(6, 12)), partial(seen,
        name="prompt_attention_mask")),
    own("MotifVideoImage2VideoPipeline", motif, SMALL, partial(texts, prompt_embeds=(6, 12)), partial(seen,
        name="prompt_attention_mask"), image=one_image, prompt=None),
    own("LTX2Pipeline", ltx_2, ltx_2_texts),
    own("LTX2ImageToVideoPipeline", ltx_2, ltx_2_texts, image=one_image, image_crf=0),
    own("LTX2ConditionPipeline", ltx_2, ltx_2_texts),
    own("LTX2InContextPipeline", ltx_2, ltx_2_texts),
    own("LTXI2VLongMultiPromptPipeline", ltx_long, SIDES, prompts, num_frames=9, temporal_tile_size=16,
        temporal_overlap=8),
    own("CosmosTextToWorldPipeline", cosmos, video_texts, SIDES, num_frames=9),
    own("CosmosVideoToWorldPipeline", cosmos, video_texts, SIDES, num_frames=9, image=one_image),
    own("Cosmos2VideoToWorldPipeline", cosmos, video_texts, SIDES, num_frames=5, image=one_image),
    own("StableCascadePriorPipeline", cascade, prompts, height=256, width=256),
    own("StableCascadeDecoderPipeline", cascade, prompts, image_embeddings=lambda batch: rows(batch, 16, 2, 2),
        guidance_scale=2.0),
]  # fmt: skip
