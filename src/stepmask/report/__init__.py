"""Reports: one self-contained HTML page on what was learned, or on a benchmark, to explore in any browser.

Everything on it is computed from what is given; nothing is sampled here. A page with a trade-off needs plotly, which
the extra ``report`` brings; it stands in the page as a whole, so that none needs a network or a server.
"""

from __future__ import annotations

from stepmask.report.content import Axis, Entry, Method, Report, Study, facts_of
from stepmask.report.mask_map import mask_map
from stepmask.report.masks import family_study, mask_study
from stepmask.report.page import check_drawable, render, write_report
from stepmask.report.recipes import frontier_study, recipe_study

__all__ = [
    "Axis",
    "Entry",
    "Method",
    "Report",
    "Study",
    "check_drawable",
    "facts_of",
    "family_study",
    "frontier_study",
    "mask_map",
    "mask_study",
    "recipe_study",
    "render",
    "write_report",
]
