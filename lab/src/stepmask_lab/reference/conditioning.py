"""What is trained of a pipeline, as one module that predicts noise from noisy samples, timesteps and labels.

Every module says in its own words what a label says: not at all, by number, by embedding, by caption. For
classifier-free guidance, a tenth of the labels is dropped. Knows neither losses nor schedules of noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stepmask_lab.reference.captions import CAPTIONS

DROPOUT = 0.1
DIT_NULL_CLASS = 1000
UNKNOWN_WORDS = 0.05


def trainable(pipe: Any, captions: Sequence[Sequence[str]] = CAPTIONS) -> nn.Module:
    """The module that is trained of `pipe`; it shares the pipeline's weights.

    Args:
        pipe: An untrained pipeline.
        captions: Those of every label, where the pipeline reads text.
    """
    if getattr(pipe, "text_encoder", None) is not None:
        return ByCaption(pipe.transformer, pipe.text_encoder, pipe.tokenizer, captions)
    if hasattr(pipe, "class_embedder"):
        return ByEmbedding(pipe.unet, pipe.class_embedder)
    if hasattr(pipe, "transformer"):
        return ByNumber(pipe.transformer)
    return Unconditional(pipe.unet)


def _dropped(labels: Tensor, null: int) -> Tensor:
    return torch.where(torch.rand(len(labels), device=labels.device) < DROPOUT, null, labels)


class Unconditional(nn.Module):
    """A denoiser that is told nothing."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, noisy: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
        """Predicted noise, of the shape of `noisy`."""
        return self.unet(noisy, timesteps).sample


class ByNumber(nn.Module):
    """A DiT, which embeds labels itself."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, noisy: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
        """Predicted noise, of the shape of `noisy`."""
        return self.transformer(noisy, timesteps, class_labels=_dropped(labels, DIT_NULL_CLASS)).sample


class ByEmbedding(nn.Module):
    """A U-Net and the embedder that makes a token of a label."""

    def __init__(self, unet: nn.Module, class_embedder: nn.Module) -> None:
        super().__init__()
        self.unet, self.class_embedder = unet, class_embedder

    def forward(self, noisy: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
        """Predicted noise, of the shape of `noisy`."""
        tokens = self.class_embedder(_dropped(labels, self.class_embedder.null_class))
        return self.unet(noisy, timesteps, encoder_hidden_states=tokens).sample


class ByCaption(nn.Module):
    """A PixArt transformer and the encoder that reads a caption, one of the label's at random.

    The dropped caption is the empty one. Some words are replaced by the unknown word, so that prompts with words that
    no caption has do no harm.
    """

    def __init__(
        self, transformer: nn.Module, text_encoder: nn.Module, tokenizer: Any, captions: Sequence[Sequence[str]]
    ) -> None:
        super().__init__()
        self.transformer, self.text_encoder = transformer, text_encoder
        self.special, self.unknown = (tokenizer.pad_token_id, tokenizer.eos_token_id), tokenizer.unk_token_id
        texts = ["", *(text for each in captions for text in each)]
        table = tokenizer(texts, padding="longest", return_tensors="pt")
        counts = torch.tensor([len(each) for each in captions])
        first = 1 + counts.cumsum(0) - counts
        for name, value in (
            ("ids", table.input_ids),
            ("mask", table.attention_mask),
            ("counts", counts),
            ("first", first),
        ):
            self.register_buffer(name, value, persistent=False)

    def forward(self, noisy: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
        """Predicted noise, of the shape of `noisy`."""
        chance = torch.rand(len(labels), device=labels.device)
        rows = _dropped(self.first[labels] + (chance * self.counts[labels]).long(), 0)
        ids, mask = self.ids[rows], self.mask[rows]
        hidden = torch.rand(ids.shape, device=ids.device) < UNKNOWN_WORDS
        for token in self.special:
            hidden &= ids != token
        ids = torch.where(hidden, self.unknown, ids)
        return self.transformer(
            noisy,
            encoder_hidden_states=self.text_encoder(ids, attention_mask=mask)[0],
            encoder_attention_mask=mask,
            timestep=timesteps,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ).sample
