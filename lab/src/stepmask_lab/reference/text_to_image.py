"""PixArt-Sigma for small pictures: the same pipeline, with defaults that suit a model of its size.

PixArtSigmaPipeline pads every prompt to 300 tokens and maps sizes to those of its large checkpoints. Needs
transformers.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ImagePipelineOutput, PixArtSigmaPipeline

from stepmask_lab.reference import emoji
from stepmask_lab.reference.captions import CAPTIONS

MAX_TOKENS = 16


class SmallPixArtPipeline(PixArtSigmaPipeline):
    """PixArtSigmaPipeline with prompts of 16 tokens, without resolution binning and without cleaning of captions."""

    example_prompts = tuple(text for texts in CAPTIONS for text in texts)
    """What the text encoder of ``pixart-cifar10`` was trained on."""

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] = "",
        num_inference_steps: int = 20,
        guidance_scale: float = 3.0,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        max_sequence_length: int = MAX_TOKENS,
        clean_caption: bool = False,
        use_resolution_binning: bool = False,
        **more: Any,
    ) -> ImagePipelineOutput | tuple:
        """Make images that a prompt describes.

        Args:
            prompt: What the pictures show.
            negative_prompt: What guidance leads away from.
            num_inference_steps: For ``scheduler.set_timesteps``.
            guidance_scale: Above 1, each step runs the transformer on a doubled batch, negative prompt first.
            num_images_per_prompt: Images for each prompt.
            generator: Source of the noise, one for all or one per image.
            latents: Noise to begin with, instead.
            output_type: "pil", "np" (N, H, W, C), "pt" (N, C, H, W) or "latent".
            return_dict: Whether to return an `ImagePipelineOutput` instead of a tuple.
            max_sequence_length: Tokens that prompts are padded to, or cut.
            clean_caption: As in PixArtSigmaPipeline.
            use_resolution_binning: As in PixArtSigmaPipeline; works for its sizes only.
            more: Other arguments of PixArtSigmaPipeline.
        """
        return super().__call__(
            prompt=prompt,
            negative_prompt=negative_prompt,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            num_images_per_prompt=num_images_per_prompt,
            generator=generator,
            latents=latents,
            output_type=output_type,
            return_dict=return_dict,
            max_sequence_length=max_sequence_length,
            clean_caption=clean_caption,
            use_resolution_binning=use_resolution_binning,
            **more,
        )


class EmojiPipeline(SmallPixArtPipeline):
    """The same pipeline with the prompts of ``pixart-emoji``: "a red apple, flat style"."""

    example_prompts = tuple(text for texts in emoji.CAPTIONS for text in texts)
    """What the text encoder of ``pixart-emoji`` was trained on."""
