"""Further pipelines around transformers that make images, for the sweep alone: a line or two for each class."""

from functools import partial
from typing import Any

import diffusers
import torch
from cases import (
    flux_texts,
    picture,
    qwen_image,
    qwen_texts,
    random,
    sana,
    sd3_texts,
    stable_diffusion_3,
    texts,
    vae,
    video_texts,
    wan,
)
from diffusers import FlowMatchEulerDiscreteScheduler as FlowMatch
from parts import (
    SIDES,
    WORDS,
    hole,
    images,
    made_of,
    of_config,
    own,
    prompts,
    randomised,
    rows,
    seen,
    small_llm,
    t5,
    words,
)
from rare import hunyuan_dit, hunyuan_texts
from strangers import cog_view_4, flux_2, seeded, texts_of_any_length, z_image
from torch import nn

from tiny_configs import TINY

HEADS = {"attention_head_dim": 8, "num_attention_heads": 2}
DOUBLE = {**HEADS, "num_layers": 2, "num_single_layers": 2, "joint_attention_dim": 12, "axes_dims_rope": (2, 2, 4)}


def transformer(kind: str, **config: Any) -> nn.Module:
    return seeded(getattr(diffusers, kind), **config)


def resized(kind: str, **config: Any) -> nn.Module:
    """A tiny model of a family, with other sizes."""
    return transformer(kind, **{**TINY[kind], **config})


# --- Flux


def flux_of(kind: str, in_channels: int = 4, latent_channels: int = 1, **parts: Any) -> Any:
    model = resized("FluxTransformer2DModel", in_channels=in_channels, out_channels=4 * latent_channels)
    none = {"text_encoder_2": None, "tokenizer_2": None}
    decoder = vae(latent_channels, shift_factor=0.1)
    return made_of(kind, scheduler=FlowMatch(), vae=decoder, transformer=model, **none, **parts)


flux_control = partial(flux_of, in_channels=8)
flux_fill = partial(flux_of, in_channels=24)


def klein(kind: str) -> Any:
    known = flux_2()
    return getattr(diffusers, kind)(known.scheduler, known.vae, t5(), None, known.transformer)


# --- Stable Diffusion 3, Sana, Hunyuan-DiT, Qwen


def sd3_control(kind: str) -> Any:
    parts, extra = stable_diffusion_3().components, 1 if "Inpaint" in kind else 0
    net = diffusers.SD3ControlNetModel.from_transformer(
        parts["transformer"], num_layers=1, num_extra_conditioning_channels=extra
    )
    return getattr(diffusers, kind)(**parts, controlnet=randomised(net))


def sd3_inpaint(kind: str) -> Any:
    parts = stable_diffusion_3().components
    model = resized("SD3Transformer2DModel", in_channels=16, out_channels=16)
    return getattr(diffusers, kind)(**parts | {"transformer": model, "vae": vae(16, shift_factor=0.1)})


def sprint(kind: str) -> Any:
    parts = sana().components
    model = resized("SanaTransformer2DModel", guidance_embeds=True, qk_norm="rms_norm_across_heads")
    return getattr(diffusers, kind)(**parts | {"transformer": model, "scheduler": diffusers.SCMScheduler()})


def sprint_texts(batch: int) -> dict[str, Any]:
    known = {"prompt_embeds": random(batch, 5, 12, seed=3), "prompt_attention_mask": torch.ones(batch, 5)}
    return known | {"intermediate_timesteps": None, "use_resolution_binning": False, **SIDES}


def hunyuan_control(kind: str) -> Any:
    known = hunyuan_dit()
    parts = {name: part for name, part in known.components.items()}
    config = {**config_of(known.transformer), "transformer_num_layers": 4}
    net = of_config(diffusers.HunyuanDiT2DControlNetModel, config)
    return getattr(diffusers, kind)(**parts, requires_safety_checker=False, controlnet=randomised(net))


def qwen_control(kind: str) -> Any:
    parts = qwen_image().components
    net = seeded(
        diffusers.QwenImageControlNetModel,
        **{**TINY["QwenImageTransformer2DModel"], "num_layers": 1},
        extra_condition_channels=4,
    )
    return getattr(diffusers, kind)(**parts, controlnet=randomised(net))


# --- CogView, Cosmos


def cog_view_3(kind: str) -> Any:
    model = transformer(
        "CogView3PlusTransformer2DModel", in_channels=4, out_channels=4, num_layers=2, **HEADS, text_embed_dim=12,
        time_embed_dim=8, condition_dim=2, pos_embed_max_size=16, sample_size=8,
    )  # fmt: skip
    return made_of(kind, vae=vae(), transformer=model, scheduler=diffusers.CogVideoXDDIMScheduler())


def cog_view_control(kind: str) -> Any:
    parts = cog_view_4().components
    model = transformer("CogView4Transformer2DModel", **{**config_of(parts["transformer"]), "in_channels": 8})
    return getattr(diffusers, kind)(**parts | {"transformer": model})


def config_of(model: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in model.config.items() if not name.startswith("_")}


# --- one model each


def bria(kind: str) -> Any:
    model = transformer("BriaTransformer2DModel", in_channels=16, **DOUBLE, pooled_projection_dim=None)
    return made_of(kind, transformer=model, scheduler=FlowMatch(), vae=vae(), text_encoder=None)


def bria_fibo(kind: str) -> Any:
    model = transformer(
        "BriaFiboTransformer2DModel", in_channels=4, **DOUBLE | {"joint_attention_dim": 24}, text_encoder_dim=12
    )
    return made_of(
        kind, transformer=model, scheduler=FlowMatch(), vae=wan().vae, text_encoder=small_llm(), tokenizer=words()
    )


def bria_fibo_2(kind: str) -> Any:
    model = transformer(
        "BriaFibo2Transformer2DModel", in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2,
        cap_feat_dim=12,
        injection_layer_ids=(1,), perceiver_num_layers=1, min_num_gist_tokens=4, max_num_gist_tokens=8, gist_step=2,
        gist_min_text_len=4, gist_max_text_len=16, axes_dims=(8, 4, 4), axes_lens=(64, 32, 32),
    )  # fmt: skip
    return getattr(diffusers, kind)(model, FlowMatch(), flux_2().vae, None, None)


def ernie(kind: str) -> Any:
    model = transformer(
        "ErnieImageTransformer2DModel", hidden_size=32, num_attention_heads=2, num_layers=2, ffn_hidden_size=32,
        in_channels=16, out_channels=16, text_in_dim=12, rope_axes_dim=(4, 6, 6),
    )  # fmt: skip
    return made_of(kind, transformer=randomised(model), vae=flux_2().vae, scheduler=FlowMatch())


def glm(kind: str) -> Any:
    model = transformer(
        "GlmImageTransformer2DModel", patch_size=2, in_channels=4, out_channels=4, num_layers=2, **HEADS,
        text_embed_dim=12, time_embed_dim=16, condition_dim=8, prior_vq_quantizer_codebook_size=16,
    )  # fmt: skip
    decoder = vae(latents_mean=[0.0] * 4, latents_std=[1.0] * 4)
    others = {"processor": None, "vision_language_encoder": None}
    return made_of(kind, vae=decoder, transformer=model, scheduler=FlowMatch(), **others)


def hi_dream(kind: str) -> Any:
    model = transformer(
        "HiDreamImageTransformer2DModel", patch_size=2, in_channels=4, out_channels=4, num_layers=1,
        num_single_layers=1,
        **HEADS, caption_channels=[12, 12], text_emb_dim=16, num_routed_experts=4, num_activated_experts=2,
        axes_dims_rope=(4, 2, 2), max_resolution=(32, 32), llama_layers=(0, 1), force_inference_output=True,
    )  # fmt: skip
    none = dict.fromkeys(f"{part}_{number}" for part in ("text_encoder", "tokenizer") for number in (2, 3, 4))
    return made_of(kind, scheduler=FlowMatch(), vae=vae(shift_factor=0.1), transformer=model, **none)


def hi_dream_texts(batch: int) -> dict[str, Any]:
    # (layers, batch, 1, tokens, width) of the Llama
    found = texts(batch, prompt_embeds_t5=(6, 12), pooled_prompt_embeds=(16,))
    llama = {f"{sign}prompt_embeds_llama3": random(2, batch, 6, 12, seed=3) for sign in ("", "negative_")}
    return found | llama | SIDES


def hunyuan_image(kind: str, **config: Any) -> Any:
    model = transformer(
        "HunyuanImageTransformer2DModel", in_channels=4, out_channels=4, **HEADS, num_layers=1, num_single_layers=1,
        num_refiner_layers=1, patch_size=(1, 1), guidance_embeds=True, text_embed_dim=12, text_embed_2_dim=12,
        rope_axes_dim=(4, 4), **config,
    )  # fmt: skip
    decoder = seeded(
        diffusers.AutoencoderKLHunyuanImage, in_channels=3, out_channels=3, latent_channels=4, layers_per_block=1,
        block_out_channels=(32, 32), spatial_compression_ratio=2, sample_size=32, scaling_factor=0.5,
    )  # fmt: skip
    none = {"text_encoder_2": None, "tokenizer_2": None}
    return made_of(kind, scheduler=FlowMatch(), vae=decoder, transformer=model, **none)


def hunyuan_image_texts(batch: int) -> dict[str, Any]:
    seen = torch.ones(batch, 6)
    masks = {"prompt_embeds_mask": seen, "prompt_embeds_mask_2": seen.clone()}
    return {"prompt_embeds": rows(batch, 6, 12), "prompt_embeds_2": rows(batch, 6, 12), **masks, **SIDES}


def krea(kind: str) -> Any:
    model = transformer(
        "Krea2Transformer2DModel", in_channels=16, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        num_key_value_heads=2, intermediate_size=32, timestep_embed_dim=8, text_hidden_dim=12, num_text_layers=3,
        text_num_attention_heads=2, text_num_key_value_heads=1, text_intermediate_size=16, num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1, axes_dims_rope=(4, 2, 2),
    )  # fmt: skip
    return made_of(
        kind, scheduler=FlowMatch(), vae=qwen_image().vae, transformer=model, text_encoder_select_layers=(0, 1, 2)
    )


def ovis(kind: str) -> Any:
    model = transformer("OvisImageTransformer2DModel", in_channels=16, out_channels=16, **DOUBLE)
    return made_of(kind, scheduler=FlowMatch(), vae=vae(shift_factor=0.1), transformer=model)


def lumina(kind: str) -> Any:
    model = transformer(
        "LuminaNextDiT2DModel", sample_size=8, in_channels=4, hidden_size=16, num_layers=2, num_attention_heads=2,
        num_kv_heads=1, multiple_of=8, cross_attention_dim=12,
    )  # fmt: skip
    return made_of(kind, transformer=model, scheduler=FlowMatch(), vae=vae())


def nucleus(kind: str) -> Any:
    model = transformer(
        "NucleusMoEImageTransformer2DModel", patch_size=2, in_channels=16, out_channels=4, num_layers=4, **HEADS,
        joint_attention_dim=12, axes_dims_rope=(2, 2, 4), moe_enabled=True, num_experts=4, moe_intermediate_dim=8,
    )  # fmt: skip
    return getattr(diffusers, kind)(model, FlowMatch(), qwen_image().vae, None, None)


def prx(kind: str, in_channels: int = 4, **parts: Any) -> Any:
    model = transformer(
        "PRXTransformer2DModel", in_channels=in_channels, patch_size=2, context_in_dim=12, hidden_size=16,
        mlp_ratio=2.0,
        num_heads=2, depth=2, axes_dim=[4, 4],
    )  # fmt: skip
    parts = parts or {"vae": vae(shift_factor=0.1)}
    return getattr(diffusers, kind)(randomised(model), FlowMatch(), None, None, default_sample_size=32, **parts)


prx_pixel = partial(prx, in_channels=3, noise_scale=1.0)


def prx_texts(batch: int) -> dict[str, Any]:
    masks = {f"{sign}prompt_attention_mask": torch.ones(batch, 5, dtype=torch.bool) for sign in ("", "negative_")}
    return texts(batch, prompt_embeds=(5, 12)) | masks | {"use_resolution_binning": False, **SIDES}


def z_image_control(kind: str) -> Any:
    parts = z_image().components
    net = of_config(diffusers.ZImageControlNetModel, {**config_of(parts["transformer"]), "control_in_dim": 9})
    net = diffusers.ZImageControlNetModel.from_transformer(net, parts["transformer"])
    return getattr(diffusers, kind)(**parts, controlnet=randomised(net))


def cosmos_image(kind: str) -> Any:
    model = transformer(
        "CosmosTransformer3DModel", in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16,
        num_layers=2, mlp_ratio=2.0, text_embed_dim=12, adaln_lora_dim=4, max_size=(4, 32, 32), patch_size=(1, 2, 2),
        rope_scale=(1.0, 4.0, 4.0), concat_padding_mask=False, extra_pos_embed_type=None,
    )  # fmt: skip
    return made_of(
        kind, transformer=model, vae=wan().vae, scheduler=FlowMatch(use_karras_sigmas=True), safety_checker=Unchecked()
    )


class Unchecked(nn.Module):
    """In the place of Cosmos' safety checker, which is a large model."""

    device, dtype = torch.device("cpu"), torch.float32

    def to(self, *args: Any, **kwargs: Any) -> Any:
        return self

    def check_text_safety(self, text: str) -> bool:
        return True

    def check_video_safety(self, frames: Any) -> Any:
        return frames


six_texts = partial(texts, prompt_embeds=(6, 12))
all_seen = partial(seen, name="prompt_embeds_mask")
all_attended = partial(seen, name="prompt_attention_mask")
TRANSFORMERS = [
    own("FluxControlPipeline", flux_control, flux_texts, SIDES, control_image=picture),
    own("FluxControlImg2ImgPipeline", flux_control, flux_texts, SIDES, control_image=picture, image=picture),
    own("FluxControlInpaintPipeline", flux_control, flux_texts, SIDES, control_image=picture, image=picture,
        mask_image=hole),
    own("FluxFillPipeline", flux_fill, flux_texts, SIDES, image=picture, mask_image=hole),
    own("FluxKontextPipeline", flux_of, flux_texts, SIDES, image=images, max_area=1024, _auto_resize=False),
    own("FluxKontextInpaintPipeline", flux_of, flux_texts, SIDES, image=picture, mask_image=hole, max_area=1024,
        _auto_resize=False),
    own("Flux2KleinPipeline", klein, six_texts, SIDES),
    own("Flux2KleinInpaintPipeline", klein, six_texts, SIDES, image=picture,
        mask_image=hole),
    own("StableDiffusion3ControlNetPipeline", sd3_control, sd3_texts, SIDES, control_image=picture),
    own("StableDiffusion3ControlNetInpaintingPipeline", sd3_control, sd3_texts, SIDES, control_image=picture,
        control_mask=hole),
    own("StableDiffusion3InpaintPipeline", sd3_inpaint, sd3_texts, SIDES, image=picture, mask_image=hole),
    own("SanaSprintPipeline", sprint, sprint_texts),
    own("SanaSprintImg2ImgPipeline", sprint, sprint_texts, image=picture),
    own("HunyuanDiTControlNetPipeline", hunyuan_control, hunyuan_texts, height=16, width=16, control_image=picture),
    own("QwenImageControlNetInpaintPipeline", qwen_control, qwen_texts, SIDES, control_image=picture,
        control_mask=hole),
    own("CogView3PlusPipeline", cog_view_3, video_texts, height=16, width=16),
    own("CogView4ControlPipeline", cog_view_control, video_texts, SIDES, control_image=picture),
    own("BriaPipeline", bria, six_texts, SIDES),
    own("BriaFiboPipeline", bria_fibo, prompts, SIDES, negative_prompt=WORDS),
    own("BriaFiboEditPipeline", bria_fibo, SIDES, prompt='{"edit_instruction": "a red apple"}', negative_prompt=WORDS,
        image=images, _auto_resize=False),
    own("BriaFibo2Pipeline", bria_fibo_2, partial(texts, prompt_embeds=(2, 6, 12)), SIDES, all_seen),
    own("ErnieImagePipeline", ernie, SIDES, prompt_embeds=lambda batch: list(rows(batch, 6, 12)),
        negative_prompt_embeds=lambda batch: list(-rows(batch, 6, 12))),
    own("GlmImagePipeline", glm, six_texts, SIDES,
        prior_token_ids=lambda batch: torch.arange(64).remainder(16).expand(batch, 64)),
    own("HiDreamImagePipeline", hi_dream, hi_dream_texts),
    own("HunyuanImagePipeline", hunyuan_image, hunyuan_image_texts),
    own("Krea2Pipeline", krea, SIDES, partial(texts, prompt_embeds=(6, 3, 12)), all_seen),
    own("OvisImagePipeline", ovis, SIDES, {"negative_prompt": None}, six_texts),
    own("LuminaPipeline", lumina, SIDES, six_texts, all_attended),
    own("NucleusMoEImagePipeline", nucleus, SIDES, six_texts, all_seen),
    own("PRXPipeline", prx, prx_texts),
    own("PRXPixelPipeline", prx_pixel, prx_texts),
    own("Cosmos2TextToImagePipeline", cosmos_image, six_texts, SIDES),
    own("ZImageControlNetInpaintPipeline", z_image_control, texts_of_any_length, SIDES, image=picture,
        mask_image=hole, control_image=picture),
]  # fmt: skip
