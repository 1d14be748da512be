"""Published models by name, without weights: their configurations, built on the meta device in seconds.

``load("dit-xl-2-256")`` has the structure of facebook/DiT-XL-2-256 and takes no memory: enough for `describe`,
`measure_cost` and every schedule. It cannot compute; for images, load the weights from the hub by one of `Preset.hub`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from stepmask.errors import StepMaskError

PREFIX = "preset:"


@dataclass(frozen=True)
class Preset:
    """One published model.

    Attributes:
        hub: Repositories of the Hugging Face hub that have weights with this configuration in diffusers' format;
            perhaps none.
        class_name: diffusers' class of the denoiser.
        config: Its configuration, where it differs from the defaults of the class.
        published: Steps and guidance that it was published with, and what there is to know.
        guided: Whether classifier-free guidance then runs it on two inputs per image.
        sizes: Sizes of the inputs in published use, where the configuration does not say them: arguments of the
            architecture's `example_inputs`.
    """

    hub: tuple[str, ...]
    class_name: str
    config: Mapping[str, Any]
    published: str
    guided: bool = True
    sizes: Mapping[str, Any] = field(default_factory=dict)

    def build(self) -> Any:
        """The denoiser on the meta device, in eval mode."""
        import diffusers
        import torch

        with torch.device("meta"):
            model = getattr(diffusers, self.class_name)(**self.config)
        return model.eval().requires_grad_(False)

    def example_inputs(self, model: Any) -> dict[str, Any] | None:
        """Arguments of one call in the sizes of published use; None where they are those of the configuration."""
        if not self.sizes:
            return None
        from stepmask.inspection.registry import registered_architectures

        return registered_architectures()[self.class_name].example_inputs(model, **self.sizes)


def names() -> list[str]:
    """Names of the presets."""
    return list(PRESETS)


def get(name: str) -> Preset:
    """A preset by name.

    Raises:
        StepMaskError: There is no such preset.
    """
    if name not in PRESETS:
        raise StepMaskError(f"no preset {name!r}; there are {', '.join(names())}")
    return PRESETS[name]


def load(name: str) -> Any:
    """The denoiser of a preset: a diffusers model on the meta device, in eval mode.

    Raises:
        StepMaskError: There is no such preset.
    """
    preset = get(name)
    model = preset.build()
    inputs = preset.example_inputs(model)
    if inputs is not None:
        from stepmask.inspection.describe import register_sites
        from stepmask.inspection.registry import architecture_of

        sites = {site.name: site.kind for site in architecture_of(model).sites(model)}
        register_sites(model, sites, example_inputs=inputs)  # so that costs are those of published use
    return model


def _with_tuples(value: Any) -> Any:
    """A JSON value with tuples in the place of lists, as the classes of diffusers have them."""
    if isinstance(value, dict):
        return {key: _with_tuples(one) for key, one in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


_FOUND = json.loads((Path(__file__).parent / "presets.json").read_text(encoding="utf-8"))
PRESETS: Mapping[str, Preset] = MappingProxyType({name: Preset(**_with_tuples(one)) for name, one in _FOUND.items()})
"""The published models, by name; their configurations are in ``presets.json``."""
