"""Diffusers pipelines that run masks unchanged, each small enough to be made and run in a moment.

A table to extend, and to read: `VERIFIED` has one row for each, for the documentation.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import diffusers
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DPMSolverMultistepScheduler
from diffusers import FlowMatchEulerDiscreteScheduler as FlowMatch
from torch import Tensor
from torch.nn.functional import interpolate

from small import video_autoencoder
from stepmask.runtime.sampling import sample
from tiny import ddim_pipeline, ddpm_pipeline, dit_pipeline, quiet, tiny_model

Guidance = Literal["none", "one call", "one call of three", "two calls", "embedded"]
"""How guidance runs: as one call of two or three times the batch, as two calls, or as an input of the model."""
FORWARDS: dict[Guidance, int] = {"none": 1, "one call": 2, "one call of three": 3, "two calls": 2, "embedded": 1}
"""Denoiser inputs per image and step."""


@dataclass(frozen=True)
class Case:
    """A way to use a pipeline.

    Attributes:
        name: What the documentation calls it.
        make: Builds it; twice the same weights.
        inputs: Keyword arguments of a call for so many images, beside the seeds and steps.
        guidance: As the inputs have it.
        sizes: Two resolutions.
        steps: Of a call.
        start: Row at which a call begins.
    """

    name: str
    make: Callable[[], Any]
    inputs: Callable[[int], dict[str, Any]] = lambda batch: {}
    guidance: Guidance = "none"
    sizes: tuple[dict[str, int], dict[str, int]] = ({}, {})
    steps: int = 4
    start: int = 0
    scheduler: Any = None
    """In place of the pipeline's own."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of every call."""

    def build(self) -> Any:
        pipe = quiet(self.make())
        if self.scheduler is not None:
            pipe.scheduler = self.scheduler()
        return pipe

    def arguments(self, batch: int = 2, size: int = 0) -> dict[str, Any]:
        found = {**self.inputs(batch), **self.sizes[size], **self.options}
        for name in {"image", "mask_image", "control_image"} & set(found) if "height" in found else ():
            if isinstance(found[name], Tensor):
                found[name] = interpolate(found[name], (found["height"], found["width"]))
        return found

    def run(self, pipe, batch: int = 2, size: int = 0, seed: int = 0) -> Tensor:
        return sample(pipe, self.arguments(batch, size), range(seed, seed + batch), self.steps)


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def texts(batch: int, **widths: tuple[int, ...]) -> dict[str, Tensor]:
    """Embeddings (batch, *shape) by name, and negative ones."""
    positive = {name: random(batch, *shape, seed=3) for name, shape in widths.items()}
    return positive | {f"negative_{name}": random(batch, *shape, seed=4) for name, shape in widths.items()}


def square(*sides: int, **others: int) -> tuple[dict[str, int], dict[str, int]]:
    """A square and a rectangle."""
    return {"height": sides[0], "width": sides[0], **others}, {"height": sides[1], "width": sides[2], **others}


def vae(latent_channels: int = 4, **config) -> AutoencoderKL:
    """Halves height and width."""
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    small = {"block_out_channels": (4, 4), "norm_num_groups": 2, "sample_size": 32} | blocks
    return AutoencoderKL(latent_channels=latent_channels, **small, **config).eval()


def ddim() -> DDIMScheduler:
    return DDIMScheduler(steps_offset=1, clip_sample=False)


# --- Stable Diffusion

SD_SIZES = square(32, 24, 40)
NO_TEXT = {"text_encoder": None, "tokenizer": None}
SAFE = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def tiny_unet(**config) -> diffusers.UNet2DConditionModel:
    torch.manual_seed(0)
    known = type(tiny_model("UNet2DConditionModel")).from_config(tiny_model("UNet2DConditionModel").config, **config)
    return known.eval()


def stable_diffusion(kind: str = "StableDiffusionPipeline", unet: dict | None = None, **components) -> Any:
    ours = {"unet": tiny_unet(**(unet or {})), "vae": vae(), "scheduler": ddim(), **NO_TEXT, **SAFE}
    return getattr(diffusers, kind)(**ours | components)


def sd_texts(batch: int) -> dict[str, Any]:
    return texts(batch, prompt_embeds=(7, 12)) | {"guidance_scale": 7.5}


def picture(batch: int, channels: int = 3, size: int = 32) -> Tensor:
    return random(batch, channels, size, size, seed=5).sigmoid()


def control_net() -> diffusers.ControlNetModel:
    torch.manual_seed(1)
    net = diffusers.ControlNetModel.from_unet(tiny_unet(), conditioning_embedding_out_channels=(4, 8)).eval()
    for parameter in net.parameters():  # they start as zeros
        torch.nn.init.normal_(parameter, std=0.2)
    return net


def adapter(**config) -> diffusers.T2IAdapter:
    torch.manual_seed(1)
    config = {"channels": [8, 16, 16], "downscale_factor": 2} | config
    return diffusers.T2IAdapter(num_res_blocks=1, **config).eval()


LIKE_SD = {
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}


def stable_diffusion_xl(kind: str = "StableDiffusionXLPipeline", **components) -> Any:
    added = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4, "use_linear_projection": True}
    unet = tiny_unet(**added, projection_class_embeddings_input_dim=6 * 4 + 8, transformer_layers_per_block=(1, 1, 2))
    ours = {"unet": unet, "vae": vae(), "scheduler": diffusers.EulerDiscreteScheduler(), **NO_TEXT}
    return getattr(diffusers, kind)(**ours, text_encoder_2=None, tokenizer_2=None, **components)


def xl_texts(batch: int) -> dict[str, Any]:
    return texts(batch, prompt_embeds=(7, 12), pooled_prompt_embeds=(8,)) | {"guidance_scale": 5.0}


def adapter_xl() -> diffusers.T2IAdapter:
    return adapter(adapter_type="full_adapter_xl", channels=[8, 16, 16, 16], downscale_factor=4)


# --- transformers


def pixart(kind: str = "PixArtSigmaPipeline", **options) -> Any:
    scheduler = DPMSolverMultistepScheduler()
    model = tiny_model("PixArtTransformer2DModel")
    return getattr(diffusers, kind)(**NO_TEXT, vae=vae(), transformer=model, scheduler=scheduler, **options)


def pixart_texts(batch: int) -> dict[str, Any]:
    seen = torch.ones(batch, 5)
    masks = {"prompt_attention_mask": seen, "negative_prompt_attention_mask": seen.clone()}
    return texts(batch, prompt_embeds=(5, 12)) | masks | {"negative_prompt": None, "guidance_scale": 4.5}


def sana() -> Any:
    torch.manual_seed(0)
    halves = {f"{part}_block_types": ("ResBlock", "EfficientViTBlock") for part in ("encoder", "decoder")}
    halves |= {f"{part}_block_out_channels": (8, 8) for part in ("encoder", "decoder")}
    halves |= {f"{part}_layers_per_block": (1, 1) for part in ("encoder", "decoder")}
    halves |= {f"{part}_qkv_multiscales": ((), (5,)) for part in ("encoder", "decoder")}
    ways = {"downsample_block_type": "conv", "upsample_block_type": "interpolate"}
    return diffusers.SanaPipeline(
        **NO_TEXT, vae=diffusers.AutoencoderDC(latent_channels=4, attention_head_dim=2, **halves, **ways).eval(),
        transformer=tiny_model("SanaTransformer2DModel"), scheduler=FlowMatch(),
    )  # fmt: skip


def stable_diffusion_3(kind: str = "StableDiffusion3Pipeline", **options) -> Any:
    others = dict.fromkeys(f"{part}_{i}" for part in ("text_encoder", "tokenizer") for i in (2, 3))
    return getattr(diffusers, kind)(
        tiny_model("SD3Transformer2DModel"), FlowMatch(), vae(shift_factor=0.1), **NO_TEXT, **others, **options
    )


def sd3_texts(batch: int) -> dict[str, Any]:
    return texts(batch, prompt_embeds=(5, 12), pooled_prompt_embeds=(16,)) | {"guidance_scale": 7.0}


def aura_flow() -> Any:
    model = tiny_model("AuraFlowTransformer2DModel")
    return diffusers.AuraFlowPipeline(**NO_TEXT, vae=vae(), transformer=model, scheduler=FlowMatch())


def lumina_2() -> Any:
    return diffusers.Lumina2Pipeline(
        tiny_model("Lumina2Transformer2DModel"), FlowMatch(), vae(shift_factor=0.1), **NO_TEXT
    )


def flux(shifting: bool = False) -> Any:
    return diffusers.FluxPipeline(
        scheduler=FlowMatch(use_dynamic_shifting=shifting), vae=vae(1, shift_factor=0.1), **NO_TEXT,
        text_encoder_2=None, tokenizer_2=None, transformer=tiny_model("FluxTransformer2DModel"),
    )  # fmt: skip


def flux_texts(batch: int, true_cfg_scale: float = 1.0) -> dict[str, Any]:
    embeddings = texts(batch, prompt_embeds=(5, 12), pooled_prompt_embeds=(8,))
    if true_cfg_scale <= 1:
        return {name: value for name, value in embeddings.items() if not name.startswith("negative")}
    return embeddings | {"true_cfg_scale": true_cfg_scale}


def modular(pipe: Any, blocks: str) -> Any:
    """The loop and the decoder of a modular pipeline, with the parts of a standard one."""
    given = getattr(diffusers.modular_pipelines, blocks)().sub_blocks
    chosen = diffusers.SequentialPipelineBlocks.from_blocks_dict({name: given[name] for name in ("denoise", "decode")})
    made = chosen.init_pipeline()
    made.update_components(**{name: part for name, part in pipe.components.items() if name in made.components and part})
    return made


def flux_control_net() -> Any:
    """It says a thousandth of the timestep, and not where it begins."""
    parts = flux()
    torch.manual_seed(1)
    net = diffusers.FluxControlNetModel.from_transformer(
        parts.transformer, num_layers=1, num_single_layers=1, load_weights_from_transformer=False,
        attention_head_dim=8, num_attention_heads=2,
    )  # fmt: skip
    for parameter in net.parameters():  # the last layers are zero
        torch.nn.init.normal_(parameter, std=0.2)
    return diffusers.FluxControlNetPipeline(**parts.components, controlnet=net.eval())


def qwen_image() -> Any:
    torch.manual_seed(0)
    decoder = diffusers.AutoencoderKLQwenImage(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.1] * 4, latents_std=[2.0] * 4
    )
    model = tiny_model("QwenImageTransformer2DModel")
    return diffusers.QwenImagePipeline(FlowMatch(), decoder.eval(), **NO_TEXT, transformer=model)


def qwen_texts(batch: int) -> dict[str, Any]:
    masks = {f"{part}prompt_embeds_mask": torch.arange(6).expand(batch, 6) < 4 for part in ("", "negative_")}
    return texts(batch, prompt_embeds=(6, 12)) | masks | {"true_cfg_scale": 4.0}


def chroma() -> Any:
    model = tiny_model("ChromaTransformer2DModel")
    return diffusers.ChromaPipeline(FlowMatch(), vae(1, shift_factor=0.1), **NO_TEXT, transformer=model)


# --- videos


def wan(**components) -> Any:
    torch.manual_seed(0)
    decoder = diffusers.AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.1] * 4, latents_std=[2.0] * 4
    )
    model = tiny_model("WanTransformer3DModel")
    return diffusers.WanPipeline(**NO_TEXT, vae=decoder.eval(), scheduler=FlowMatch(), transformer=model, **components)


def wan_2_2(boundary_ratio: float = 0.5) -> Any:
    """A second transformer takes over where half of the noise is gone."""
    return wan(transformer_2=tiny_model("WanTransformer3DModel", seed=1), boundary_ratio=boundary_ratio)


def wan_from_image() -> Any:
    """The way of Wan 2.2 5B: the tokens of the given image have a timestep of their own, 0."""
    parts = wan()
    return diffusers.WanImageToVideoPipeline(
        **NO_TEXT, vae=parts.vae, scheduler=FlowMatch(), transformer=parts.transformer, expand_timesteps=True
    )


def ltx_from_image() -> Any:
    parts = ltx()
    return diffusers.LTXImageToVideoPipeline(FlowMatch(), parts.vae, **NO_TEXT, transformer=parts.transformer)


def ltx() -> Any:
    model = tiny_model("LTXVideoTransformer3DModel")
    return diffusers.LTXPipeline(FlowMatch(), video_autoencoder(), **NO_TEXT, transformer=model)


def cog_video_x() -> Any:
    model = tiny_model("CogVideoXTransformer3DModel")
    return diffusers.CogVideoXPipeline(**NO_TEXT, vae=None, transformer=model, scheduler=ddim())


def video_texts(batch: int, tokens: int = 8) -> dict[str, Any]:
    return texts(batch, prompt_embeds=(tokens, 12)) | {"guidance_scale": 4.0}


def ltx_texts(batch: int) -> dict[str, Any]:
    seen = torch.ones(batch, 8)
    masks = {"prompt_attention_mask": seen, "negative_prompt_attention_mask": seen.clone()}
    return video_texts(batch) | masks


def mochi() -> Any:
    return diffusers.MochiPipeline(FlowMatch(), None, **NO_TEXT, transformer=tiny_model("MochiTransformer3DModel"))


def padded_texts(batch: int, tokens: int, width: int) -> dict[str, Any]:
    """The model reads from the masks how long each text is."""
    long = torch.arange(tokens).expand(batch, tokens)
    masks = {"prompt_attention_mask": long < tokens - 2, "negative_prompt_attention_mask": long < 2}
    return texts(batch, prompt_embeds=(tokens, width)) | masks | {"guidance_scale": 4.0}


def latent_diffusion() -> Any:
    from stepmask_lab.reference.class_conditional_ldm import ClassConditionalLDMPipeline, ClassEmbedder

    unet = tiny_model("UNet2DConditionModel")
    torch.manual_seed(0)
    return ClassConditionalLDMPipeline(vae(), unet, ClassEmbedder(10, unet.config.cross_attention_dim).eval(), ddim())


PIXELS = square(16, 24, 16)
WAN_2_2 = "Wan 2.2, two transformers"
NO_DECODER = {"output_type": "latent"}

# fmt: off
CASES = [
    Case("DDPM", ddpm_pipeline, lambda batch: {"batch_size": batch}),
    Case("DDIM", ddim_pipeline, lambda batch: {"batch_size": batch}),
    Case("DiT", dit_pipeline, lambda batch: {"class_labels": [3, 7, 1][:batch]}, "one call"),
    Case("LDM, by class", latent_diffusion, lambda batch: {"class_labels": [3, 7, 1][:batch]}, "one call"),
    Case("Stable Diffusion", stable_diffusion, sd_texts, "one call", SD_SIZES),
    Case("Stable Diffusion, image to image", lambda: stable_diffusion("StableDiffusionImg2ImgPipeline"),
        lambda batch: sd_texts(batch) | {"image": picture(batch), "strength": 0.6}, "one call", steps=5, start=2),
    Case("Stable Diffusion, inpainting", lambda: stable_diffusion("StableDiffusionInpaintPipeline"),
        lambda batch: sd_texts(batch) | {"image": picture(batch), "mask_image": picture(batch, 1).round()}, "one call",
        SD_SIZES),
    Case("Stable Diffusion, ControlNet",
        lambda: stable_diffusion("StableDiffusionControlNetPipeline", controlnet=control_net()),
        lambda batch: sd_texts(batch) | {"image": picture(batch), "control_guidance_end": 0.6}, "one call", SD_SIZES),
    Case("Stable Diffusion, T2I-Adapter",
        lambda: stable_diffusion("StableDiffusionAdapterPipeline", LIKE_SD, adapter=adapter()),
        lambda batch: sd_texts(batch) | {"image": picture(batch)}, "one call", square(32, 32, 48)),
    Case("Stable Diffusion, InstructPix2Pix",
        lambda: stable_diffusion("StableDiffusionInstructPix2PixPipeline", {"in_channels": 8}),
        lambda batch: sd_texts(batch) | {"image": picture(batch)}, "one call of three"),
    Case("Stable Diffusion, PAG", lambda: stable_diffusion("StableDiffusionPAGPipeline"), sd_texts, "one call of three",
        SD_SIZES),
    Case("Stable Diffusion XL", stable_diffusion_xl, xl_texts, "one call", SD_SIZES),
    Case("Stable Diffusion XL, modular", lambda: modular(stable_diffusion_xl(), "StableDiffusionXLAutoBlocks"),
        lambda batch: {name: value for name, value in xl_texts(batch).items() if name != "guidance_scale"}, "two calls",
        SD_SIZES),
    Case("Stable Diffusion XL, T2I-Adapter",
        lambda: stable_diffusion_xl("StableDiffusionXLAdapterPipeline", adapter=adapter_xl()),
        lambda batch: xl_texts(batch) | {"image": picture(batch)}, "one call", square(32, 32, 48)),
    Case("PixArt-Sigma", pixart, pixart_texts, "one call", PIXELS, options={"use_resolution_binning": False}),
    Case("PixArt-Sigma, PAG", lambda: pixart("PixArtSigmaPAGPipeline", pag_applied_layers="blocks.1"), pixart_texts,
        "one call of three", PIXELS, options={"use_resolution_binning": False}),
    Case("Sana", sana, pixart_texts, "one call", square(32, 64, 32), options={"use_resolution_binning": False}),
    Case("Stable Diffusion 3", stable_diffusion_3, sd3_texts, "one call", PIXELS),
    Case("Stable Diffusion 3, PAG",
        lambda: stable_diffusion_3("StableDiffusion3PAGPipeline", pag_applied_layers="blocks.1"), sd3_texts,
        "one call of three", PIXELS),
    Case("Lumina 2", lumina_2, lambda batch: padded_texts(batch, 6, 12), "two calls", square(64, 32, 64)),
    Case("AuraFlow", aura_flow, pixart_texts, "one call", PIXELS),
    Case("Flux", flux, flux_texts, "embedded", PIXELS),
    Case("Flux, ControlNet", flux_control_net,
        lambda batch: flux_texts(batch) | {"control_image": picture(batch, size=32)}, "embedded", PIXELS),
    Case("Flux, modular", lambda: modular(flux(), "FluxAutoBlocks"), flux_texts, "embedded", PIXELS),
    Case("Flux, true guidance", lambda: flux(True), lambda batch: flux_texts(batch, 3.0), "two calls", PIXELS),
    Case("Qwen-Image", qwen_image, qwen_texts, "two calls", square(32, 64, 32)),
    Case("Chroma", chroma, lambda batch: padded_texts(batch, 6, 12), "two calls", PIXELS),
    Case("Wan", wan, video_texts, "two calls", square(16, 32, 16, num_frames=5)),
    Case(WAN_2_2, wan_2_2, video_texts, "two calls", square(16, 32, 16, num_frames=5), steps=6),
    Case("LTX-Video", ltx, ltx_texts, "one call", square(32, 64, 32, num_frames=9)),
    Case("LTX-Video, from an image", ltx_from_image,
        lambda batch: ltx_texts(batch) | {"image": picture(batch, size=32)}, "one call",
        square(32, 64, 32, num_frames=9)),
    Case("Wan 2.2, from an image", wan_from_image, lambda batch: video_texts(batch) | {"image": picture(1, size=32)},
        "two calls", square(32, 64, 32, num_frames=5)),
    Case("Mochi", mochi, lambda batch: padded_texts(batch, 16, 16), "one call", square(32, 64, 32, num_frames=7),
        options=NO_DECODER),
    Case("CogVideoX", cog_video_x, video_texts, "one call", square(16, 32, 16, num_frames=9), options=NO_DECODER),
]
# fmt: on
BY_NAME = {case.name: case for case in CASES}


class Row(NamedTuple):
    """What the documentation says of a case."""

    name: str
    pipeline: str
    denoiser: str
    guidance: Guidance


def verified() -> list[Row]:
    """One row for each case."""
    from stepmask.inspection.registry import denoiser_of

    rows = []
    for case in CASES:
        pipe = case.build()
        rows.append(Row(case.name, type(pipe).__name__, type(denoiser_of(pipe)).__name__, case.guidance))
    return rows
