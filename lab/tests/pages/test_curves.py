"""Curves and trade-offs of a benchmark: what is drawn, in which colours, and what is missing in words."""

import pytest

from figure_checks import texts_overlap
from stepmask import StepMaskError
from stepmask_lab import pages
from stepmask_lab.benchmark.methods import methods
from stepmask_lab.pages.method_families import family_of, styles_of
from stepmask_lab.shipped import shipped_methods


def points(methods=("end-to-end", "FORA"), **more):
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
    figure = pages.curve(points(("FORA", "end-to-end")))
    assert [axes.get_title("left") for axes in figure.axes] == [
        f"{m}, {s} steps" for m in ("one", "two") for s in (50, 20)
    ]
    assert names_in_legend(figure) == ["end-to-end", "FORA"], "families in their order"
    assert not texts_overlap(figure)


def test_curve_hides_a_panel_without_points():
    rows = [row for row in points() if (row["model"], row["steps"]) != ("two", 20)]
    assert [axes.get_visible() for axes in pages.curve(rows).axes] == [True, True, True, False]


def test_curve_averages_learning_seeds_and_leaves_the_full_run_out():
    rows = [row | {"seed": seed, "psnr_mean": row["psnr_mean"] + seed} for row in points() for seed in (0, 2)]
    rows += [row | {"method": "full run", "psnr_mean": 100.0} for row in points(("end-to-end",))]
    axes = pages.curve(rows).axes[0]
    assert names_in_legend(axes.figure) == ["end-to-end", "FORA"]
    drawn = {container.get_label(): container.lines[0].get_ydata() for container in axes.containers}
    assert list(drawn["end-to-end"]) == pytest.approx([29, 31, 33])


def test_curve_names_what_is_missing():
    with pytest.raises(StepMaskError, match="psnr_sem"):
        pages.curve([{k: v for k, v in points()[0].items() if k != "psnr_sem"}])
    with pytest.raises(StepMaskError, match="all rows"):
        pages.curve([])


def test_trade_offs_have_a_panel_for_each_thing_measured():
    speed, scores = {"denoiser_speedup": 1.8, "share_of_bound": 0.9}, {"is_cifar": 3.0, "fd_cifar": 7.0}
    of_one = [row for row in points() if (row["model"], row["steps"]) == ("one", 20)]

    def labels(rows):
        figure = pages.trade_offs(rows)
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
    axes = pages.trade_offs(rows).axes[1]
    assert [text.get_text() for text in axes.texts] == ["full run"]
    assert any(list(line.get_ydata()) == [5.5, 5.5] for line in axes.lines)


def test_methods_of_a_family_share_a_colour_and_no_two_look_alike():
    names = [
        "end-to-end", "FORA", "DeepCache", "DeepCache, quad", "FORA + forecast", "SmoothCache", "fewer steps", "new",
    ]  # fmt: skip
    styles = styles_of(names)
    assert styles["FORA"].colour == styles["DeepCache"].colour != styles["FORA + forecast"].colour
    assert len({(style.colour, style.marker) for style in styles.values()}) == len(names)
    assert family_of("new").name == "other" and not family_of("new").static and family_of("FORA").static


def test_every_method_of_the_benchmark_has_a_family_of_its_own():
    shipped = {method.name for method in shipped_methods()}
    for method in [*methods(), *shipped_methods()]:
        assert family_of(method.name).name != "other", method.name
        assert (family_of(method.name).name == "as they ship") == (method.name in shipped), method.name


def test_markdown_table_averages_seeds_and_sorts_by_cost():
    row = {"model": "m", "steps": 20, "method": "end-to-end", "setting": "0.5", "macs": 0.5, "psnr_mean": 40.0}
    other = {**row, "psnr_mean": 42.0, "macs": 0.498}
    dearer = {**row, "setting": "0.7", "macs": 0.7, "psnr_mean": 50.0}
    lines = pages.markdown_table([row, other, dearer, {**row, "method": "FORA", "setting": "1:2"}]).splitlines()
    assert lines[2] == "| m, 20 | end-to-end | 50.0 at 0.700; 41.0 (40.0–42.0) at 0.499 |"
    assert lines[3] == "| m, 20 | FORA | 40.0 at 0.500 |"
