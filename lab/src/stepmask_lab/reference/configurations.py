"""What the reference models are: one function each that builds an untrained diffusers pipeline.

Knows nothing of training (`train.py`) or of where weights lie (`__init__.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diffusers import (
    AutoencoderKL,
    DDIMPipeline,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    PixArtTransformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
)

from stepmask_lab.reference.cifar10 import CLASSES
from stepmask_lab.reference.class_conditional_ldm import ClassConditionalLDMPipeline, ClassEmbedder

if TYPE_CHECKING:
    from stepmask_lab.reference.text_to_image import EmojiPipeline, SmallPixArtPipeline

TEXT_WIDTH = 96
"""Of what the text encoders make of a word."""


def ddpm_cifar10() -> DDIMPipeline:
    """Unconditional DDPM on 32x32 pixels: google/ddpm-cifar10-32 made narrow, with its levels and sites."""
    unet = UNet2DModel(
        sample_size=32,
        block_out_channels=(32, 64, 96, 96),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=None,
        norm_num_groups=8,
        norm_eps=1e-6,
        freq_shift=1,
        flip_sin_to_cos=False,
        downsample_padding=0,
    )
    return DDIMPipeline(unet=unet, scheduler=_linear_schedule(clip_sample=True))


def autoencoder_cifar10() -> AutoencoderKL:
    """Autoencoder 32x32x3 -> 16x16x4, the first stage of the latent models."""
    return _autoencoder(sample_size=32)


def autoencoder_emoji() -> AutoencoderKL:
    """Autoencoder 64x64x3 -> 32x32x4: that of CIFAR-10 for larger pictures, hence without attention."""
    return _autoencoder(sample_size=64, mid_block_add_attention=False)


def _autoencoder(**more: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        scaling_factor=1.0,
        **more,
    )


def dit_cifar10() -> DiTPipeline:
    """Class-conditional latent DiT: 64 tokens, 7 blocks of width 192.

    DiTPipeline hard-codes class 1000 as the null class, so the label embeddings have 1001 rows, of which ten and
    the null class are trained.
    """
    transformer = DiTTransformer2DModel(
        num_attention_heads=6,
        attention_head_dim=32,
        num_layers=7,
        in_channels=4,
        out_channels=4,
        sample_size=16,
        patch_size=2,
        num_embeds_ada_norm=1000,
        activation_fn="gelu-approximate",
        attention_bias=True,
    )
    pipe = DiTPipeline(
        transformer=transformer,
        vae=autoencoder_cifar10(),
        scheduler=_linear_schedule(clip_sample=False),
        id2label=dict(enumerate(CLASSES)),
    )
    pipe.register_to_config(id2label={str(number): name for number, name in enumerate(CLASSES)})
    return pipe


def ldm_cifar10() -> ClassConditionalLDMPipeline:
    """Class-conditional latent U-Net: LDM-4-G made small, one token for the class, cross-attention but at the top."""
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(48, 80, 96),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=96,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    return ClassConditionalLDMPipeline(
        vae=autoencoder_cifar10(),
        unet=unet,
        class_embedder=ClassEmbedder(num_classes=len(CLASSES), embedding_dim=96),
        scheduler=_linear_schedule(clip_sample=False),
        id2label=dict(enumerate(CLASSES)),
    )


def pixart_cifar10() -> SmallPixArtPipeline:
    """Latent PixArt that draws what a prompt says: 64 tokens, 7 blocks of width 192, captions of up to 16 words.

    The text encoder is a T5 of two layers, trained together with the transformer.
    """
    from stepmask_lab.reference.captions import tokenizer
    from stepmask_lab.reference.text_to_image import SmallPixArtPipeline

    words = tokenizer()
    return SmallPixArtPipeline(
        tokenizer=words,
        text_encoder=_text_encoder(words),
        vae=autoencoder_cifar10(),
        transformer=_pixart_transformer(heads=6, head_width=32, blocks=7, sample_size=16, patch_size=2),
        scheduler=_linear_schedule(clip_sample=False),
    )


def pixart_emoji() -> EmojiPipeline:
    """Latent PixArt that draws emoji: 16 tokens, 6 blocks of width 256.

    Each token is a patch of 256 numbers, hence it predicts the clean sample, as noise fills all of them and pictures do
    not (Li and He 2025). The cosine schedule ends in pure noise.
    """
    from stepmask_lab.reference.captions import tokenizer
    from stepmask_lab.reference.emoji import CAPTIONS
    from stepmask_lab.reference.text_to_image import EmojiPipeline

    words = tokenizer(CAPTIONS)
    return EmojiPipeline(
        tokenizer=words,
        text_encoder=_text_encoder(words),
        vae=autoencoder_emoji(),
        transformer=_pixart_transformer(heads=4, head_width=64, blocks=6, sample_size=32, patch_size=8),
        scheduler=DDIMScheduler(
            beta_schedule="squaredcos_cap_v2",
            prediction_type="sample",
            timestep_spacing="trailing",
            clip_sample=False,
        ),
    )


def _text_encoder(words: Any) -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(
            vocab_size=len(words),
            d_model=TEXT_WIDTH,
            d_kv=TEXT_WIDTH // 4,
            d_ff=2 * TEXT_WIDTH,
            num_layers=2,
            num_heads=4,
            relative_attention_num_buckets=16,
            relative_attention_max_distance=32,
            dropout_rate=0.0,
            pad_token_id=words.pad_token_id,
            eos_token_id=words.eos_token_id,
        )
    )


def _pixart_transformer(
    heads: int, head_width: int, blocks: int, sample_size: int, patch_size: int
) -> PixArtTransformer2DModel:
    transformer = PixArtTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=head_width,
        num_layers=blocks,
        in_channels=4,
        out_channels=4,
        sample_size=sample_size,
        patch_size=patch_size,
        cross_attention_dim=heads * head_width,
        caption_channels=TEXT_WIDTH,
        use_additional_conditions=False,
    )
    # as it is initialised, projected words are so small that a short training hardly learns to read them
    transformer.caption_projection.linear_2.weight.data *= 5
    return transformer


def _linear_schedule(clip_sample: bool) -> DDIMScheduler:
    return DDIMScheduler(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, clip_sample=clip_sample)


BUILDERS = {
    "ddpm-cifar10": ddpm_cifar10,
    "dit-cifar10": dit_cifar10,
    "ldm-cifar10": ldm_cifar10,
    "pixart-cifar10": pixart_cifar10,
}
"""The models of CIFAR-10, which `train` trains."""
