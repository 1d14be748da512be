"""Pictures of masks and of what they do: each function makes one, `save_png` writes it; `save_animation` writes videos.

Everything here draws what it is given; nothing is sampled or measured. Heatmaps, grids and histograms need matplotlib,
which the extra ``pictures`` brings; the map in the terminal and images side by side do without.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from stepmask.errors import StepMaskError
from stepmask.pictures.files import png, save_animation, save_png
from stepmask.pictures.image_sheets import same_seeds, side_by_side, tiles
from stepmask.pictures.terminal import terminal_map

if TYPE_CHECKING:
    from stepmask.pictures.figures import grid, heatmap, score_histogram
    from stepmask.pictures.frontier import trade_off

__all__ = [
    "grid",
    "heatmap",
    "png",
    "same_seeds",
    "save_animation",
    "save_png",
    "score_histogram",
    "side_by_side",
    "terminal_map",
    "tiles",
    "trade_off",
]


def __getattr__(name: str) -> Any:
    home = "frontier" if name == "trade_off" else "figures"
    if name not in ("grid", "heatmap", "score_histogram", "trade_off"):
        raise AttributeError(f"module 'stepmask.pictures' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"stepmask.pictures.{home}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise StepMaskError(f"{name} needs matplotlib: pip install 'stepmask[pictures]'") from error
