"""Class-conditional latent diffusion: what LDM-4-G needs and diffusers lacks a pipeline for.

The U-Net reads the class as one token through its cross-attention. Knows any autoencoder that decodes latents
(AutoencoderKL, VQModel) and any diffusers scheduler; knows no masks.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import ConfigMixin, DiffusionPipeline, ImagePipelineOutput, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from stepmask.errors import StepMaskError

OUTPUT_TYPES = ("pil", "pt", "np", "latent")


class ClassEmbedder(ModelMixin, ConfigMixin):
    """One embedding per class and one more, the last, for no class.

    Args:
        num_classes: Without the null class.
        embedding_dim: The U-Net's ``cross_attention_dim``.
    """

    @register_to_config
    def __init__(self, num_classes: int, embedding_dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_classes + 1, embedding_dim)

    @property
    def null_class(self) -> int:
        """Number of the class that says nothing."""
        return self.config.num_classes

    def forward(self, labels: Tensor) -> Tensor:
        """From labels (N,) to one token each, (N, 1, D)."""
        return self.embedding(labels)[:, None]


class ClassConditionalLDMPipeline(DiffusionPipeline):
    """Images by class, made in the latent space of an autoencoder.

    Args:
        vae: Decodes latents; its config's `scaling_factor` is applied.
        unet: Reads the class by cross-attention.
        class_embedder: Makes the class a token.
        scheduler: Any diffusers scheduler.
        id2label: Names of the classes, several separated by commas; then `labels` has their numbers.
    """

    model_cpu_offload_seq = "class_embedder->unet->vae"

    def __init__(
        self,
        vae: Any,
        unet: UNet2DConditionModel,
        class_embedder: ClassEmbedder,
        scheduler: Any,
        id2label: Mapping[Any, str] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(vae=vae, unet=unet, class_embedder=class_embedder, scheduler=scheduler)
        self.image_processor = VaeImageProcessor(vae_scale_factor=2 ** (len(vae.config.block_out_channels) - 1))
        names = {str(number): name for number, name in (id2label or {}).items()}  # as JSON keeps them
        self.register_to_config(id2label=names or None)
        self.labels = {name.strip(): int(number) for number, each in names.items() for name in each.split(",")}

    def get_label_ids(self, label: str | Sequence[str]) -> list[int]:
        """Numbers of classes by name.

        Raises:
            StepMaskError: There is no such class.
        """
        words = [label] if isinstance(label, str) else list(label)
        unknown = [word for word in words if word not in self.labels]
        if unknown:
            raise StepMaskError(
                f"no class {unknown[0]!r}; there are {', '.join(self.labels) or 'no names, only numbers'}"
            )
        return [self.labels[word] for word in words]

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Sequence[int] | Tensor | int,
        guidance_scale: float = 3.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        num_inference_steps: int = 50,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """Make one image per label.

        Args:
            class_labels: Numbers of classes; the null class is one of them.
            guidance_scale: Above 1, each step runs the U-Net on a doubled batch, null class first, and goes beyond the
                conditional prediction.
            generator: Source of the noise, one for all or one per image.
            num_inference_steps: For ``scheduler.set_timesteps``.
            output_type: "pil", "np" (N, H, W, C) or "pt" (N, C, H, W), both in [0, 1], or "latent", scaled as the U-Net
                sees them.
            return_dict: Whether to return an `ImagePipelineOutput` instead of a tuple.

        Raises:
            StepMaskError: A label or output type that there is not, or as many generators as do not fit.
        """
        if output_type not in OUTPUT_TYPES:
            raise StepMaskError(f"no output_type {output_type!r}; there are {', '.join(OUTPUT_TYPES)}")
        device = self._execution_device
        labels = self._checked(class_labels).to(device)
        if isinstance(generator, Sequence) and len(generator) != len(labels):
            raise StepMaskError(f"{len(generator)} generators for {len(labels)} images: give one, or one per image")
        guided = guidance_scale > 1
        if guided:
            labels = torch.cat([torch.full_like(labels, self.class_embedder.null_class), labels])
        tokens = self.class_embedder(labels)
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        latents = self._noise(len(labels) // 2 if guided else len(labels), generator)
        takes_generator = "generator" in inspect.signature(self.scheduler.step).parameters
        step_kwargs = {"generator": generator} if takes_generator else {}
        for timestep in self.progress_bar(self.scheduler.timesteps):
            sample = self.scheduler.scale_model_input(torch.cat([latents] * 2) if guided else latents, timestep)
            timesteps = timestep.to(device).expand(len(sample))
            noise = self.unet(sample, timesteps, encoder_hidden_states=tokens, return_dict=False)[0]
            if guided:
                null, conditional = noise.chunk(2)
                noise = null + guidance_scale * (conditional - null)
            latents = self.scheduler.step(noise, timestep, latents, **step_kwargs, return_dict=False)[0]
        images = latents
        if output_type != "latent":
            scale = getattr(self.vae.config, "scaling_factor", 1.0)
            decoded = self.vae.decode(latents.to(self.vae.dtype) / scale, return_dict=False)[0]
            images = self.image_processor.postprocess(decoded, output_type=output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _checked(self, class_labels: Sequence[int] | Tensor | int) -> Tensor:
        """Labels as a tensor (N,) of numbers that have an embedding."""
        labels = torch.as_tensor(class_labels).reshape(-1)
        null = self.class_embedder.null_class
        if not len(labels) or labels.is_floating_point() or labels.min() < 0 or labels.max() > null:
            raise StepMaskError(
                f"class_labels must be whole numbers from 0 to {null - 1} ({null} is the null class), at least one; "
                f"got {labels.tolist()}"
            )
        return labels.long()

    def _noise(self, count: int, generator: torch.Generator | list[torch.Generator] | None) -> Tensor:
        config = self.unet.config
        size = config.sample_size if not isinstance(config.sample_size, int) else (config.sample_size,) * 2
        generator = list(generator) if isinstance(generator, Sequence) else generator
        shape = (count, config.in_channels, *size)
        noise = randn_tensor(shape, generator=generator, device=self._execution_device, dtype=self.unet.dtype)
        return noise * self.scheduler.init_noise_sigma
