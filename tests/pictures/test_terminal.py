"""The terminal map: fits, and can be read back."""

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from stepmask import BlockGraph, Site, StepMask, describe, make_plan, schedules
from stepmask.pictures import terminal_map
from stepmask.pictures.terminal import GLYPHS
from tiny import ddim_pipeline


def lines_of(mask_or_plan, width=100):
    file = io.StringIO()
    Console(file=file, width=400).print(terminal_map(mask_or_plan, width))
    return file.getvalue().splitlines()


def transformer(sites=56):
    return BlockGraph.branches(
        [Site(f"transformer_blocks.{i // 2}.{('attn1', 'ff')[i % 2]}", "mlp") for i in range(sites)]
    )


def test_every_cell_of_a_plan_is_there():
    plan = make_plan(schedules.deepcache(ddim_pipeline(), 12, 3), describe(ddim_pipeline()).innermost)
    scale, *sites, legend = lines_of(plan)
    assert len(sites) == len(plan.sites) and scale.split() == ["step", "0", "10"] and "dead" in legend
    start = scale.index("0")
    for line, states in zip(sites, plan.states.T, strict=True):
        assert line[start : start + 12] == "".join(GLYPHS[state] for state in states)
        assert line.endswith(f"{(states == 2).sum()}/12")


def test_forecasts_have_a_glyph_of_their_own():
    mask = schedules.fora(transformer(2), range(5), 2, forecast="linear")
    _, site, _, legend = lines_of(mask)
    assert "█▒█▒█" in site and legend == "█ compute  ▒ forecast"
    _, site, _, legend = lines_of(make_plan(mask, transformer(2)))
    assert "█░█▒█" in site and legend == "█ compute  ▒ forecast  ░ reuse"


def test_legends_name_what_there_is():
    mask = schedules.fora(transformer(2), range(5), 2)
    assert lines_of(mask)[-1] == "█ compute  ░ hold"
    assert lines_of(make_plan(mask, transformer(2)))[-1] == "█ compute  ░ reuse"


def test_the_nested_map_of_the_documentation():
    table = {
        "blocks.0.attn": "10111", "blocks.0.ff": "11111", "blocks.0": "11110",
        "blocks.1.attn": "11101", "blocks.1.ff": "11111", "blocks.1": "11111", "blocks": "11l11",
    }  # fmt: skip
    actions = np.array([["01l".index(cell) for cell in row] for row in table.values()]).T
    mask = StepMask(compute=actions == 1, forecast=actions == 2, sites=list(table), timesteps=[5, 4, 3, 2, 1])
    page = (Path(__file__).parents[2] / "docs" / "concepts" / "masks.md").read_text()
    assert "\n".join(line.rstrip() for line in lines_of(mask)) in page


@pytest.mark.parametrize("rows", [1, 50, 83, 100, 250, 999])
@pytest.mark.parametrize("width", [60, 100])
def test_it_fits(rows, width):
    lines = lines_of(schedules.fora(transformer(), np.linspace(999, 0, rows), 3), width)
    assert len(lines) == 58 and max(map(len, lines)) <= width


def test_grouped_steps_show_shares():
    mask = schedules.fora(transformer(2), np.linspace(999, 0, 300), 300)
    line = lines_of(mask)[1]
    assert line.count("░") == 1 and line.endswith("1/300")
    assert "█" in lines_of(schedules.fora(transformer(2), np.linspace(999, 0, 300), 1))[1]


def test_long_names_are_cut_at_the_front():
    graph = BlockGraph.branches([Site("some.very.long.path.to.a.module.that.goes.on.attn", "attention")])
    lines = lines_of(schedules.fora(graph, [2.0, 1.0], 1), 60)
    assert lines[1].startswith("…") and "attn" in lines[1] and max(map(len, lines)) <= 60
