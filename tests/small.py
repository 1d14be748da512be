"""Pipelines that read captions or classes, tiny, with random weights: our own, and one for videos."""

import diffusers
import torch

from stepmask_lab.reference.class_conditional_ldm import ClassConditionalLDMPipeline, ClassEmbedder
from tiny import quiet, tiny_model


def autoencoder(scaling_factor: float = 0.5) -> diffusers.AutoencoderKL:
    """From 16 x 16 pixels to 8 x 8."""
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4, sample_size=16,
        scaling_factor=scaling_factor,
    ).eval()  # fmt: skip


def ldm_pipeline(seed: int = 0, classes: int = 10, names: bool = True, **parts) -> ClassConditionalLDMPipeline:
    torch.manual_seed(seed)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=12, attention_head_dim=2, norm_num_groups=4,
    )  # fmt: skip
    parts = {
        "vae": autoencoder(), "unet": unet.eval(), "class_embedder": ClassEmbedder(classes, 12).eval(),
        "scheduler": diffusers.DDIMScheduler(clip_sample=False),
        "id2label": {number: f"class {number}, number {number}" for number in range(classes)} if names else None,
        **parts,
    }  # fmt: skip
    return quiet(ClassConditionalLDMPipeline(**parts))


def pixart_parts(seed: int = 0, words=None) -> dict:
    """Components of a PixArt pipeline whose text encoder reads the words of a tokenizer, by default CIFAR-10's."""
    from transformers import T5Config, T5EncoderModel

    from stepmask_lab.reference.captions import tokenizer

    torch.manual_seed(seed)
    words = words or tokenizer()
    text = T5Config(vocab_size=len(words), d_model=12, d_kv=6, d_ff=12, num_layers=1, num_heads=2, dropout_rate=0.0)
    transformer = diffusers.PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, num_layers=2, in_channels=4, out_channels=4,
        cross_attention_dim=16, caption_channels=12, sample_size=8, use_additional_conditions=False,
    )  # fmt: skip
    return {
        "tokenizer": words, "text_encoder": T5EncoderModel(text).eval(), "vae": autoencoder(),
        "transformer": transformer.eval(), "scheduler": diffusers.DDIMScheduler(clip_sample=False),
    }  # fmt: skip


def pixart_pipeline(seed: int = 0):
    from stepmask_lab.reference.text_to_image import SmallPixArtPipeline

    return quiet(SmallPixArtPipeline(**pixart_parts(seed)))


def video_autoencoder() -> diffusers.AutoencoderKLLTXVideo:
    """Four times as many frames, as high and as wide as its latents."""
    torch.manual_seed(0)
    blocks = {f"{part}block_out_channels": (8,) * 4 for part in ("", "decoder_")}
    blocks |= {f"{part}layers_per_block": (1,) * 5 for part in ("", "decoder_")}
    blocks |= {f"{part}spatio_temporal_scaling": (True, True, False, False) for part in ("", "decoder_")}
    return diffusers.AutoencoderKLLTXVideo(
        latent_channels=4, patch_size=1, **blocks, decoder_inject_noise=(False,) * 5, upsample_residual=(False,) * 4,
        upsample_factor=(1,) * 4,
    ).eval()  # fmt: skip


def ltx_pipeline(from_image: bool = False):
    """Makes videos of captions, or of captions and an image."""
    from transformers import T5Config, T5EncoderModel

    words, transformer = pixart_parts()["tokenizer"], tiny_model("LTXVideoTransformer3DModel")
    width = transformer.config.caption_channels
    text = T5Config(vocab_size=len(words), d_model=width, d_kv=6, d_ff=12, num_layers=1, num_heads=2)
    parts = video_autoencoder(), T5EncoderModel(text).eval(), words, transformer.eval()
    kind = diffusers.LTXImageToVideoPipeline if from_image else diffusers.LTXPipeline
    return quiet(kind(diffusers.FlowMatchEulerDiscreteScheduler(), *parts))
