"""The nodes: load a mask, apply it to a MODEL, learn key steps, save a mask, show it as an image."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import comfy.sample
import comfy.samplers
import folder_paths
import numpy as np
import torch
from PIL import Image

from stepmask import MaskFamily, StepMask, StepMaskError, pictures
from stepmask.files import read_json

from .key_steps import learn_key_steps
from .masked_sampling import under_mask

CATEGORY = "stepmask"
HUB = "hub:"
FOLDER = "stepmask"
"""Within ComfyUI's folder of models, where masks are looked for."""


class LoadStepMask:
    """Reads a mask from a file or from the Hugging Face hub."""

    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "load", ("STEPMASK",)
    DESCRIPTION = "Loads a mask that stepmask has learned or scheduled."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The inputs, as ComfyUI asks for them."""
        source = "A file, absolute or in models/stepmask; or hub:USER/NAME for one on the Hugging Face hub."
        share = "Of a family of masks, the best that costs at most this share of the full run; 0 for a single mask."
        return {
            "required": {"source": ("STRING", {"default": "mask.json", "tooltip": source})},
            "optional": {"share": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 1.0, "step": 0.01, "tooltip": share})},
        }

    @classmethod
    def IS_CHANGED(cls, source: str, share: float = 0.0) -> Any:
        """What ComfyUI compares before it uses the mask of the run before: when the file was written."""
        path = _folder() / source
        return path.stat().st_mtime_ns if path.is_file() else source

    def load(self, source: str, share: float = 0.0) -> tuple[StepMask]:
        """Read it."""
        if source.startswith(HUB):
            name = source.removeprefix(HUB)
            return (MaskFamily.from_pretrained(name).at(share) if share else StepMask.from_pretrained(name),)
        path = _folder() / source
        if not share:
            return (StepMask.load(path),)
        if read_json(path, "mask").get("format") != "stepmask-family":
            raise StepMaskError(f"share picks a mask from a family, and {path} holds a single mask: set share to 0")
        return (MaskFamily.load(path).at(share),)


class SaveStepMask:
    """Writes a mask to a file."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = CATEGORY, "save", (), True
    DESCRIPTION = "Saves a mask into models/stepmask, or where the name says."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The inputs, as ComfyUI asks for them."""
        return {"required": {"mask": ("STEPMASK",), "file": ("STRING", {"default": "mask.json"})}}

    def save(self, mask: StepMask, file: str) -> dict[str, Any]:
        """Write it."""
        path = _folder() / file
        path.parent.mkdir(parents=True, exist_ok=True)
        mask.save(path)
        return {"ui": {"text": [str(path)]}}


class ApplyStepMask:
    """Lets a MODEL sample under a mask."""

    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "apply", ("MODEL",)
    DESCRIPTION = "Samples faster: at each step the blocks that the mask names compute, and the others rest."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The inputs, as ComfyUI asks for them."""
        return {"required": {"model": ("MODEL",), "mask": ("STEPMASK",)}}

    def apply(self, model: Any, mask: StepMask) -> tuple[Any]:
        """Make the MODEL."""
        return (under_mask(model, mask),)


class LearnKeySteps:
    """Finds the steps that have to compute, by sampling with different ones; needs no gradients."""

    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "learn", ("STEPMASK",)
    DESCRIPTION = "Samples in full and with different key steps, and takes those whose result is nearest."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The inputs, as ComfyUI asks for them."""
        runs = "Samplings beside the full one; the more, the better the key steps."
        return {
            "required": {
                "model": ("MODEL",),
                "positive": ("CONDITIONING",),
                "negative": ("CONDITIONING",),
                "latent_image": ("LATENT",),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**64 - 1}),
                "steps": ("INT", {"default": 20, "min": 2, "max": 1000}),
                "key_steps": ("INT", {"default": 10, "min": 2, "max": 1000, "tooltip": "How many steps compute."}),
                "cfg": ("FLOAT", {"default": 7.0, "min": 0.0, "max": 100.0}),
                "sampler_name": (comfy.samplers.KSampler.SAMPLERS,),
                "scheduler": (comfy.samplers.KSampler.SCHEDULERS,),
                "runs": ("INT", {"default": 16, "min": 1, "max": 1000, "tooltip": runs}),
            }
        }

    def learn(
        self,
        model: Any,
        positive: Any,
        negative: Any,
        latent_image: dict[str, Any],
        seed: int,
        steps: int,
        key_steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        runs: int,
    ) -> tuple[StepMask]:
        """Search for them."""
        latents = comfy.sample.fix_empty_latent_channels(model, latent_image["samples"])
        noise = comfy.sample.prepare_noise(latents, seed, latent_image.get("batch_index"))

        def sample(model: Any) -> torch.Tensor:
            asked = (noise, steps, cfg, sampler_name, scheduler, positive, negative, latents)
            return comfy.sample.sample(
                model, *asked, noise_mask=latent_image.get("noise_mask"), seed=seed, disable_pbar=True
            )

        sampler = comfy.samplers.KSampler(model, steps, model.load_device, sampler_name, scheduler)
        timesteps = model.get_model_object("model_sampling").timestep(sampler.sigmas[:-1]).tolist()
        return (learn_key_steps(model, sample, timesteps, key_steps, runs),)


class ShowStepMask:
    """Draws a mask."""

    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "show", ("IMAGE",)
    DESCRIPTION = "The map of a mask: which site computes, holds or forecasts at which step. Needs matplotlib."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The inputs, as ComfyUI asks for them."""
        return {"required": {"mask": ("STEPMASK",)}}

    def show(self, mask: StepMask) -> tuple[torch.Tensor]:
        """An IMAGE (1, H, W, 3) of values from 0 to 1."""
        picture = Image.open(io.BytesIO(pictures.png(pictures.grid(mask)))).convert("RGB")
        return (torch.from_numpy(np.asarray(picture).astype(np.float32) / 255)[None],)


def _folder() -> Path:
    return Path(folder_paths.models_dir) / FOLDER


NODES = {
    LoadStepMask: "Load Step Mask",
    ApplyStepMask: "Apply Step Mask",
    LearnKeySteps: "Learn Key Steps",
    SaveStepMask: "Save Step Mask",
    ShowStepMask: "Show Step Mask",
}
NODE_CLASS_MAPPINGS = {node.__name__: node for node in NODES}
NODE_DISPLAY_NAME_MAPPINGS = {node.__name__: name for node, name in NODES.items()}
