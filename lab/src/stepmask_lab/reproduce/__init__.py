"""The tables and figures of arXiv 2603.19939, measured again: its number beside ours. Begin with `tables`.

`paper` holds what is printed, `full_size` counts MACs on the published architectures, `lines` says what each line runs,
`bench` keeps what was measured. `pages` writes; figures are drawn by `stepmask.pictures`.
"""

from stepmask_lab.reproduce.bench import Bench, Options, OwnModel, options_of
from stepmask_lab.reproduce.figures import FigureData, figure_data
from stepmask_lab.reproduce.report_page import page
from stepmask_lab.reproduce.tables import ablated, ablation_table, comparison_table

__all__ = [
    "Bench",
    "FigureData",
    "Options",
    "OwnModel",
    "ablated",
    "ablation_table",
    "comparison_table",
    "figure_data",
    "options_of",
    "page",
]
