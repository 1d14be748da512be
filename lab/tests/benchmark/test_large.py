"""What masks take on large models: counted without weights."""

import json
import sys

from stepmask import measure_cost, presets
from stepmask_lab.benchmark import large

NAME = "dit-xl-2-256"


def test_one_tensor_stands_for_all_blocks(tmp_path, monkeypatch, capsys):
    path = tmp_path / "large.json"
    monkeypatch.setattr(sys, "argv", ["large", NAME, "-o", str(path)])
    large.main()
    found = json.loads(path.read_text())
    of_model, value = found["models"][NAME], int(measure_cost(presets.load(NAME)).value_bytes.max()) // 2
    for budget in large.BUDGETS:
        assert of_model["cache_bytes"][f"stack, {budget:g}"] == found["values"] * value
        assert of_model["cache_bytes"][f"branch, {budget:g}"] > 20 * value
    assert 0 < of_model["checkpointed_bytes"] < of_model["graph_bytes"] / 3
    assert f"{NAME} " in capsys.readouterr().out
