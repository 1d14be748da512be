"""Figures: right counts, right colours, labels that fit, files whole or not at all."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from PIL import Image

from stepmask import BlockGraph, Site, StepMask, StepMaskError, describe, make_plan, report, schedules
from stepmask.pictures._figures import BLUE, GREEN, LIGHT, PALE
from stepmask.pictures._labels import group_of, group_starts, short_name
from stepmask.pictures.heatmap import count_computes
from stepmask_lab.benchmark.methods import methods
from stepmask_lab.pages.families import family_of, styles_of
from stepmask_lab.shipped import shipped_methods
from tiny import ddim_pipeline


@pytest.fixture(scope="module")
def mask():
    return schedules.deepcache(ddim_pipeline(), 12, 3)


@pytest.fixture(scope="module")
def plan(mask):
    return make_plan(mask, describe(ddim_pipeline()))


@pytest.fixture(scope="module")
def forecasts():
    """Forecasts, holds, and a forecast that finds one value yet."""
    rows = ["1111", "11l1", "0l0l", "1111", "ll10", "llll"]
    graph = BlockGraph.branches([Site(f"transformer_blocks.{i}.ff", "mlp") for i in range(4)])
    table = np.array([["01l".index(cell) for cell in row] for row in rows])
    return schedules.fora(graph, range(6), 2).with_actions(table), graph


def shown_ticks(axis):
    """Labels of the ticks within view; matplotlib keeps some beyond it."""
    low, high = sorted(axis.get_view_interval())
    return [label for at, label in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True) if low <= at <= high]


def texts_overlap(figure) -> list[str]:
    """Pairs of tick labels, titles and axis labels that cover each other, and what leaves the figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    found = []
    for axes in figure.axes:
        parts = [*shown_ticks(axes.xaxis), *shown_ticks(axes.yaxis), axes.xaxis.label, axes.yaxis.label, axes.title]
        parts = [
            part
            for part in [*parts, *(text for text in axes.texts if len(text.get_text()) > 1)]
            if part.get_text().strip() and part.get_visible()
        ]
        boxes = [(part.get_text(), part.get_window_extent(renderer)) for part in parts]
        if axes.get_legend():
            boxes.append(("legend", axes.get_legend().get_window_extent(renderer)))
        for i, (text, box) in enumerate(boxes):
            if box.x0 < -1 or box.y0 < -1 or box.x1 > figure.bbox.x1 + 1 or box.y1 > figure.bbox.y1 + 1:
                found.append(f"{text!r} leaves the figure")
            found += [f"{text!r} on {other!r}" for other, b in boxes[i + 1 :] if box.padded(-2).overlaps(b.padded(-2))]
    return found


def shape_of(figure) -> tuple[int, int]:
    return Image.open(io.BytesIO(report.png(figure))).size


def test_heatmap_counts_computes_in_windows():
    compute = np.ones((7, 2), dtype=bool)
    compute[[2, 5, 6], 1] = False
    assert count_computes(compute, 5).tolist() == [[5, 4], [2, 0]]


def test_heatmap_of_a_plan_shows_what_runs(plan, mask):
    figure = report.heatmap(plan)
    shown = figure.axes[0].images[0].get_array()
    assert (shown == count_computes(plan.compute).T).all() and shown.shape == (len(plan.sites), 3)
    assert report.heatmap(mask).axes[0].images[0].get_array().sum() == mask.compute.sum()
    assert not texts_overlap(figure)


def test_grid_has_three_colours_and_their_shares(plan):
    figure = report.grid(plan, macs_fraction=0.5)
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
        figure = report.grid(drawn)
        legend = figure.axes[0].get_legend()
        names = [text.get_text().split()[0] for text in legend.get_texts()]
        assert names == ["compute", "forecast", third, "dead"][: len(names)]
        wanted = [BLUE, GREEN, LIGHT, PALE][: len(names)]
        assert [to_hex(patch.get_facecolor()) for patch in legend.get_patches()] == wanted
        assert cells_of(figure)[1] == [BLUE, BLUE, GREEN, BLUE, GREEN, GREEN]
        assert not texts_overlap(figure)
    assert cells_of(report.grid(mask))[2][1] == GREEN, "the mask asks for a forecast"
    assert cells_of(report.grid(make_plan(mask, graph)))[2][1] == LIGHT, "which has one value yet, so it holds"
    shares = [text.get_text() for text in report.grid(mask).axes[0].get_legend().get_texts()]
    assert shares == ["compute 50%", "forecast 38%", "hold 12%"]


def test_heatmap_says_how_many_cells_forecast(forecasts, mask):
    def below(figure):
        return next(text.get_text() for text in figure.axes[0].texts if "of all cells" in text.get_text())

    assert below(report.heatmap(forecasts[0])) == "50.0% of all cells compute, 37.5% forecast"
    assert "forecast" not in below(report.heatmap(mask))
    assert not texts_overlap(report.heatmap(forecasts[0]))


def test_grid_of_a_mask_shows_compute_and_hold(mask):
    texts = report.grid(mask).axes[0].get_legend().get_texts()
    assert [text.get_text().split()[0] for text in texts] == ["compute", "hold"]


@pytest.mark.parametrize("rows", [1, 250])
def test_tables_stay_legible_for_56_sites(rows):
    sites = [Site(f"transformer_blocks.{i // 2}.{('attn1', 'ff')[i % 2]}", "mlp") for i in range(56)]
    big = schedules.fora(BlockGraph.branches(sites), np.linspace(999, 0, rows), 2)
    for figure in (report.grid(big), report.heatmap(big)):
        assert not texts_overlap(figure)
        assert max(shape_of(figure)) < 3000


def test_scores_are_counted_where_they_are_learned(mask):
    scores = np.zeros(mask.compute.shape)
    scores[1:, 0] = 1.0
    scores[0] = 1.0
    samplers = ["sampler" in site for site in mask.sites]
    scores[:, samplers] = 1.0  # not learned
    figure = report.scores(replace(mask, scores=scores))
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert sum(heights) == pytest.approx(1) and heights[-1] == pytest.approx(1 / (len(samplers) - sum(samplers)))
    assert not texts_overlap(figure)


def test_a_mask_without_scores_says_so(mask):
    with pytest.raises(StepMaskError, match="no scores"):
        report.scores(mask)
    one_row = StepMask(compute=[[True]], sites=["a"], timesteps=[1], scores=[[1.0]])
    with pytest.raises(StepMaskError, match="single row"):
        report.scores(one_row)


def points(methods=("learned", "FORA"), **more):
    return [
        {"model": model, "steps": steps, "method": method, "setting": f"{macs:.0%}", "macs": macs, **more}
        | {"psnr_mean": 20 + 20 * macs + place, "psnr_min": 15, "psnr_sem": 0.2}
        for model in ("one", "two")
        for steps in (20, 50)
        for place, method in enumerate(methods)
        for macs in (0.4, 0.5, 0.6)
    ]


def names_in_legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_curve_has_a_panel_per_model_and_steps():
    figure = report.curve(points(("FORA", "learned")))
    assert [axes.get_title("left") for axes in figure.axes] == [
        f"{m}, {s} steps" for m in ("one", "two") for s in (50, 20)
    ]
    assert names_in_legend(figure) == ["learned", "FORA"], "families in their order"
    assert not texts_overlap(figure)


def test_curve_hides_a_panel_without_points():
    rows = [row for row in points() if (row["model"], row["steps"]) != ("two", 20)]
    assert [axes.get_visible() for axes in report.curve(rows).axes] == [True, True, True, False]


def test_curve_averages_learning_seeds_and_leaves_the_full_run_out():
    rows = [row | {"seed": seed, "psnr_mean": row["psnr_mean"] + seed} for row in points() for seed in (0, 2)]
    rows += [row | {"method": "full run", "psnr_mean": 100.0} for row in points(("learned",))]
    axes = report.curve(rows).axes[0]
    assert names_in_legend(axes.figure) == ["learned", "FORA"]
    drawn = {container.get_label(): container.lines[0].get_ydata() for container in axes.containers}
    assert list(drawn["learned"]) == pytest.approx([29, 31, 33])


def test_curve_names_what_is_missing():
    with pytest.raises(StepMaskError, match="psnr_sem"):
        report.curve([{k: v for k, v in points()[0].items() if k != "psnr_sem"}])
    with pytest.raises(StepMaskError, match="all rows"):
        report.curve([])


def test_trade_offs_have_a_panel_for_each_thing_measured():
    speed, scores = {"denoiser_speedup": 1.8, "share_of_bound": 0.9}, {"is_cifar": 3.0, "fd_cifar": 7.0}
    of_one = [row for row in points() if (row["model"], row["steps"]) == ("one", 20)]

    def labels(rows):
        figure = report.trade_offs(rows)
        assert not texts_overlap(figure)
        return [(axes.get_xlabel().split()[0], axes.get_ylabel().split()[0]) for axes in figure.axes]

    assert labels(of_one) == [("MACs,", "PSNR")]
    assert labels([row | {"scores": scores} for row in of_one]) == [("MACs,", "PSNR"), ("MACs,", "fd_cifar")]
    both = labels([row | {"scores": scores, "speed": speed} for row in of_one])
    assert both == [(x, y) for y in ("PSNR", "fd_cifar") for x in ("MACs,", "measured")]


def test_trade_offs_mark_the_full_run():
    of_one = [row for row in points() if (row["model"], row["steps"]) == ("one", 20)]
    rows = [row | {"scores": {"fd_cifar": 7 + row["macs"]}} for row in of_one]
    rows.append(of_one[0] | {"method": "full run", "setting": "all", "macs": 1.0, "scores": {"fd_cifar": 5.5}})
    axes = report.trade_offs(rows).axes[1]
    assert [text.get_text() for text in axes.texts] == ["full run"]
    assert any(list(line.get_ydata()) == [5.5, 5.5] for line in axes.lines)


def test_methods_of_a_family_share_a_colour_and_no_two_look_alike():
    names = ["learned", "FORA", "DeepCache", "DeepCache, quad", "FORA + forecast", "SmoothCache", "fewer steps", "new"]
    styles = styles_of(names)
    assert styles["FORA"].colour == styles["DeepCache"].colour != styles["FORA + forecast"].colour
    assert len({(style.colour, style.marker) for style in styles.values()}) == len(names)
    assert family_of("new").name == "other" and not family_of("new").static and family_of("FORA").static


def test_every_method_of_the_benchmark_has_a_family_of_its_own():
    shipped = {method.name for method in shipped_methods()}
    for method in [*methods(), *shipped_methods()]:
        assert family_of(method.name).name != "other", method.name
        assert (family_of(method.name).name == "as they ship") == (method.name in shipped), method.name


def test_save_png_is_whole_or_not_at_all(tmp_path, plan):
    path = report.save_png(report.heatmap(plan), tmp_path / "heat.png")
    assert Image.open(path).format == "PNG" and [p.name for p in tmp_path.iterdir()] == ["heat.png"]
    with pytest.raises(StepMaskError, match="cannot write"):
        report.save_png(report.heatmap(plan), tmp_path / "no" / "heat.png")


def test_no_global_figures(plan):
    import sys

    report.grid(plan)
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_short_names_and_groups():
    names = [
        "down_blocks.1.attentions.0",
        "down_blocks.1.downsamplers.0",
        "mid_block.resnets.1",
        "transformer_blocks.3.ff",
    ]
    assert [short_name(n) for n in names] == ["down 1 attn 0", "down 1 sampler", "mid res 1", "block 3 ff"]
    assert [group_of(n) for n in names] == ["down 1", "down 1", "mid", "block 3"]
    assert group_starts(names) == [2, 3] and group_starts(["a", "b", "c"]) == []


def test_markdown_table_averages_seeds_and_sorts_by_cost():
    row = {"model": "m", "steps": 20, "method": "learned", "setting": "0.5", "macs": 0.5, "psnr_mean": 40.0}
    other = {**row, "psnr_mean": 42.0, "macs": 0.498}
    dearer = {**row, "setting": "0.7", "macs": 0.7, "psnr_mean": 50.0}
    lines = report.markdown_table([row, other, dearer, {**row, "method": "FORA", "setting": "1:2"}]).splitlines()
    assert lines[2] == "| m, 20 | learned | 50.0 at 0.700; 41.0 (40.0–42.0) at 0.499 |"
    assert lines[3] == "| m, 20 | FORA | 40.0 at 0.500 |"
