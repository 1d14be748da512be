"""Published models by name, without weights: their configurations, built on the meta device in seconds.

``load("dit-xl-2-256")`` has the structure of facebook/DiT-XL-2-256 and takes no memory: enough for `describe`,
`measure_cost` and every schedule. It cannot compute; for images, load the weights from the hub by one of `Preset.hub`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from stepmask.errors import StepMaskError

PREFIX = "preset:"


@dataclass(frozen=True)
class Preset:
    """One published model.

    Attributes:
        hub: Where weights with this configuration are on the Hugging Face hub, in diffusers' format; perhaps nowhere.
        class_name: diffusers' class of the denoiser.
        config: Its configuration, where it differs from the defaults of the class.
        published: Steps and guidance that it was published with, and what there is to know.
        guided: Whether classifier-free guidance then runs it on two inputs per image.
        sizes: Of its inputs in published use, where the configuration does not say them: arguments of the
            architecture's `example_inputs`.
    """

    hub: tuple[str, ...]
    class_name: str
    config: Mapping[str, Any]
    published: str
    guided: bool = True
    sizes: Mapping[str, Any] = field(default_factory=dict)

    def build(self) -> Any:
        """The denoiser on the meta device, in eval mode."""
        import diffusers
        import torch

        with torch.device("meta"):
            model = getattr(diffusers, self.class_name)(**self.config)
        return model.eval().requires_grad_(False)

    def example_inputs(self, model: Any) -> dict[str, Any] | None:
        """Arguments of one call in the sizes of published use; None where they are those of the configuration."""
        if not self.sizes:
            return None
        from stepmask.inspection.registry import registered_architectures

        return registered_architectures()[self.class_name].example_inputs(model, **self.sizes)


def names() -> list[str]:
    """Names of the presets."""
    return list(PRESETS)


def get(name: str) -> Preset:
    """A preset by name.

    Raises:
        StepMaskError: There is no such preset.
    """
    if name not in PRESETS:
        raise StepMaskError(f"no preset {name!r}; there are {', '.join(names())}")
    return PRESETS[name]


def load(name: str) -> Any:
    """The denoiser of a preset: a diffusers model on the meta device, in eval mode.

    Raises:
        StepMaskError: There is no such preset.
    """
    preset = get(name)
    model = preset.build()
    inputs = preset.example_inputs(model)
    if inputs is not None:
        from stepmask.inspection.describe import register_sites
        from stepmask.inspection.registry import architecture_of

        sites = {site.name: site.kind for site in architecture_of(model).sites(model)}
        register_sites(model, sites, example_inputs=inputs)  # so that costs are those of published use
    return model


_DDPM = {
    "layers_per_block": 2,
    "attention_head_dim": None,
    "norm_eps": 1e-6,
    "freq_shift": 1,
    "flip_sin_to_cos": False,
    "downsample_padding": 0,
}
_DIT_XL_2 = {
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "num_layers": 28,
    "in_channels": 4,
    "out_channels": 8,
    "patch_size": 2,
    "attention_bias": True,
    "activation_fn": "gelu-approximate",
    "norm_type": "ada_norm_zero",
    "num_embeds_ada_norm": 1000,
}
_FLUX = {
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "axes_dims_rope": (16, 56, 56),
}
_FLUX_SIZES = {"side": 64, "tokens": 512}

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "ddpm-cifar10-32": Preset(
            hub=("google/ddpm-cifar10-32",),
            class_name="UNet2DModel",
            config={
                **_DDPM,
                "sample_size": 32,
                "block_out_channels": (128, 256, 256, 256),
                "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
                "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            },
            published="1000 steps of DDPM, unconditional; works on caching take 100 of DDIM",
            guided=False,
        ),
        "ddpm-lsun-256": Preset(
            hub=("google/ddpm-ema-bedroom-256", "google/ddpm-ema-church-256"),
            class_name="UNet2DModel",
            config={
                **_DDPM,
                "sample_size": 256,
                "block_out_channels": (128, 128, 256, 256, 512, 512),
                "down_block_types": (*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"),
                "up_block_types": ("UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4),
            },
            published="1000 steps of DDPM, unconditional; works on caching take 100 of DDIM",
            guided=False,
        ),
        "ldm4-imagenet-256": Preset(
            hub=(),
            class_name="UNet2DConditionModel",
            config={
                "sample_size": 64,
                "in_channels": 3,
                "out_channels": 3,
                "block_out_channels": (192, 384, 576, 960),
                "layers_per_block": 2,
                "down_block_types": ("DownBlock2D", *["CrossAttnDownBlock2D"] * 3),
                "up_block_types": (*["CrossAttnUpBlock2D"] * 3, "UpBlock2D"),
                "cross_attention_dim": 512,
                "attention_head_dim": 1,  # means heads
            },
            published="250 steps of DDIM, guidance 1.5; LDM-4-G is cin256-v2 of CompVis, the class is one token",
            sizes={"tokens": 1},
        ),
        "dit-xl-2-256": Preset(
            hub=("facebook/DiT-XL-2-256",),
            class_name="DiTTransformer2DModel",
            config={**_DIT_XL_2, "sample_size": 32},
            published="250 steps of DDPM, guidance 1.5",
        ),
        "dit-xl-2-512": Preset(
            hub=("facebook/DiT-XL-2-512",),
            class_name="DiTTransformer2DModel",
            config={**_DIT_XL_2, "sample_size": 64},
            published="250 steps of DDPM, guidance 1.5",
        ),
        "pixart-sigma-1024": Preset(
            hub=("PixArt-alpha/PixArt-Sigma-XL-2-1024-MS",),
            class_name="PixArtTransformer2DModel",
            config={
                "num_attention_heads": 16,
                "attention_head_dim": 72,
                "num_layers": 28,
                "in_channels": 4,
                "out_channels": 8,
                "cross_attention_dim": 1152,
                "caption_channels": 4096,
                "sample_size": 128,
                "patch_size": 2,
                "norm_type": "ada_norm_single",
                "interpolation_scale": 2,
                "use_additional_conditions": False,
            },
            published="20 steps of DPM-Solver, guidance 4.5; 300 text tokens",
        ),
        "stable-diffusion-1.5": Preset(
            hub=("stable-diffusion-v1-5/stable-diffusion-v1-5",),
            class_name="UNet2DConditionModel",
            config={
                "sample_size": 64,
                "block_out_channels": (320, 640, 1280, 1280),
                "layers_per_block": 2,
                "down_block_types": (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
                "up_block_types": ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
                "cross_attention_dim": 768,
                "attention_head_dim": 8,  # means heads
            },
            published="50 steps of PNDM, guidance 7.5; 77 text tokens, 512 x 512 pixels",
        ),
        "sdxl": Preset(
            hub=("stabilityai/stable-diffusion-xl-base-1.0",),
            class_name="UNet2DConditionModel",
            config={
                "sample_size": 128,
                "block_out_channels": (320, 640, 1280),
                "layers_per_block": 2,
                "down_block_types": ("DownBlock2D", *["CrossAttnDownBlock2D"] * 2),
                "up_block_types": (*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"),
                "transformer_layers_per_block": (1, 2, 10),
                "cross_attention_dim": 2048,
                "attention_head_dim": (5, 10, 20),  # means heads
                "use_linear_projection": True,
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 256,
                "projection_class_embeddings_input_dim": 2816,
            },
            published="50 steps of Euler, guidance 5; 77 text tokens, 1024 x 1024 pixels",
        ),
        "sd3-medium": Preset(
            hub=("stabilityai/stable-diffusion-3-medium-diffusers",),
            class_name="SD3Transformer2DModel",
            config={
                "sample_size": 128,
                "patch_size": 2,
                "in_channels": 16,
                "out_channels": 16,
                "num_layers": 24,
                "attention_head_dim": 64,
                "num_attention_heads": 24,
                "joint_attention_dim": 4096,
                "caption_projection_dim": 1536,
                "pooled_projection_dim": 2048,
                "pos_embed_max_size": 192,
            },
            published="28 steps of Euler, guidance 7; 333 text tokens, 1024 x 1024 pixels",
        ),
        "flux-dev": Preset(
            hub=("black-forest-labs/FLUX.1-dev",),
            class_name="FluxTransformer2DModel",
            config={**_FLUX, "guidance_embeds": True},
            published="28 to 50 steps of Euler; guidance 3.5 is an input and takes no second forward; "
            "512 text tokens, 1024 x 1024 pixels",
            guided=False,
            sizes=_FLUX_SIZES,
        ),
        "flux-schnell": Preset(
            hub=("black-forest-labs/FLUX.1-schnell",),
            class_name="FluxTransformer2DModel",
            config={**_FLUX, "guidance_embeds": False},
            published="1 to 4 steps of Euler, no guidance; measured with 512 text tokens, 1024 x 1024 pixels",
            guided=False,
            sizes=_FLUX_SIZES,
        ),
        "wan2.1-t2v-1.3b": Preset(
            hub=("Wan-AI/Wan2.1-T2V-1.3B-Diffusers",),
            class_name="WanTransformer3DModel",
            config={
                "patch_size": (1, 2, 2),
                "num_attention_heads": 12,
                "attention_head_dim": 128,
                "in_channels": 16,
                "out_channels": 16,
                "text_dim": 4096,
                "freq_dim": 256,
                "ffn_dim": 8960,
                "num_layers": 30,
                "cross_attn_norm": True,
                "qk_norm": "rms_norm_across_heads",
                "eps": 1e-6,
                "rope_max_seq_len": 1024,
            },
            published="50 steps of UniPC, guidance 5; 512 text tokens, 81 frames of 480 x 832 pixels",
            sizes={"video": (21, 60, 104), "tokens": 512},
        ),
    }
)
"""The published models, by name."""
