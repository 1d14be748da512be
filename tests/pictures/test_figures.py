"""Figures of masks: right counts, right colours, labels that fit, files whole or not at all."""

import io
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from figure_checks import texts_overlap
from graph_cases import BLOCK, mask_of
from refusal import check_refused
from stepmask import BlockGraph, Site, StepMask, describe, make_plan, pictures, schedules
from stepmask.mask import Action
from stepmask.pictures.figures import BLUE, GREEN, LIGHT, PALE, count_computes
from stepmask.pictures.labels import group_of, group_starts, rows_for, short_name
from tiny import ddim_pipeline


@pytest.fixture(scope="module")
def mask():
    return schedules.deepcache(ddim_pipeline(), 12, 3)


@pytest.fixture(scope="module")
def plan(mask):
    return make_plan(mask, describe(ddim_pipeline()).innermost)


def nested(table: dict[str, str]) -> StepMask:
    """A mask by name of site, in order of execution."""
    actions = np.array([["01l".index(cell) for cell in row] for row in table.values()]).T
    compute, forecast = actions == Action.compute, actions == Action.linear
    return StepMask(compute=compute, forecast=forecast, sites=list(table), timesteps=range(len(actions), 0, -1))


BLOCKS = {
    "blocks.0.attn": "1111", "blocks.0.ff": "1101", "blocks.0": "111l", "blocks.1.attn": "1111",
    "blocks.1.ff": "1101", "blocks.1": "111l", "blocks.2.attn": "1111", "blocks.2.ff": "1101", "blocks.2": "101l",
    "blocks": "1110", "mid_block.resnets.0": "1011", "mid_block": "1111", "head": "1111",
}  # fmt: skip


@pytest.fixture(scope="module")
def forecasts():
    """Forecasts, holds, and a forecast that finds one value yet."""
    rows = ["1111", "11l1", "0l0l", "1111", "ll10", "llll"]
    graph = BlockGraph.branches([Site(f"transformer_blocks.{i}.ff", "mlp") for i in range(4)])
    table = np.array([["01l".index(cell) for cell in row] for row in rows])
    return schedules.fora(graph, range(6), 2).with_actions(table), graph


def shape_of(figure) -> tuple[int, int]:
    return Image.open(io.BytesIO(pictures.png(figure))).size


def test_heatmap_counts_computes_in_windows():
    compute = np.ones((7, 2), dtype=bool)
    compute[[2, 5, 6], 1] = False
    assert count_computes(compute, 5).tolist() == [[5, 4], [2, 0]]


def test_heatmap_of_a_plan_shows_what_runs(plan, mask):
    figure = pictures.heatmap(plan)
    shown = figure.axes[0].images[0].get_array()
    assert (shown == count_computes(plan.compute).T).all() and shown.shape == (len(plan.sites), 3)
    assert pictures.heatmap(mask).axes[0].images[0].get_array().sum() == mask.compute.sum()
    assert not texts_overlap(figure)


def test_grid_has_three_colours_and_their_shares(plan):
    figure = pictures.grid(plan, macs_fraction=0.5)
    legend = figure.axes[0].get_legend()
    assert [text.get_text().split()[0] for text in legend.get_texts()] == ["compute", "reuse", "dead"]
    assert [to_hex(patch.get_facecolor()) for patch in legend.get_patches()] == [BLUE, LIGHT, PALE]
    assert any("50.0% of the full run's MACs" in text.get_text() for text in figure.axes[0].texts)
    assert not texts_overlap(figure)


def cells_of(figure) -> list[list[str]]:
    """The colour of every cell, one list per site."""
    mesh = figure.axes[0].collections[0]
    colours = mesh.to_rgba(mesh.get_array()).reshape(*mesh.get_array().shape, 4)
    return [[to_hex(cell) for cell in row] for row in colours]


def test_grid_has_a_fourth_colour_for_forecasts(forecasts):
    mask, graph = forecasts
    for drawn, third in ((mask, "hold"), (make_plan(mask, graph), "reuse")):
        figure = pictures.grid(drawn)
        legend = figure.axes[0].get_legend()
        names = [text.get_text().split()[0] for text in legend.get_texts()]
        assert names == ["compute", "forecast", third, "dead"][: len(names)]
        wanted = [BLUE, GREEN, LIGHT, PALE][: len(names)]
        assert [to_hex(patch.get_facecolor()) for patch in legend.get_patches()] == wanted
        assert cells_of(figure)[1] == [BLUE, BLUE, GREEN, BLUE, GREEN, GREEN]
        assert not texts_overlap(figure)
    assert cells_of(pictures.grid(mask))[2][1] == GREEN, "the mask asks for a forecast"
    assert cells_of(pictures.grid(make_plan(mask, graph)))[2][1] == LIGHT, "which has one value yet, so it holds"
    shares = [text.get_text() for text in pictures.grid(mask).axes[0].get_legend().get_texts()]
    assert shares == ["compute 50%", "forecast 38%", "hold 12%"]


def test_rows_lie_within_those_that_contain_them():
    """And equal blocks that follow each other share theirs."""
    mask = nested(BLOCKS)
    rows = rows_for(mask.sites, mask.actions)
    assert [("  " * row.level + row.label, mask.sites[row.site]) for row in rows] == [
        ("all blocks", "blocks"),
        ("  block 0–1", "blocks.0"),
        ("    attn", "blocks.0.attn"),
        ("    ff", "blocks.0.ff"),
        ("  block 2", "blocks.2"),
        ("    attn", "blocks.2.attn"),
        ("    ff", "blocks.2.ff"),
        ("mid", "mid_block"),
        ("  res 0", "mid_block.resnets.0"),
        ("head", "head"),
    ]
    alone = [row.label for row in rows_for(["down_blocks.0", "up_blocks"], np.ones((1, 2)))]
    assert alone == ["down 0", "all up blocks"], "where no site within them is named"
    assert [row.label for row in rows if row.begins] == ["all blocks", "block 0–1", "block 2", "mid", "head"]


def test_what_lies_within_a_site_that_rests_is_white():
    white, figure = "#ffffff", pictures.grid(nested(BLOCKS))
    assert cells_of(figure) == [
        [BLUE, BLUE, BLUE, LIGHT],
        [BLUE, BLUE, BLUE, white],
        [BLUE, BLUE, BLUE, white],
        [BLUE, BLUE, LIGHT, white],
        [BLUE, LIGHT, BLUE, white],
        [BLUE, white, BLUE, white],
        [BLUE, white, LIGHT, white],
        [BLUE] * 4,
        [BLUE, LIGHT, BLUE, BLUE],
        [BLUE] * 4,
    ]
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert names == ["compute", "hold", "within what rests"] and not texts_overlap(figure)
    counts = pictures.heatmap(nested(BLOCKS), window=4).axes[0].images[0].get_array()
    assert counts.ravel().tolist() == [3, 3, 3, 2, 2, 2, 1, 4, 3, 4]


def test_what_runs_for_what_lies_within_it_computes():
    """At step 1 nobody reads the block's value, but its first branch is read at step 2."""
    figure = pictures.grid(make_plan(mask_of("1111", "1110", "0111", names=BLOCK.names), BLOCK))
    assert cells_of(figure) == [[BLUE] * 3, [BLUE, BLUE, LIGHT], [BLUE, PALE, BLUE], [BLUE, LIGHT, BLUE]]


def test_heatmap_says_how_many_cells_forecast(forecasts, mask):
    def below(figure):
        return next(text.get_text() for text in figure.axes[0].texts if "of all cells" in text.get_text())

    assert below(pictures.heatmap(forecasts[0])) == "50.0% of all cells compute, 37.5% forecast"
    assert "forecast" not in below(pictures.heatmap(mask))
    assert not texts_overlap(pictures.heatmap(forecasts[0]))


def test_grid_of_a_mask_shows_compute_and_hold(mask):
    texts = pictures.grid(mask).axes[0].get_legend().get_texts()
    assert [text.get_text().split()[0] for text in texts] == ["compute", "hold"]


@pytest.mark.parametrize("rows", [1, pytest.param(250, marks=pytest.mark.slow)])
def test_tables_stay_legible_for_56_sites(rows):
    sites = [Site(f"transformer_blocks.{i // 2}.{('attn1', 'ff')[i % 2]}", "mlp") for i in range(56)]
    big = schedules.fora(BlockGraph.branches(sites), np.linspace(999, 0, rows), 2)
    for figure in (pictures.grid(big), pictures.heatmap(big)):
        assert not texts_overlap(figure)
        assert max(shape_of(figure)) < 3000


@pytest.mark.slow
def test_tables_stay_legible_for_57_blocks():
    random, table = np.random.default_rng(0), {}
    for name in [f"blocks.{i}{part}" for i in range(57) for part in (".attn", ".ff", ".norm_out", "")] + ["blocks"]:
        table[name] = "1" + "".join(random.choice(list("01l"), 27))
    for figure in (pictures.grid(nested(table)), pictures.heatmap(nested(table))):
        assert not texts_overlap(figure) and len(figure.axes[0].get_yticks()) == len(table)
        assert max(shape_of(figure)) < 4000


def test_scores_are_counted_where_they_are_learned(mask):
    scores = np.zeros(mask.compute.shape)
    scores[1:, 0] = 1.0
    scores[0] = 1.0
    samplers = ["sampler" in site for site in mask.sites]
    scores[:, samplers] = 1.0  # not learned
    figure = pictures.score_histogram(replace(mask, scores=scores))
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert sum(heights) == pytest.approx(1) and heights[-1] == pytest.approx(1 / (len(samplers) - sum(samplers)))
    assert not texts_overlap(figure)


def test_a_mask_without_scores_says_so(mask):
    check_refused("no scores", pictures.score_histogram, mask)
    one_row = StepMask(compute=[[True]], sites=["a"], timesteps=[1], scores=[[1.0]])
    check_refused("single row", pictures.score_histogram, one_row)


def test_save_png_is_whole_or_not_at_all(tmp_path, plan):
    path = pictures.save_png(pictures.heatmap(plan), tmp_path / "heat.png")
    assert Image.open(path).format == "PNG" and [p.name for p in tmp_path.iterdir()] == ["heat.png"]
    check_refused("cannot write", pictures.save_png, pictures.heatmap(plan), tmp_path / "no" / "heat.png")


def test_no_global_figures(plan):
    import sys

    pictures.grid(plan)
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_short_names_and_groups():
    names = [
        "down_blocks.1.attentions.0", "down_blocks.1.downsamplers.0", "mid_block.resnets.1",
        "transformer_blocks.3.ff",
    ]  # fmt: skip
    assert [short_name(n) for n in names] == ["down 1 attn 0", "down 1 sampler", "mid res 1", "block 3 ff"]
    assert [group_of(n) for n in names] == ["down 1", "down 1", "mid", "block 3"]
    assert group_starts(names) == [2, 3] and group_starts(["a", "b", "c"]) == []
