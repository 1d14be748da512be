"""Modular pipelines with the parts of the standard ones, for the sweep alone."""

from dataclasses import replace

from cases import CASES, Case, modular
from strangers import STRANGERS

BY_NAME = {case.name: case for case in [*CASES, *STRANGERS]}


def of_parts(kind: str, blocks: str, name: str) -> Case:
    """A modular pipeline with the parts and the call of a case; its guider says the scale of guidance."""
    known = BY_NAME[name]

    def inputs(batch: int) -> dict:
        return {key: value for key, value in known.inputs(batch).items() if "guidance" not in key}

    return replace(known, name=kind, make=lambda: modular(known.make(), blocks), inputs=inputs)


MODULAR = [
    of_parts("FluxModularPipeline", "FluxAutoBlocks", "Flux"),
    of_parts("StableDiffusionXLModularPipeline", "StableDiffusionXLAutoBlocks", "Stable Diffusion XL"),
    of_parts("StableDiffusion3ModularPipeline", "StableDiffusion3AutoBlocks", "Stable Diffusion 3"),
    of_parts("QwenImageModularPipeline", "QwenImageAutoBlocks", "Qwen-Image"),
    of_parts("WanModularPipeline", "WanBlocks", "Wan"),
    of_parts("Wan22ModularPipeline", "Wan22Blocks", "Wan 2.2, two transformers"),
    of_parts("LTXModularPipeline", "LTXAutoBlocks", "LTX-Video"),
    of_parts("Flux2ModularPipeline", "Flux2AutoBlocks", "Flux 2"),
    of_parts("ZImageModularPipeline", "ZImageAutoBlocks", "Z-Image"),
]
