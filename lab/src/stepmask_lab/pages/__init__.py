"""Pages of results: tables, claims and curves from the raw rows of a benchmark. Nothing is sampled or measured here."""

from stepmask_lab.pages.curve import curve, trade_offs
from stepmask_lab.pages.memory import memory
from stepmask_lab.pages.page import Results, write_page
from stepmask_lab.pages.table import markdown_table, rows_table, transfer_table

__all__ = [
    "Results",
    "curve",
    "markdown_table",
    "memory",
    "rows_table",
    "trade_offs",
    "transfer_table",
    "write_page",
]
