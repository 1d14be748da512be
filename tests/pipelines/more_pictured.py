"""Further pipelines that begin with pictures, and make videos or other pictures of them, for the sweep alone."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import torch
from cases import NO_DECODER, picture, texts, video_texts, wan
from diffusers import FlowMatchEulerDiscreteScheduler as FlowMatch
from more_transformers import all_seen, flux_fill, six_texts
from more_videos import (
    LIKE_HUNYUAN,
    SECOND,
    hunyuan_1_5,
    hunyuan_1_5_texts,
    hunyuan_texts,
    hunyuan_vae,
    ltx_2,
    ltx_2_texts,
    one_image,
    transformer,
)
from parts import (
    SIDES,
    WORDS,
    clip_text,
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
from strangers import seeded, texts_of_any_length, z_image
from torch import Tensor, nn


def without(found: dict[str, Any], *names: str) -> dict[str, Any]:
    """Arguments of a call but these."""
    return {name: value for name, value in found.items() if name not in names}


# --- HunyuanVideo


def hunyuan_1_5_pictured(kind: str) -> Any:
    parts = without(hunyuan_1_5("HunyuanVideo15Pipeline").components, "transformer")
    readers = dict(zip(("image_encoder", "feature_extractor"), siglip(), strict=True))
    config = without(hunyuan_1_5("HunyuanVideo15Pipeline").transformer.config, "task_type")
    model = transformer("HunyuanVideo15Transformer3DModel", **config, task_type="i2v")
    return getattr(diffusers, kind)(**parts, **readers, transformer=model)


def hunyuan_pictured(kind: str) -> Any:
    model = transformer(
        "HunyuanVideoTransformer3DModel", in_channels=9, **LIKE_HUNYUAN, image_condition_type="latent_concat"
    )
    parts = {"vae": hunyuan_vae(), "scheduler": FlowMatch(), "image_processor": image_reader(), **SECOND}
    return made_of(kind, transformer=model, **parts)


# --- Helios


def helios(kind: str, stages: int = 1, distilled: bool = False) -> Any:
    model = transformer(
        "HeliosTransformer3DModel", num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
        text_dim=12, freq_dim=16, ffn_dim=32, num_layers=2, rope_dim=(4, 4, 4),
    )  # fmt: skip
    scheduler = diffusers.HeliosDMDScheduler if distilled else diffusers.HeliosScheduler
    options = {"is_distilled": True} if distilled else {}
    return made_of(kind, transformer=model, vae=wan().vae, scheduler=scheduler(stages=stages, gamma=0.3), **options)


# --- Kandinsky 6


def kandinsky_6(kind: str) -> Any:
    model = transformer(
        "Kandinsky6Transformer3DModel", in_visual_dim=4, out_visual_dim=40, in_text_dim=12, in_text_dim2=12, time_dim=8,
        model_dim=16, ff_dim=16, num_text_blocks=1, num_visual_blocks=2, axes_dims=(4, 2, 2), in_audio_dim=4,
        out_audio_dim=40,
    )  # fmt: skip
    return made_of(
        kind, transformer=randomised(model), vae=hunyuan_vae(), scheduler=diffusers.PiflowScheduler(), **SECOND
    )


def kandinsky_6_sr(kind: str) -> Any:
    model = transformer(
        "Kandinsky6SRTransformer3DModel", in_visual_dim=4, out_visual_dim=40, time_dim=8, model_dim=16, ff_dim=16,
        num_visual_blocks=2, axes_dims=(4, 2, 2), tile_sizes=((32, 32),),
    )  # fmt: skip
    decoder = seeded(
        diffusers.Kandinsky6SRVAE, latent_channels=4, encoder_block_out_channels=(16,) * 3,
        decoder_block_out_channels=(16,) * 3, layers_per_block=1,
    )  # fmt: skip
    return getattr(diffusers, kind)(randomised(model), decoder, diffusers.PiflowScheduler())


# --- LTX 2


def ltx_2_keyed(kind: str) -> Any:
    parts = ltx_2("LTX2Pipeline").components
    config = {**parts["transformer"].config, "use_keyframes_abs_pos_embedding": True}
    return made_of(kind, **parts | {"transformer": transformer("LTX2VideoTransformer3DModel", **config)})


# --- Z-Image, Qwen-Image 2.1, Hunyuan-Image, VisualCloze, JoyImage, DreamLite


def z_image_omni(kind: str) -> Any:
    known = z_image().components
    config = {**known["transformer"].config, "siglip_feat_dim": 8}
    model = transformer("ZImageTransformer2DModel", **config)
    for pad in (model.x_pad_token, model.cap_pad_token, model.siglip_pad_token):
        nn.init.normal_(pad, std=0.1)
    return made_of(kind, **known | {"transformer": model}, siglip=None, siglip_processor=None)


def listed_texts(batch: int) -> dict[str, Any]:
    found = texts_of_any_length(batch)
    return {name: [[one] for one in value] if isinstance(value, list) else value for name, value in found.items()}


class Reader:
    """In the place of the tokenizers and processors of Qwen-VL, which come with their files alone."""

    eos_token_id = 1

    @property
    def tokenizer(self) -> "Reader":
        return self

    def encode(self, text: str) -> list[int]:
        return [0]

    def convert_tokens_to_ids(self, text: str) -> int:
        return 2

    def apply_chat_template(self, text: Any, return_dict: bool, **options: Any) -> Any:
        return SimpleNamespace(input_ids=[3, 4, 5]) if return_dict else [[3, 4, 5]]


def qwen_2_1(kind: str) -> Any:
    model = transformer(
        "QwenImage21Transformer2DModel", patch_size=1, in_channels=4, out_channels=4, num_layers=2,
        attention_head_dim=12, num_attention_heads=2, context_in_dim=12, mlp_ratio=2, axes_dims_rope=(4, 4, 4),
    )  # fmt: skip
    return getattr(diffusers, kind)(FlowMatch(), None, None, Reader(), model)


def cosmos_3(kind: str) -> Any:
    model = transformer(
        "Cosmos3OmniTransformer", head_dim=12, hidden_size=24, intermediate_size=16, latent_channel=4,
        num_attention_heads=2, num_hidden_layers=2, num_key_value_heads=1, patch_latent_dim=16, vocab_size=16,
        rope_axes_dim=(2, 2, 2),
    )  # fmt: skip
    scheduler = diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
    return getattr(diffusers, kind)(model, Reader(), wan().vae, scheduler, enable_safety_checker=False)


def read_by(pipe: Any, name: str, count: Callable[..., int]) -> Any:
    """The pipeline with embeddings and a mask of so many texts in the place of what a method reads from them."""

    def read(*args: Any, **given: Any) -> tuple[Tensor, Tensor]:
        number = count(*args, **given)
        return rows(number, 6, 12), torch.ones(number, 6)

    setattr(pipe, name, read)
    return pipe


def dream_lite(kind: str) -> Any:
    down = ("DreamLiteCrossAttnNoSelfAttnDownBlock2D", "DreamLiteCrossAttnDownBlock2D")
    up = ("DreamLiteCrossAttnUpBlock2D", "DreamLiteUpBlock2D")
    model = seeded(
        diffusers.DreamLiteUNetModel, block_out_channels=(8, 16), down_block_types=down, up_block_types=up,
        layers_per_block=1, norm_num_groups=4, cross_attention_dim=12, attention_head_dim=4,
        addition_embed_type="time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=8,
    )  # fmt: skip
    decoder = seeded(
        diffusers.AutoencoderTiny, encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1),
    )  # fmt: skip
    pipe = made_of(kind, text_encoder=t5(), processor=None, vae=decoder, unet=model, scheduler=FlowMatch())
    return read_by(pipe, "encode_prompt", lambda prompts, **given: len(prompts))


# --- SANA-WM


def sana_wm(kind: str) -> Any:
    model = transformer(
        "SanaWMTransformer3DModel", in_channels=4, num_layers=2, hidden_size=32, num_attention_heads=2,
        softmax_every_n=2, linear_head_dim=16, chunk_plucker_post_attn_blocks=2,
        chunk_plucker_channels=12, caption_channels=12, mlp_ratio=2.0,
    )  # fmt: skip
    return made_of(kind, vae=ltx_2("LTX2Pipeline").vae, transformer=model, scheduler=FlowMatch())


def sana_wm_texts(batch: int) -> dict[str, Any]:
    return texts(batch, prompt_embeds=(6, 12)) | seen(batch, "prompt_attention_mask")


def hunyuan_refiner(kind: str) -> Any:
    model = transformer(
        "HunyuanImageTransformer2DModel", in_channels=16, out_channels=8, num_attention_heads=2, attention_head_dim=8,
        num_layers=1, num_single_layers=1, num_refiner_layers=1, patch_size=(1, 1, 1), guidance_embeds=True,
        text_embed_dim=12, rope_axes_dim=(2, 2, 4),
    )  # fmt: skip
    decoder = seeded(
        diffusers.AutoencoderKLHunyuanImageRefiner, latent_channels=4, block_out_channels=(16, 16, 16, 16),
        layers_per_block=1, spatial_compression_ratio=4, temporal_compression_ratio=4, downsample_match_channel=False,
        upsample_match_channel=False,
    )  # fmt: skip
    return made_of(kind, transformer=model, vae=decoder, scheduler=FlowMatch())


def joy_plus(kind: str) -> Any:
    model = transformer(
        "JoyImageEditPlusTransformer3DModel", in_channels=4, hidden_size=16, num_attention_heads=2, text_dim=12,
        num_layers=2, rope_dim_list=[4, 2, 2],
    )  # fmt: skip
    pipe = made_of(kind, transformer=model, vae=wan().vae, scheduler=FlowMatch(), processor=None)
    return read_by(pipe, "encode_prompt_multiple_images", lambda prompt, **given: len(prompt))


def cloze(kind: str) -> Any:
    parts = flux_fill("FluxFillPipeline").components
    readers = {"text_encoder": clip_text(8), "tokenizer": words(), "text_encoder_2": t5(), "tokenizer_2": words()}
    taken = {name: parts[name] for name in ("scheduler", "vae", "transformer")}
    return getattr(diffusers, kind)(**taken, **readers, resolution=32)


def hunyuan_1_5_of(batch: int) -> dict[str, Any]:
    return without(hunyuan_1_5_texts(batch), "height", "width")


def ltx_2_of(batch: int) -> dict[str, Any]:
    return without(ltx_2_texts(batch), "audio_stg_scale", "audio_modality_scale")


def ltx_2_keyed_of(batch: int) -> dict[str, Any]:
    found = texts(batch, prompt_embeds=(8, 24)) | seen(batch, "prompt_attention_mask", 8)
    return {name: value for name, value in found.items() if not name.startswith("negative")} | SIDES


def grid(batch: int) -> list:
    return [[image(0), image(1)], [image(2), None]]


LONG = {"num_frames": 17, "num_latent_frames_per_chunk": 2, "history_sizes": [4, 2, 1]}
PYRAMID = {**LONG, "height": 64, "width": 64, "pyramid_num_inference_steps_list": [4, 4, 4]}
FOUR_SIGMAS = {"sigmas": [1.0, 0.8, 0.6, 0.3]}
PICTURED = [
    own("HunyuanVideo15ImageToVideoPipeline", hunyuan_1_5_pictured, hunyuan_1_5_of, image=one_image),
    own("HunyuanVideoImageToVideoPipeline", hunyuan_pictured, hunyuan_texts, image=one_image),
    own("LTX2HDRPipeline", ltx_2, ltx_2_of),
    own("LTX2DFRPipeline", ltx_2_keyed, ltx_2_keyed_of, FOUR_SIGMAS, num_frames=9),
    own("HeliosPipeline", helios, video_texts, SIDES, LONG),
    own("HeliosPyramidPipeline", partial(helios, stages=3), video_texts, PYRAMID),
    replace(own("HeliosPyramidPipeline", partial(helios, stages=3, distilled=True), video_texts, PYRAMID),
        name="Helios, distilled"),
    own("Kandinsky6TI2VAPipeline", kandinsky_6, partial(texts, prompt_embeds=(6, 12), pooled_prompt_embeds=(12,)),
        SIDES, NO_DECODER, num_frames=5, sample_audio=False),
    own("Kandinsky6SRPipeline", kandinsky_6_sr, video=lambda batch: images(5, 16), resolution_scale=2.0),
    own("ZImageOmniPipeline", z_image_omni, listed_texts, SIDES),
    own("HunyuanImageRefinerPipeline", hunyuan_refiner, six_texts, all_seen, SIDES, image=picture),
    own("JoyImageEditPlusPipeline", joy_plus, prompts, SIDES),
    own("QwenImage21Pipeline", qwen_2_1, six_texts, NO_DECODER, height=64, width=64, use_kv_cache=False,
        true_cfg_scale=4.0),
    own("Cosmos3OmniPipeline", cosmos_3, SIDES, prompt=WORDS, num_frames=5),
    own("DreamLitePipeline", dream_lite, SIDES, prompt=WORDS),
    own("DreamLiteMobilePipeline", dream_lite, SIDES, prompt=WORDS),
    own("SanaWMPipeline", sana_wm, sana_wm_texts, SIDES, NO_DECODER, prompt=WORDS, image=one_image,
        intrinsics=[32.0, 32.0, 16.0, 16.0], c2w=np.eye(4, dtype=np.float32)[None].repeat(9, 0), num_frames=9),
    own("VisualClozePipeline", cloze, image=grid, task_prompt=WORDS, content_prompt=WORDS, upsampling_height=32,
        upsampling_width=32),
    own("VisualClozeGenerationPipeline", cloze, image=grid, task_prompt=WORDS, content_prompt=WORDS),
]  # fmt: skip
