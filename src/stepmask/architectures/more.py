"""Families that one line of patterns each declares; who reads whom is traced.

A table to extend: patterns, and the shapes of example inputs.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import nn

from stepmask.inspection.architecture import Architecture
from stepmask.inspection.inputs import noise
from stepmask.inspection.registry import register

SELF_CROSS_FF = {
    "transformer_blocks.*.attn1": "attention",
    "transformer_blocks.*.attn2": "cross_attention",
    "transformer_blocks.*.ff": "mlp",
}
"""Sites of the blocks that most text-conditioned transformers have."""

TOKENS = 16
"""Length of example texts."""


class Simple(Architecture):
    """Example inputs from shapes, and what else a call needs."""

    @abstractmethod
    def shapes(self, config: Any) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the arguments without the batch, by name."""

    def others(self, config: Any, like: torch.Tensor) -> dict[str, Any]:
        """Return further arguments; `like` is the sample."""
        return {}

    def example_inputs(self, model: nn.Module, batch_size: int = 1) -> dict[str, Any]:
        """The inputs are small where the configuration does not say how large they are."""
        inputs = noise(model, batch_size, **self.shapes(model.config))
        return inputs | self.others(model.config, inputs[self.step_inputs[0]])


@register("SanaTransformer2DModel")
class Sana(Simple):
    """Linear attention, cross-attention, convolutional feed-forward."""

    patterns = SELF_CROSS_FF

    def shapes(self, config: Any) -> dict[str, tuple[int, ...]]:
        """The call takes latents (C, H, W) and text (L, D)."""
        size = config.sample_size
        return {
            "hidden_states": (config.in_channels, size, size),
            "encoder_hidden_states": (TOKENS, config.caption_channels),
        }

    def others(self, config: Any, like: torch.Tensor) -> dict[str, Any]:
        """SANA-Sprint also takes the guidance scale."""
        batch = len(like)
        return {"guidance": like.new_full((batch,), 0.45)} if getattr(config, "guidance_embeds", False) else {}


@register("HunyuanDiT2DModel")
class HunyuanDiT(Simple):
    """Long skips from the first half of the blocks to the second."""

    patterns = {"blocks.*.attn1": "attention", "blocks.*.attn2": "cross_attention", "blocks.*.ff": "mlp"}

    def shapes(self, config: Any) -> dict[str, tuple[int, ...]]:
        """The call takes latents (C, H, W) and two texts (L, D)."""
        return {
            "hidden_states": (config.in_channels, config.sample_size, config.sample_size),
            "encoder_hidden_states": (config.text_len, config.cross_attention_dim),
            "encoder_hidden_states_t5": (config.text_len_t5, config.cross_attention_dim_t5),
        }

    def others(self, config: Any, like: torch.Tensor) -> dict[str, Any]:
        """The call also takes masks, sizes, a style and rotary positions."""
        batch, tokens = len(like), (config.sample_size // config.patch_size) ** 2
        rotary = tuple(like.new_ones(tokens, config.attention_head_dim) for _ in range(2))
        others = {
            "text_embedding_mask": like.new_ones(batch, config.text_len),
            "text_embedding_mask_t5": like.new_ones(batch, config.text_len_t5),
            "image_rotary_emb": rotary,
            "timestep": like.new_full((batch,), 500),
        }
        if config.use_style_cond_and_image_meta_size:
            style = torch.zeros(batch, dtype=torch.long, device=like.device)
            others |= {"image_meta_size": like.new_ones(batch, 6), "style": style}
        return others

    def used_output(self, model: nn.Module, output: torch.Tensor) -> torch.Tensor:
        """The noise; a learned variance in the second half of the channels is left out."""
        return output[:, : model.config.in_channels]


@register("AuraFlowTransformer2DModel")
class AuraFlow(Simple):
    """Joint blocks of two streams, then single ones."""

    patterns = {
        "joint_transformer_blocks.*.attn": "attention",
        "joint_transformer_blocks.*.ff": "mlp",
        "joint_transformer_blocks.*.ff_context": "mlp",
        "single_transformer_blocks.*.attn": "attention",
        "single_transformer_blocks.*.ff": "mlp",
    }

    def shapes(self, config: Any) -> dict[str, tuple[int, ...]]:
        """The call takes latents (C, H, W) and text (L, D)."""
        size = config.sample_size
        return {
            "hidden_states": (config.in_channels, size, size),
            "encoder_hidden_states": (TOKENS, config.joint_attention_dim),
        }


@register("QwenImageTransformer2DModel")
class QwenImage(Simple):
    """Blocks of two streams with an attention of two results."""

    patterns = {
        "transformer_blocks.*.attn": "attention",
        "transformer_blocks.*.img_mlp": "mlp",
        "transformer_blocks.*.txt_mlp": "mlp",
    }
    side = 8

    def shapes(self, config: Any) -> dict[str, tuple[int, ...]]:
        """The call takes packed latents (N, C) and text (L, D)."""
        return {
            "hidden_states": (self.side**2, config.in_channels),
            "encoder_hidden_states": (TOKENS, config.joint_attention_dim),
        }

    def others(self, config: Any, like: torch.Tensor) -> dict[str, Any]:
        """The call also takes the size of the packed image."""
        return {"img_shapes": [[(1, self.side, self.side)]] * len(like)}


@register("CogVideoXTransformer3DModel")
class CogVideoX(Simple):
    """Text and video in one sequence."""

    patterns = {"transformer_blocks.*.attn1": "attention", "transformer_blocks.*.ff": "mlp"}

    def shapes(self, config: Any) -> dict[str, tuple[int, ...]]:
        """The call takes latents (F, C, H, W), frames first, and text (L, D)."""
        frames = (config.sample_frames - 1) // config.temporal_compression_ratio + 1
        return {
            "hidden_states": (frames, config.in_channels, config.sample_height, config.sample_width),
            "encoder_hidden_states": (config.max_text_seq_length, config.text_embed_dim),
        }

    def others(self, config: Any, like: torch.Tensor) -> dict[str, Any]:
        """The larger models also take rotary positions."""
        if not config.use_rotary_positional_embeddings:
            return {}
        tokens = like.shape[1] * like.shape[3] * like.shape[4] // config.patch_size**2
        return {"image_rotary_emb": tuple(like.new_ones(tokens, config.attention_head_dim) for _ in range(2))}


@register("LTXVideoTransformer3DModel")
class LTXVideo(Simple):
    """A video transformer over packed latents."""

    patterns = SELF_CROSS_FF
    video = (2, 4, 4)

    def shapes(self, config: Any) -> dict[str, tuple[int, ...]]:
        """The call takes packed latents (N, C) and text (L, D)."""
        frames, height, width = self.video
        return {
            "hidden_states": (frames * height * width, config.in_channels),
            "encoder_hidden_states": (TOKENS, config.caption_channels),
        }

    def others(self, config: Any, like: torch.Tensor) -> dict[str, Any]:
        """The call also takes the size of the packed video and a mask of the text."""
        size = dict(zip(("num_frames", "height", "width"), self.video, strict=True))
        return size | {"encoder_attention_mask": like.new_ones(len(like), TOKENS)}


@register("StableAudioDiTModel")
class StableAudio(Simple):
    """A transformer over the latents of a sound."""

    patterns = SELF_CROSS_FF

    def shapes(self, config: Any) -> dict[str, tuple[int, ...]]:
        """The call takes latents (C, L), text (L, D) and global conditions (1, D)."""
        return {
            "hidden_states": (config.in_channels, config.sample_size),
            "encoder_hidden_states": (TOKENS, config.cross_attention_input_dim),
            "global_hidden_states": (1, config.global_states_input_dim),
        }

    def others(self, config: Any, like: torch.Tensor) -> dict[str, Any]:
        """The call also takes rotary positions."""
        size = (config.sample_size + 1, config.attention_head_dim // 2)
        return {"rotary_embedding": tuple(like.new_ones(size) for _ in range(2))}


@register("MochiTransformer3DModel")
class Mochi(Simple):
    """Video; blocks of two streams, the last of which leaves the text as it is."""

    patterns = {
        "transformer_blocks.*.attn1": "attention",
        "transformer_blocks.*.ff": "mlp",
        "transformer_blocks.*.ff_context": "mlp",
    }

    def shapes(self, config: Any) -> dict[str, tuple[int, ...]]:
        """The call takes latents (C, F, H, W) of a few frames and text (L, D)."""
        return {
            "hidden_states": (config.in_channels, 2, 8, 8),
            "encoder_hidden_states": (config.max_sequence_length, config.text_embed_dim),
        }

    def others(self, config: Any, like: torch.Tensor) -> dict[str, Any]:
        """The call also takes a mask of the text, whose length the model reads."""
        return {"encoder_attention_mask": _text_mask(like, config.max_sequence_length)}


@register("Lumina2Transformer2DModel")
class Lumina2(Simple):
    """Blocks for the text and the image alone, then for both in one sequence."""

    patterns = {
        "context_refiner.*.attn": "attention",
        "context_refiner.*.feed_forward": "mlp",
        "noise_refiner.*.attn": "attention",
        "noise_refiner.*.feed_forward": "mlp",
        "layers.*.attn": "attention",
        "layers.*.feed_forward": "mlp",
    }

    def shapes(self, config: Any) -> dict[str, tuple[int, ...]]:
        """The call takes latents (C, H, W) and text (L, D)."""
        return {
            "hidden_states": (config.in_channels, config.sample_size, config.sample_size),
            "encoder_hidden_states": (TOKENS, config.cap_feat_dim),
        }

    def others(self, config: Any, like: torch.Tensor) -> dict[str, Any]:
        """The time goes from 0 to 1; the model reads the length of the text from its mask."""
        return {"timestep": like.new_full((len(like),), 0.5), "encoder_attention_mask": _text_mask(like, TOKENS)}


def _text_mask(like: torch.Tensor, tokens: int) -> torch.Tensor:
    """Return the mask of a text whose second half is padding."""
    return (torch.arange(tokens, device=like.device) < tokens // 2).expand(len(like), tokens)


@register("LatteTransformer3DModel")
class Latte(Simple):
    """Video; spatial and temporal blocks in turns."""

    patterns = {
        "transformer_blocks.*.attn1": "attention",
        "transformer_blocks.*.attn2": "cross_attention",
        "transformer_blocks.*.ff": "mlp",
        "temporal_transformer_blocks.*.attn1": "attention",
        "temporal_transformer_blocks.*.ff": "mlp",
    }

    def shapes(self, config: Any) -> dict[str, tuple[int, ...]]:
        """The call takes latents (C, F, H, W) of a few frames and text (L, D)."""
        video = (config.in_channels, config.video_length, config.sample_size, config.sample_size)
        return {"hidden_states": video, "encoder_hidden_states": (TOKENS, config.caption_channels)}
