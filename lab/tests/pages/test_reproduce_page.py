"""The page of the paper's tables is what its raw results give."""

import shutil
import sys
from pathlib import Path

import stepmask_lab.cli.reproduce  # noqa: F401  (the package has a verb of the same name)

RESULTS = Path(__file__).parents[2] / "results"


def test_the_page_is_up_to_date(tmp_path):
    (tmp_path / "results").mkdir()
    for path in RESULTS.glob("reproduce-*.json"):
        shutil.copy(path, tmp_path / "results")
    made = sys.modules["stepmask_lab.cli.reproduce"]._page(tmp_path)
    assert made == (RESULTS / "reproduce.md").read_text(encoding="utf-8"), (
        "copy what stepmask reproduce writes to lab/results/reproduce.md"
    )
