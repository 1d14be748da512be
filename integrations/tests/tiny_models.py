"""Tiny MODELs of ComfyUI's classes with random weights, and a sampling of each: in inference mode, as ComfyUI does."""

import comfy.model_patcher
import comfy.sample
import comfy.supported_models
import torch

CPU, FLOAT = torch.device("cpu"), torch.float32
UNET = {
    "image_size": 8, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1],
    "channel_mult": [1, 2], "use_spatial_transformer": True, "context_dim": 16, "legacy": False, "dtype": FLOAT,
}  # fmt: skip
CONFIGURATIONS = {
    "SD15": {
        **UNET, "transformer_depth": [1, 1], "transformer_depth_middle": 1, "transformer_depth_output": [1] * 4,
        "adm_in_channels": None, "use_linear_in_transformer": False,
    },
    "SDXL": {
        **UNET, "transformer_depth": [0, 2], "transformer_depth_middle": 2, "transformer_depth_output": [0, 0, 2, 2],
        "adm_in_channels": 2816, "num_classes": "sequential", "use_linear_in_transformer": True,
    },
    "Flux": {
        "image_model": "flux", "guidance_embed": True, "in_channels": 16, "out_channels": 16, "patch_size": 2,
        "context_in_dim": 16, "vec_in_dim": 12, "hidden_size": 32, "mlp_ratio": 2.0, "num_heads": 2, "depth": 2,
        "depth_single_blocks": 2, "axes_dim": [4, 6, 6], "theta": 10000, "qkv_bias": True, "txt_ids_dims": [],
        "dtype": FLOAT,
    },
    "WAN21_T2V": {
        "image_model": "wan2.1", "model_type": "t2v", "patch_size": (1, 2, 2), "text_len": 7, "in_dim": 16, "dim": 24,
        "ffn_dim": 48, "freq_dim": 16, "text_dim": 16, "out_dim": 16, "num_heads": 2, "num_layers": 2, "dtype": FLOAT,
    },
}  # fmt: skip
HEADS = {"SD15": {"num_heads": 4, "num_head_channels": -1}, "SDXL": {"num_heads": -1, "num_head_channels": 16}}
POOLED = {"SDXL": 1280, "Flux": 12}
LATENTS = {"SD15": (4, 8, 8), "SDXL": (4, 8, 8), "Flux": (16, 8, 8), "WAN21_T2V": (16, 2, 8, 8)}


@torch.inference_mode()
def tiny_model(name: str):
    """A MODEL with weights that are the same every time."""
    config = getattr(comfy.supported_models, name)(dict(CONFIGURATIONS[name]))
    config.unet_config |= HEADS.get(name, {})
    model = config.get_model({}, device=CPU).eval()
    generator = torch.Generator().manual_seed(0)
    for key, weight in model.diffusion_model.named_parameters():
        scale = 0.1 if weight.dim() < 2 else weight[0].numel() ** -0.5
        weight.data = torch.randn(weight.shape, generator=generator) * scale
        if weight.dim() == 1 and key.endswith("weight"):
            weight.data += 1
    return comfy.model_patcher.ModelPatcher(model, load_device=CPU, offload_device=CPU)


def conditions(name: str):
    """A prompt and its opposite, as nodes hand them on."""
    generator = torch.Generator().manual_seed(1)
    more = {"pooled_output": torch.randn(1, POOLED[name], generator=generator)} if name in POOLED else {}
    return [[[torch.randn(1, 7, 16, generator=generator), dict(more)]] for _ in range(2)]


@torch.inference_mode()
def sample(model, name, *, steps=6, cfg=3.0, sampler="euler", scheduler="normal", batch=1, control=None, **options):
    """Latents of a sampler."""
    positive, negative = conditions(name)
    if control is not None:
        positive[0][1] |= {"control": control, "control_apply_to_uncond": True}
    latents = torch.zeros(batch, *LATENTS[name])
    asked = (comfy.sample.prepare_noise(latents, 0), steps, cfg, sampler, scheduler, positive, negative, latents)
    return comfy.sample.sample(model, *asked, disable_pbar=True, seed=0, **options)
