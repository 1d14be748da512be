"""Masks that were made in diffusers, for the same U-Net in ComfyUI, which calls its blocks otherwise."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import comfy.utils

from stepmask import StepMask

THEIRS = re.compile(r".+?\.(resnets|attentions|downsamplers|upsamplers)\.\d+")
OURS = re.compile(r"(input_blocks\.\d+|middle_block|output_blocks\.\d+)\.\d+")


def renamed(mask: StepMask, unet_config: dict[str, Any]) -> StepMask:
    """The mask under the names of ComfyUI, where all its sites are such blocks of diffusers; else as it is.

    Args:
        mask: A mask of any model.
        unet_config: As ComfyUI has it of the model that is to run it.
    """
    names = comfy.utils.unet_to_diffusers(unet_config)
    sites = {THEIRS.match(theirs)[0]: OURS.match(ours)[0] for theirs, ours in names.items() if THEIRS.match(theirs)}
    if not set(mask.sites) <= set(sites):
        return mask
    tables = {
        name: {sites[site]: table for site, table in tables.items()}
        for name, tables in (("channel_gains", mask.channel_gains), ("weights", mask.weights))
        if tables is not None
    }
    return replace(mask, sites=[sites[site] for site in mask.sites], graph=None, **tables)
