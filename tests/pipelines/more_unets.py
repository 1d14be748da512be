"""Further pipelines around U-Nets and priors, for the sweep alone: a line or two for each class."""

import inspect
from functools import partial
from typing import Any

import diffusers
from cases import (
    NO_DECODER,
    SAFE,
    ddim,
    picture,
    sd_texts,
    stable_diffusion,
    stable_diffusion_xl,
    texts,
    tiny_unet,
    vae,
    xl_texts,
)
from parts import (
    SIDES,
    WORDS,
    clip_text,
    clip_text_projected,
    clip_vision,
    hole,
    image_reader,
    images,
    made_of,
    own,
    prompts,
    quantised_autoencoder,
    rows,
    signed,
    words,
)
from strangers import animate_diff, seeded
from torch import Tensor, nn

from tiny import tiny_model

SMALL_CONTROL = {"conditioning_embedding_out_channels": (4, 8)}
SIMPLE = {
    "block_out_channels": (8, 16), "layers_per_block": 1, "attention_head_dim": 4, "norm_num_groups": 4,
    "cross_attention_dim": 12, "sample_size": 16, "resnet_time_scale_shift": "scale_shift",
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
}  # fmt: skip
"""Of U-Nets of DeepFloyd and Kandinsky, whose attentions read text and picture together."""


def unet(**config: Any) -> nn.Module:
    return seeded(diffusers.UNet2DConditionModel, **config)


# --- Stable Diffusion


def xl_control(kind: str, union: bool = False) -> Any:
    pipe = stable_diffusion_xl()
    net = union_net(pipe.unet) if union else diffusers.ControlNetModel.from_unet(pipe.unet, **SMALL_CONTROL).eval()
    return getattr(diffusers, kind)(**pipe.components, controlnet=net)


def union_net(unet: nn.Module) -> nn.Module:
    takes = inspect.signature(diffusers.ControlNetUnionModel.__init__).parameters
    known = {name: value for name, value in unet.config.items() if name in takes}
    sizes = {"num_trans_channel": 8, "num_proj_channel": 8, "num_trans_head": 2, "num_trans_layer": 1, **SMALL_CONTROL}
    return seeded(diffusers.ControlNetUnionModel, **{**known, **sizes})


def union(batch: int) -> dict[str, Any]:
    return xl_texts(batch) | {"control_image": [picture(batch)], "control_mode": [0], **SIDES}


def xl_instruct(kind: str) -> Any:
    parts = stable_diffusion_xl().components
    config = {name: value for name, value in parts["unet"].config.items() if not name.startswith("_")}
    taken = {name: part for name, part in parts.items() if name not in ("image_encoder", "feature_extractor")}
    return getattr(diffusers, kind)(**taken | {"unet": unet(**config | {"in_channels": 8})})


def consistency(kind: str) -> Any:
    return stable_diffusion(kind, {"time_cond_proj_dim": 8}, scheduler=diffusers.LCMScheduler())


def marigold(kind: str, targets: int = 1, **options: Any) -> Any:
    model = tiny_unet(in_channels=4 + 4 * targets, out_channels=4 * targets)
    parts = {"text_encoder": clip_text(), "tokenizer": words(), "scheduler": ddim(), "vae": vae()}
    return made_of(kind, unet=model, default_processing_resolution=0, **parts, **options)


def edit(kind: str) -> Any:
    """Its inversion of a picture comes before the run."""
    solver = diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", solver_order=2)
    parts = {"vae": vae(), "scheduler": solver, "text_encoder": clip_text(), "tokenizer": words(), **SAFE}
    pipe = made_of(kind, unet=tiny_unet(), **parts)
    pipe.set_progress_bar_config(disable=True)
    pipe.invert(image=images(1)[0], num_inversion_steps=8, skip=0.5, **SIDES)
    return pipe


def variations(kind: str) -> Any:
    parts = {"unet": tiny_unet(), "vae": vae(), "scheduler": ddim(), "safety_checker": None}
    readers = {"image_encoder": clip_vision(12, 12), "feature_extractor": image_reader()}
    return getattr(diffusers, kind)(**parts, **readers, requires_safety_checker=False)


def of_depth(kind: str) -> Any:
    parts = {"depth_estimator": None, "feature_extractor": None, "vae": vae(), "scheduler": ddim()}
    return made_of(kind, unet=tiny_unet(in_channels=5), **parts)


def upscale(kind: str) -> Any:
    parts = {"low_res_scheduler": diffusers.DDPMScheduler(), "vae": vae(), "scheduler": ddim()}
    return made_of(kind, unet=tiny_unet(in_channels=7, num_class_embeds=1000), **parts, max_noise_level=350)


def latent_upscale(kind: str) -> Any:
    model = unet(
        block_out_channels=(32, 32, 64, 64), attention_head_dim=8, norm_num_groups=None, act_fn="gelu",
        mid_block_type=None,
        down_block_types=("KDownBlock2D", *["KCrossAttnDownBlock2D"] * 3), layers_per_block=2,
        up_block_types=(*["KCrossAttnUpBlock2D"] * 3, "KUpBlock2D"), cross_attention_dim=12,
        time_cond_proj_dim=140, conv_in_kernel=1, conv_out_kernel=1, in_channels=8, out_channels=5,
        resnet_time_scale_shift="scale_shift", time_embedding_type="fourier", timestep_post_act="gelu",
    )  # fmt: skip
    return made_of(kind, vae=vae(), unet=model, scheduler=diffusers.EulerDiscreteScheduler(prediction_type="sample"))


def unclip(kind: str, **parts: Any) -> Any:
    from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer

    model = tiny_unet(class_embed_type="projection", projection_class_embeddings_input_dim=16)
    parts |= {"image_normalizer": seeded(StableUnCLIPImageNormalizer, embedding_dim=8), "vae": vae()}
    parts |= {"image_noising_scheduler": diffusers.DDPMScheduler(), "scheduler": ddim()}
    return made_of(kind, unet=model, text_encoder=clip_text(), tokenizer=words(), **parts)


def unclip_of_images(kind: str) -> Any:
    return unclip(kind, feature_extractor=None, image_encoder=clip_vision())


def unclip_of_texts(kind: str) -> Any:
    read = {"prior_tokenizer": words(), "prior_text_encoder": clip_text_projected(8, 8), "prior": prior()}
    return unclip(kind, **read, prior_scheduler=diffusers.UnCLIPScheduler())


def latent_text_to_image(kind: str) -> Any:
    return getattr(diffusers, kind)(vae(), clip_text(), words(), tiny_unet(), ddim())


def latent_super_resolution(kind: str) -> Any:
    model = seeded(
        diffusers.UNet2DModel, sample_size=16, in_channels=6, out_channels=3, block_out_channels=(8, 8),
        layers_per_block=1, down_block_types=("DownBlock2D", "AttnDownBlock2D"), norm_num_groups=4,
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), attention_head_dim=4,
    )  # fmt: skip
    return getattr(diffusers, kind)(quantised_autoencoder(3), model, ddim())


# --- without a text: a U-Net and a loop of its own


def pixels(kind: str) -> Any:
    scheduler = {"KarrasVePipeline": diffusers.KarrasVeScheduler, "RePaintPipeline": diffusers.RePaintScheduler}[kind]
    return getattr(diffusers, kind)(unet=tiny_model("UNet2DModel"), scheduler=scheduler())


# --- AnimateDiff


def animate(kind: str, control: bool = True) -> Any:
    names = ("vae", "text_encoder", "tokenizer", "unet", "motion_adapter", "scheduler")
    known = {name: part for name, part in animate_diff().components.items() if name in names}
    return getattr(diffusers, kind)(**known, controlnet=control_of_frames() if control else sparse_control())


def control_of_frames() -> nn.Module:
    levels = {"block_out_channels": (8, 8), "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D")}
    known = tiny_unet(**levels, up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
    return seeded(diffusers.ControlNetModel.from_unet, unet=known, **SMALL_CONTROL)


def sparse_control() -> nn.Module:
    return seeded(
        diffusers.SparseControlNetModel, block_out_channels=(8, 8), layers_per_block=1, cross_attention_dim=12,
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"), norm_num_groups=4, num_attention_heads=2,
        conditioning_channels=3, use_simplified_condition_embedding=False, motion_num_attention_heads=2,
        **SMALL_CONTROL,
    )  # fmt: skip


def animated(batch: int) -> dict[str, Any]:
    return sd_texts(batch) | {"num_frames": 3, "conditioning_frames": images(3), **SIDES}


# --- DeepFloyd IF


def deep_floyd(kind: str) -> Any:
    config = {"encoder_hid_dim": 12, "addition_embed_type": "text", "addition_embed_type_num_heads": 2}
    parts = {"scheduler": diffusers.DDPMScheduler(variance_type="learned_range"), "watermarker": None, **SAFE}
    if "SuperResolution" in kind:
        config |= {"class_embed_type": "timestep", "in_channels": 6}
        parts["image_noising_scheduler"] = diffusers.DDPMScheduler()
    return made_of(kind, unet=unet(**SIMPLE | {"in_channels": 3} | config, out_channels=6), **parts)


floyd_texts = partial(texts, prompt_embeds=(7, 12))
small_picture = partial(signed, size=16)


# --- Kandinsky


def movq() -> nn.Module:
    return quantised_autoencoder(block_out_channels=(32, 32), norm_type="spatial", vq_embed_dim=4)


def kandinsky(kind: str, **config: Any) -> Any:
    known = {"encoder_hid_dim": 8, "encoder_hid_dim_type": "image_proj", "addition_embed_type": "image"}
    model = unet(**SIMPLE | known | {"in_channels": 4, "out_channels": 8} | config)
    return getattr(diffusers, kind)(unet=model, scheduler=diffusers.DDPMScheduler(), movq=movq())


kandinsky_hint = partial(kandinsky, addition_embed_type="image_hint", in_channels=8)
kandinsky_inpaint = partial(kandinsky, in_channels=9)


def embedded(batch: int) -> dict[str, Any]:
    return {"image_embeds": rows(batch, 8), "negative_image_embeds": rows(batch, 8), **SIDES}


def prior() -> nn.Module:
    small = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "num_embeddings": 7}
    made = seeded(diffusers.PriorTransformer, **small, embedding_dim=8)
    nn.init.normal_(made.clip_std)  # it starts as zeros
    return made


def kandinsky_prior(kind: str) -> Any:
    parts = {"image_encoder": clip_vision(8, 8), "text_encoder": clip_text_projected(8, 8), "tokenizer": words()}
    parts |= {"scheduler": diffusers.UnCLIPScheduler(prediction_type="sample"), "image_processor": image_reader()}
    return getattr(diffusers, kind)(prior=prior(), **parts)


def shap_e(kind: str) -> Any:
    from diffusers.pipelines.shap_e.renderer import ShapERenderer

    model = seeded(
        diffusers.PriorTransformer, num_attention_heads=2, attention_head_dim=8, num_layers=2, num_embeddings=6,
        embedding_dim=8, embedding_proj_dim=8, time_embed_dim=16, additional_embeddings=0, clip_embed_dim=16,
        time_embed_act_fn="gelu", norm_in_type="layer", encoder_hid_proj_type=None, added_emb_type=None,
        embedding_proj_norm_type="layer" if "Img2Img" in kind else None,
    )  # fmt: skip
    shapes = {"param_shapes": ((8, 93), (8, 8), (8, 8), (8, 8)), "d_latent": 8, "d_hidden": 8, "n_hidden_layers": 3}
    parts = {"shap_e_renderer": seeded(ShapERenderer, **shapes, insert_direction_at=2)}
    parts |= (
        {"image_encoder": clip_vision(kind="CLIPVisionModel"), "image_processor": image_reader()}
        if "Img2Img" in kind
        else {"text_encoder": clip_text_projected(8, 8), "tokenizer": words()}
    )
    scheduler = diffusers.HeunDiscreteScheduler(prediction_type="sample", use_karras_sigmas=True, clip_sample=True)
    return getattr(diffusers, kind)(prior=model, scheduler=scheduler, **parts)


def with_prior(kind: str, **config: Any) -> Any:
    first = kandinsky_prior("KandinskyV22PriorPipeline").components
    parts = kandinsky("KandinskyV22Pipeline", **config).components
    return getattr(diffusers, kind)(**parts, **{f"prior_{name}": part for name, part in first.items()})


def kandinsky_2_1(kind: str, **config: Any) -> Any:
    from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
    reader = MCLIPConfig(numDims=8, transformerDimensions=8, vocab_size=16, **sizes)
    known = {"encoder_hid_dim": 8, "encoder_hid_dim_type": "text_image_proj", "addition_embed_type": "text_image"}
    model = unet(**SIMPLE | known | {"in_channels": 4, "out_channels": 8, "cross_attention_dim": 8} | config)
    parts = {"text_encoder": seeded(MultilingualCLIP, config=reader), "tokenizer": words(), "movq": movq()}
    if "Combined" in kind:
        first = kandinsky_prior("KandinskyPriorPipeline").components
        parts |= {f"prior_{name}": part for name, part in first.items()}
    return getattr(diffusers, kind)(unet=model, scheduler=ddim(), **parts)


kandinsky_2_1_inpaint = partial(kandinsky_2_1, in_channels=9)


def kandinsky_3(kind: str) -> Any:
    model = seeded(
        diffusers.Kandinsky3UNet, in_channels=4, time_embedding_dim=4, groups=2, attention_head_dim=4,
        layers_per_block=2, block_out_channels=(8, 16), cross_attention_dim=4, encoder_hid_dim=12,
    )  # fmt: skip
    return made_of(kind, unet=model, scheduler=diffusers.DDPMScheduler(), movq=movq())


def kandinsky_3_texts(batch: int) -> dict[str, Any]:
    seen = {f"{sign}attention_mask": rows(batch, 7).isfinite().float() for sign in ("", "negative_")}
    return texts(batch, prompt_embeds=(7, 12)) | seen


def number_hole(batch: int) -> Any:
    return hole(1)[0, 0].numpy()


def one_image(batch: int) -> Any:
    return images(1)[0]


def depths(batch: int) -> Tensor:
    return rows(batch, 32, 32)


FEW = {"prior_num_inference_steps": 3, **SIDES}
UNETS = [
    own("StableDiffusionXLControlNetPAGImg2ImgPipeline", xl_control, xl_texts, image=picture, control_image=picture),
    own("StableDiffusionXLControlNetUnionPipeline", partial(xl_control, union=True), union),
    own("StableDiffusionXLControlNetUnionImg2ImgPipeline", partial(xl_control, union=True), union, image=picture),
    own("StableDiffusionXLControlNetUnionInpaintPipeline", partial(xl_control, union=True), union, image=picture,
        mask_image=hole),
    own("StableDiffusionXLInstructPix2PixPipeline", xl_instruct, xl_texts, SIDES, image=picture),
    own("LatentConsistencyModelPipeline", consistency, SIDES, prompt_embeds=lambda batch: rows(batch, 7, 12)),
    own("LatentConsistencyModelImg2ImgPipeline", consistency, prompt_embeds=lambda batch: rows(batch, 7, 12),
        image=picture),
    own("MarigoldDepthPipeline", marigold, image=picture),
    own("MarigoldNormalsPipeline", marigold, image=picture),
    own("MarigoldIntrinsicsPipeline", partial(marigold, targets=2, prediction_type="intrinsics"), image=picture),
    own("StableDiffusionImageVariationPipeline", variations, SIDES, image=picture),
    own("StableDiffusionDepth2ImgPipeline", of_depth, sd_texts, image=picture, depth_map=depths),
    own("StableDiffusionUpscalePipeline", upscale, sd_texts, image=partial(picture, size=16)),
    own("StableDiffusionLatentUpscalePipeline", latent_upscale,
        partial(texts, prompt_embeds=(7, 12), pooled_prompt_embeds=(12,)), image=lambda batch: rows(batch, 4, 8, 8)),
    own("StableUnCLIPImg2ImgPipeline", unclip_of_images, prompts,
        SIDES, image_embeds=lambda batch: rows(batch, 8)),
    own("StableUnCLIPPipeline", unclip_of_texts, prompts, FEW),
    own("LEditsPPPipelineStableDiffusion", edit, editing_prompt=[WORDS]),
    own("LDMTextToImagePipeline", latent_text_to_image, prompts, SIDES),
    own("LDMSuperResolutionPipeline", latent_super_resolution, image=small_picture),
    own("KarrasVePipeline", pixels, batch_size=lambda batch: batch),
    own("RePaintPipeline", pixels, image=small_picture, mask_image=partial(hole, size=16)),
    own("AnimateDiffControlNetPipeline", animate, animated),
    own("AnimateDiffSparseControlNetPipeline", partial(animate, control=False), animated,
        controlnet_frame_indices=[0, 1, 2]),
    own("AnimateDiffVideoToVideoControlNetPipeline", animate, sd_texts, SIDES, video=images(3),
        conditioning_frames=images(3)),
    own("IFPipeline", deep_floyd, floyd_texts, height=16, width=16),
    own("IFImg2ImgPipeline", deep_floyd, floyd_texts, image=signed),
    own("IFInpaintingPipeline", deep_floyd, floyd_texts, image=signed, mask_image=hole),
    own("IFSuperResolutionPipeline", deep_floyd, floyd_texts, image=partial(signed, size=8), height=16, width=16),
    own("IFImg2ImgSuperResolutionPipeline", deep_floyd, floyd_texts, image=small_picture, original_image=signed),
    own("IFInpaintingSuperResolutionPipeline", deep_floyd, floyd_texts, image=small_picture, original_image=signed,
        mask_image=hole),
    own("KandinskyV22Pipeline", kandinsky, embedded),
    own("KandinskyV22Img2ImgPipeline", kandinsky, embedded, image=signed, strength=0.8),
    own("KandinskyV22InpaintPipeline", kandinsky_inpaint, embedded, image=one_image, mask_image=number_hole),
    own("KandinskyV22ControlnetPipeline", kandinsky_hint, embedded, hint=partial(picture, size=128)),
    own("KandinskyV22ControlnetImg2ImgPipeline", kandinsky_hint, embedded, hint=partial(picture, size=128),
        image=signed, strength=0.8),
    own("KandinskyV22CombinedPipeline", with_prior, prompts, FEW),
    own("KandinskyV22Img2ImgCombinedPipeline", with_prior, prompts, FEW, image=images, strength=0.8),
    own("KandinskyV22InpaintCombinedPipeline", partial(with_prior, in_channels=9), prompts, FEW, image=one_image,
        mask_image=number_hole),
    own("KandinskyPriorPipeline", kandinsky_prior, prompts),
    own("KandinskyV22PriorPipeline", kandinsky_prior, prompts),
    own("KandinskyV22PriorEmb2EmbPipeline", kandinsky_prior, prompts, image=one_image, strength=0.8),
    own("KandinskyPipeline", kandinsky_2_1, prompts, embedded),
    own("KandinskyImg2ImgPipeline", kandinsky_2_1, prompts, embedded, image=signed, strength=0.8),
    own("KandinskyInpaintPipeline", kandinsky_2_1_inpaint, prompts, embedded, image=one_image, mask_image=number_hole),
    own("KandinskyCombinedPipeline", kandinsky_2_1, prompts, FEW),
    own("KandinskyImg2ImgCombinedPipeline", kandinsky_2_1, prompts, FEW, image=images, strength=0.8),
    own("KandinskyInpaintCombinedPipeline", kandinsky_2_1_inpaint, prompts, FEW, image=one_image,
        mask_image=number_hole),
    own("ShapEPipeline", shap_e, prompts, NO_DECODER),
    own("ShapEImg2ImgPipeline", shap_e, NO_DECODER, image=images),
    own("Kandinsky3Pipeline", kandinsky_3, kandinsky_3_texts, SIDES),
    own("Kandinsky3Img2ImgPipeline", kandinsky_3, kandinsky_3_texts, image=signed, strength=0.8),
]  # fmt: skip
