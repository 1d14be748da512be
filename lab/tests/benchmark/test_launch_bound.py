"""The launch-bound benchmark runs every mask, and says for each what share of time and MACs it takes."""

import pytest

from stepmask_lab.benchmark.launch_bound import measured


def test_every_mask_is_measured_beside_its_macs():
    lines = []
    found = measured(num_blocks=2, steps=5, rounds=1, tell=lines.append)
    masks = found["masks"]
    assert len(lines) == len(masks) == 13 and all(row["time"] > 0 for row in masks.values())
    assert masks["all cells compute"]["macs"] == pytest.approx(1.0)
    stack, branch = (masks[f"{level}, every 5 steps, hold"]["macs"] for level in ("stack", "branch"))
    assert 0.2 < stack < branch < 0.5  # norms and modulations of a block that rests do not run
