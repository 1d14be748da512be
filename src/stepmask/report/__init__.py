"""Pictures of masks and of what they do: each function makes one, `save_png` writes it.

Everything here draws what it is given; nothing is sampled or measured.
"""

from stepmask.report._figures import png, save_png
from stepmask.report.curve import curve
from stepmask.report.grid import grid
from stepmask.report.heatmap import heatmap
from stepmask.report.pictures import side_by_side, tiles
from stepmask.report.scores import scores
from stepmask.report.table import comparison_table, markdown_table, transfer_table
from stepmask.report.terminal import terminal_map

__all__ = [
    "comparison_table",
    "curve",
    "grid",
    "heatmap",
    "markdown_table",
    "png",
    "save_png",
    "scores",
    "side_by_side",
    "terminal_map",
    "tiles",
    "transfer_table",
]
