"""Pictures of masks and of what they do: each function makes one, `save_png` writes it; `save_animation` writes videos.

Everything here draws what it is given; nothing is sampled or measured.
"""

from stepmask.report._figures import png, save_animation, save_png
from stepmask.report.curve import curve, trade_offs
from stepmask.report.grid import grid
from stepmask.report.heatmap import heatmap
from stepmask.report.memory import memory
from stepmask.report.page import Results, write_page
from stepmask.report.pictures import same_seeds, side_by_side, tiles
from stepmask.report.scores import scores
from stepmask.report.table import markdown_table, rows_table, transfer_table
from stepmask.report.terminal import terminal_map

__all__ = [
    "Results",
    "curve",
    "grid",
    "heatmap",
    "markdown_table",
    "memory",
    "png",
    "rows_table",
    "same_seeds",
    "save_animation",
    "save_png",
    "scores",
    "side_by_side",
    "terminal_map",
    "tiles",
    "trade_offs",
    "transfer_table",
    "write_page",
]
