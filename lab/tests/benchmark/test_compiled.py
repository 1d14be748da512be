"""The benchmark of compiled models measures every mask beside the compiled full run, and counts graphs."""

import pytest
import torch

from stepmask_lab.benchmark.compiled import measured
from stepmask_lab.benchmark.launch_bound import narrow_transformer


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_every_mask_is_measured_beside_the_compiled_full_run():
    lines = []
    found = measured(narrow_transformer(2), steps=4, rounds=1, backend="eager", tell=lines.append)
    rows = found["rows"]
    assert len(lines) == len(rows) - 1 == 4 and found["graphs_after_first_runs"] == 0
    assert rows["full"]["graphs"] == 2 and rows["full"]["speedup_over_eager"] > 0
    assert [rows[name]["graphs"] for name in list(rows)[1:]] == [0, 0, 0, 4], "those within blocks alone have their own"
    assert all(row["of_ideal"] == pytest.approx(row["speedup"] * row["macs"]) for row in rows.values() if "macs" in row)
