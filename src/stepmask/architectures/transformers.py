"""Diffusion transformers: patterns of their sites, and the shapes of example inputs. A table to extend.

Who reads whom is traced, and so is what contains the sites: blocks, and lists of blocks. The innermost sites are what
is computed before a block's gate, so that the gate stays that of the current step. Where blocks have two streams, what
is added to the text reaches the image through later attention only: the traced graph says so, and it is dead where
that is held.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from stepmask.graph import Site
from stepmask.inspection.architecture import Architecture
from stepmask.inspection.inputs import noise
from stepmask.inspection.registry import register
from stepmask.inspection.sites import find_sites

SELF_CROSS_FF = {
    "transformer_blocks.*.attn1": "attention",
    "transformer_blocks.*.attn2": "cross_attention",
    "transformer_blocks.*.ff": "mlp",
}
"""Sites of the blocks that most text-conditioned transformers have."""

LATENTS = ("in_channels", "sample_size", "sample_size")
"""Latents (C, H, W) of the configured size."""
TOKENS = 16
"""Length of example texts."""


class Transformer(Architecture):
    """Makes example inputs from a table of shapes, and of what else a call needs."""

    shapes: ClassVar[Mapping[str, tuple[int | str, ...]]] = {}
    """Shapes of the arguments without the batch; a word stands for that entry of the configuration."""

    def others(self, model: nn.Module, like: Tensor) -> dict[str, Any]:
        """Return further arguments; `like` is the sample."""
        return {}

    def example_inputs(self, model: nn.Module, batch_size: int = 1) -> dict[str, Any]:
        """The inputs are small where the configuration does not say how large they are."""
        shapes = {
            name: [getattr(model.config, size) if isinstance(size, str) else size for size in shape]
            for name, shape in self.shapes.items()
        }
        inputs = noise(model, batch_size, **shapes)
        return inputs | self.others(model, inputs[self.step_inputs[0]])


class WithVariance(Transformer):
    """Transformers that may predict a variance beside the noise."""

    def used_output(self, model: nn.Module, output: Tensor) -> Tensor:
        """The noise; a learned variance in the second half of the channels is left out."""
        channels = model.config.in_channels
        return output[:, :channels] if output.shape[1] == 2 * channels else output


def _rotary(like: Tensor, tokens: int, size: int) -> tuple[Tensor, Tensor]:
    """Rotary positions (tokens, size) of cosines and sines."""
    return like.new_ones(tokens, size), like.new_ones(tokens, size)


def _text_mask(like: Tensor, tokens: int) -> Tensor:
    """The mask of texts whose second half is padding."""
    return (torch.arange(tokens, device=like.device) < tokens // 2).expand(len(like), tokens)


@register("DiTTransformer2DModel")
class DiT(WithVariance):
    """Class labels (N,) as the condition."""

    patterns = {"transformer_blocks.*.attn1": "attention", "transformer_blocks.*.ff": "mlp"}
    # what modulates the norms also makes the gates, which are needed at every step
    feeding = {"attn1": ("norm1.norm",), "ff": ("norm3",)}
    shapes = {"hidden_states": LATENTS}

    def others(self, model: nn.Module, like: Tensor) -> dict[str, Any]:
        """The call also takes labels."""
        return {"class_labels": torch.zeros(len(like), dtype=torch.long, device=like.device)}


@register("PixArtTransformer2DModel")
class PixArt(WithVariance):
    """Self-attention, cross-attention and feed-forward in every block; a text of 300 tokens."""

    patterns = SELF_CROSS_FF
    feeding = {"attn1": ("norm1",), "ff": ("norm2",)}
    shapes = {"hidden_states": LATENTS, "encoder_hidden_states": (300, "caption_channels")}

    def others(self, model: nn.Module, like: Tensor) -> dict[str, Any]:
        """PixArt-alpha at 1024 also takes a resolution and an aspect ratio."""
        added = {"resolution": None, "aspect_ratio": None}
        if model.use_additional_conditions:
            added = {"resolution": like.new_ones(len(like), 2), "aspect_ratio": like.new_ones(len(like), 1)}
        return {"added_cond_kwargs": added}


@register("SD3Transformer2DModel")
class SD3(Transformer):
    """Stable Diffusion 3 and 3.5: blocks of two streams, whose attention has a result for each.

    Blocks with a second attention for the image alone (3.5 medium) have attn2 too.
    """

    patterns = {"transformer_blocks.*.attn": "attention", "transformer_blocks.*.ff": "mlp"}
    shapes = {
        "hidden_states": LATENTS,
        "encoder_hidden_states": (333, "joint_attention_dim"),  # of CLIP and T5
        "pooled_projections": ("pooled_projection_dim",),
    }

    def sites(self, model: nn.Module) -> tuple[Site, ...]:
        """With attn2 and ff_context in the blocks that have them."""
        patterns = dict(self.patterns)
        for index, block in enumerate(model.transformer_blocks):
            for part, kind in (("attn2", "attention"), ("ff_context", "mlp")):
                if getattr(block, part, None) is not None:
                    patterns[f"transformer_blocks.{index}.{part}"] = kind
        return find_sites(model, patterns)


@register("FluxTransformer2DModel", "ChromaTransformer2DModel")
class Flux(Architecture):
    """Blocks of two streams, then blocks of one.

    The value of a double block's attn is a tuple of image and text. Of a single block, attn and proj_mlp are read by
    proj_out alone, the branch of both: holding it rests the whole block.
    """

    patterns = {
        "transformer_blocks.*.attn": "attention",
        "transformer_blocks.*.ff": "mlp",
        "transformer_blocks.*.ff_context": "mlp",
        "single_transformer_blocks.*.attn": "attention",
        "single_transformer_blocks.*.proj_mlp": "mlp",
        "single_transformer_blocks.*.proj_out": "transformer",
    }

    def example_inputs(self, model: nn.Module, batch_size: int = 1, side: int = 4, tokens: int = 5) -> dict[str, Any]:
        """The inputs are packed latents (N, side * side, C) and text (N, tokens, D)."""
        config = model.config
        latents, text = (side * side, config.in_channels), (tokens, config.joint_attention_dim)
        inputs = noise(model, batch_size, hidden_states=latents, encoder_hidden_states=text)
        like = inputs["hidden_states"]
        inputs |= {"img_ids": like.new_zeros(side * side, 3), "txt_ids": like.new_zeros(tokens, 3)}
        inputs["timestep"] = like.new_full((batch_size,), 0.5)
        if hasattr(config, "pooled_projection_dim"):
            inputs["pooled_projections"] = like.new_zeros(batch_size, config.pooled_projection_dim)
        if getattr(config, "guidance_embeds", False):
            inputs["guidance"] = like.new_full((batch_size,), 3.5)
        return inputs


@register("WanTransformer3DModel")
class Wan(Architecture):
    """Text and image to video.

    In a pipeline with two transformers (Wan 2.2) a row of the mask belongs to the one that runs at that step.
    """

    patterns = {"blocks.*.attn1": "attention", "blocks.*.attn2": "cross_attention", "blocks.*.ffn": "mlp"}

    def example_inputs(
        self, model: nn.Module, batch_size: int = 1, video: tuple[int, int, int] = (2, 8, 8), tokens: int = 6
    ) -> dict[str, Any]:
        """The inputs are latents (N, C, frames, height, width) of size `video` and text (N, tokens, D)."""
        config = model.config
        latents, text = (config.in_channels, *video), (tokens, config.text_dim)
        inputs = noise(model, batch_size, hidden_states=latents, encoder_hidden_states=text)
        if config.image_dim is not None:
            image = inputs["hidden_states"].new_zeros(batch_size, 257, config.image_dim)
            inputs["encoder_hidden_states_image"] = image
        return inputs


@register("SanaTransformer2DModel")
class Sana(Transformer):
    """Linear attention, cross-attention, convolutional feed-forward."""

    patterns = SELF_CROSS_FF
    shapes = {"hidden_states": LATENTS, "encoder_hidden_states": (TOKENS, "caption_channels")}

    def others(self, model: nn.Module, like: Tensor) -> dict[str, Any]:
        """SANA-Sprint also takes the guidance scale."""
        return (
            {"guidance": like.new_full((len(like),), 0.45)} if getattr(model.config, "guidance_embeds", False) else {}
        )


@register("HunyuanDiT2DModel")
class HunyuanDiT(WithVariance):
    """Long skips from the first half of the blocks to the second; two texts."""

    patterns = {"blocks.*.attn1": "attention", "blocks.*.attn2": "cross_attention", "blocks.*.ff": "mlp"}
    shapes = {
        "hidden_states": LATENTS,
        "encoder_hidden_states": ("text_len", "cross_attention_dim"),
        "encoder_hidden_states_t5": ("text_len_t5", "cross_attention_dim_t5"),
    }

    def others(self, model: nn.Module, like: Tensor) -> dict[str, Any]:
        """The call also takes masks, sizes, a style and rotary positions."""
        config, batch = model.config, len(like)
        tokens = (config.sample_size // config.patch_size) ** 2
        others = {
            "text_embedding_mask": like.new_ones(batch, config.text_len),
            "text_embedding_mask_t5": like.new_ones(batch, config.text_len_t5),
            "image_rotary_emb": _rotary(like, tokens, config.attention_head_dim),
            "timestep": like.new_full((batch,), 500),
        }
        if config.use_style_cond_and_image_meta_size:
            style = torch.zeros(batch, dtype=torch.long, device=like.device)
            others |= {"image_meta_size": like.new_ones(batch, 6), "style": style}
        return others


@register("AuraFlowTransformer2DModel")
class AuraFlow(Transformer):
    """Joint blocks of two streams, then single ones."""

    patterns = {
        "joint_transformer_blocks.*.attn": "attention",
        "joint_transformer_blocks.*.ff": "mlp",
        "joint_transformer_blocks.*.ff_context": "mlp",
        "single_transformer_blocks.*.attn": "attention",
        "single_transformer_blocks.*.ff": "mlp",
    }
    shapes = {"hidden_states": LATENTS, "encoder_hidden_states": (TOKENS, "joint_attention_dim")}


@register("QwenImageTransformer2DModel")
class QwenImage(Transformer):
    """Blocks of two streams with an attention of two results; latents are packed."""

    patterns = {
        "transformer_blocks.*.attn": "attention",
        "transformer_blocks.*.img_mlp": "mlp",
        "transformer_blocks.*.txt_mlp": "mlp",
    }
    shapes = {"hidden_states": (8 * 8, "in_channels"), "encoder_hidden_states": (TOKENS, "joint_attention_dim")}

    def others(self, model: nn.Module, like: Tensor) -> dict[str, Any]:
        """The call also takes the size of the packed image."""
        return {"img_shapes": [[(1, 8, 8)]] * len(like)}


@register("CogVideoXTransformer3DModel")
class CogVideoX(Architecture):
    """Text and video in one sequence; latents are (F, C, H, W), frames first."""

    patterns = {"transformer_blocks.*.attn1": "attention", "transformer_blocks.*.ff": "mlp"}

    def example_inputs(self, model: nn.Module, batch_size: int = 1) -> dict[str, Any]:
        """The configured video and text; the larger models also take rotary positions."""
        config = model.config
        frames = (config.sample_frames - 1) // config.temporal_compression_ratio + 1
        inputs = noise(
            model,
            batch_size,
            hidden_states=(frames, config.in_channels, config.sample_height, config.sample_width),
            encoder_hidden_states=(config.max_text_seq_length, config.text_embed_dim),
        )
        if config.use_rotary_positional_embeddings:
            tokens = frames * config.sample_height * config.sample_width // config.patch_size**2
            inputs["image_rotary_emb"] = _rotary(inputs["hidden_states"], tokens, config.attention_head_dim)
        return inputs


@register("LTXVideoTransformer3DModel")
class LTXVideo(Transformer):
    """A video transformer over packed latents."""

    patterns = SELF_CROSS_FF
    shapes = {"hidden_states": (2 * 4 * 4, "in_channels"), "encoder_hidden_states": (TOKENS, "caption_channels")}

    def others(self, model: nn.Module, like: Tensor) -> dict[str, Any]:
        """The call also takes the size of the packed video and a mask of the text."""
        mask = like.new_ones(len(like), TOKENS)
        return {"num_frames": 2, "height": 4, "width": 4, "encoder_attention_mask": mask}


@register("StableAudioDiTModel")
class StableAudio(Transformer):
    """A transformer over the latents (C, L) of a sound."""

    patterns = SELF_CROSS_FF
    shapes = {
        "hidden_states": ("in_channels", "sample_size"),
        "encoder_hidden_states": (TOKENS, "cross_attention_input_dim"),
        "global_hidden_states": (1, "global_states_input_dim"),
    }

    def others(self, model: nn.Module, like: Tensor) -> dict[str, Any]:
        """The call also takes rotary positions."""
        config = model.config
        return {"rotary_embedding": _rotary(like, config.sample_size + 1, config.attention_head_dim // 2)}


@register("MochiTransformer3DModel")
class Mochi(Transformer):
    """Video; blocks of two streams, the last of which leaves the text as it is."""

    patterns = {
        "transformer_blocks.*.attn1": "attention",
        "transformer_blocks.*.ff": "mlp",
        "transformer_blocks.*.ff_context": "mlp",
    }
    shapes = {
        "hidden_states": ("in_channels", 2, 8, 8),
        "encoder_hidden_states": ("max_sequence_length", "text_embed_dim"),
    }

    def others(self, model: nn.Module, like: Tensor) -> dict[str, Any]:
        """The call also takes a mask of the text, whose length the model reads."""
        return {"encoder_attention_mask": _text_mask(like, model.config.max_sequence_length)}


@register("Lumina2Transformer2DModel")
class Lumina2(Transformer):
    """Blocks for the text and the image alone, then for both in one sequence."""

    patterns = {
        "context_refiner.*.attn": "attention",
        "context_refiner.*.feed_forward": "mlp",
        "noise_refiner.*.attn": "attention",
        "noise_refiner.*.feed_forward": "mlp",
        "layers.*.attn": "attention",
        "layers.*.feed_forward": "mlp",
    }
    shapes = {"hidden_states": LATENTS, "encoder_hidden_states": (TOKENS, "cap_feat_dim")}

    def others(self, model: nn.Module, like: Tensor) -> dict[str, Any]:
        """The time goes from 0 to 1; the model reads the length of the text from its mask."""
        return {"timestep": like.new_full((len(like),), 0.5), "encoder_attention_mask": _text_mask(like, TOKENS)}


@register("LatteTransformer3DModel")
class Latte(Transformer):
    """Video; spatial and temporal blocks in turns."""

    patterns = {
        **SELF_CROSS_FF,
        "temporal_transformer_blocks.*.attn1": "attention",
        "temporal_transformer_blocks.*.ff": "mlp",
    }
    shapes = {
        "hidden_states": ("in_channels", "video_length", "sample_size", "sample_size"),
        "encoder_hidden_states": (TOKENS, "caption_channels"),
    }
