"""What the documentation says of architectures is what the registry and the pipeline tests hold."""

from __future__ import annotations

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_the_table_of_architectures_is_up_to_date():
    made = runpy.run_path(str(DOCS / "make_architectures.py"))
    assert made["families"]() in (DOCS / "architectures.md").read_text(encoding="utf-8"), (
        "run python docs/make_architectures.py"
    )
