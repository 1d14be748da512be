"""The page in a headless Chromium: pointing, clicking, keys, a phone, dark; no errors, no requests."""

import io

import numpy as np
import pytest
from PIL import Image

from browser import PHONE, opened
from stepmask import MaskFamily, Recipe, describe, make_plan, schedules
from stepmask.family import Member
from stepmask.frontier import WAYS, Frontier, Point
from stepmask.report import (
    Axis,
    Entry,
    Method,
    Report,
    Study,
    family_study,
    frontier_study,
    mask_study,
    write_report,
)
from stepmask.report.content import COST, PSNR
from stepmask.report.on_model import maps_on
from tiny import dit_pipeline, random_mask

HOSTILE = "<img src=http://localhost/x onerror=alert(1)><b>1:2</b>"
STEPS = 8


@pytest.fixture(scope="module")
def subject():
    pipe = dit_pipeline()
    mask = random_mask(pipe, pipe.scheduler, STEPS, seed=3, forecasts=0.5)
    return mask, maps_on(pipe, mask), make_plan(mask, describe(pipe)), schedules.fora(pipe, STEPS, 4)


@pytest.fixture(scope="module")
def mask_page(subject, tmp_path_factory):
    mask, mapped, *_ = subject
    return write_report(Report("Mask", "mask.json", [mask_study(mask, mapped)]), tmp_path_factory.mktemp("mask"))


@pytest.fixture(scope="module")
def family_page(subject, tmp_path_factory):
    mask, mapped, _, cheap = subject
    family = MaskFamily((Member(0.6, 40.0, mask), Member(0.3, 30.0, cheap)))
    return write_report(Report("Family", "f.json", [family_study(family, mapped)]), tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="module")
def frontier_page(subject, tmp_path_factory):
    plain, masked = Recipe(num_inference_steps=3), Recipe(num_inference_steps=STEPS, mask=subject[0])
    points = Point(WAYS[0], 3, 3, 20.0, 1.0, 4, plain), Point(WAYS[5], 4, 3.5, 25.0, 1.0, 4, masked)
    study = frontier_study(Frontier(points, {"converged": "100 steps"}))
    return write_report(Report("Frontier of recipes", "f.json", [study]), tmp_path_factory.mktemp("frontier"))


def strip(level):
    """Two images of 4 x 4 pixels, all of one brightness."""
    file = io.BytesIO()
    Image.fromarray(np.full((4, 8, 3), level, np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def benchmark_page(subject, tmp_path_factory):
    """Two methods of two settings, one of them with hostile names, and one of whose entries has a map."""
    mask, mapped, *_ = subject
    rival = f"rival {HOSTILE}"

    def entry(method, setting, macs, psnr, level, **more):
        values = {"macs": macs, "psnr": psnr, "ssim": psnr / 100, "seed": None}
        return Entry(method, setting, values, (psnr - 1, psnr + 1), picture=strip(level), **more)

    entries = [
        entry("ours", "0.5", 0.5, 45.0, 120, map=mapped(mask)), entry("ours", "0.3", 0.3, 35.0, 90),
        entry(rival, HOSTILE, 0.51, 30.0, 60), entry(rival, "1:4", 0.25, 20.0, 30),
    ]  # fmt: skip
    axes = [COST, PSNR, Axis("ssim", f"SSIM {HOSTILE}", "quality")]
    methods = [Method("ours", "#0072b2", "#5ab4f0", ours=True), Method(rival, "#d55e00", "#ee9e66")]
    study = Study("tiny, 8 steps", entries, methods, axes, 0.03, strip(128), 2, [("scheduler", HOSTILE)])
    other = Study("another, 8 steps", entries[:1], methods[:1], axes[:2])
    return write_report(Report("Benchmark", HOSTILE, [study, other]), tmp_path_factory.mktemp("benchmark"))


def cell(page, site, step):
    return page.locator(f'tr:has(th[title="{site}"]) td[data-step="{step}"]')


def test_pointing_at_a_cell_says_what_runs_why_and_what_it_costs(chromium, mask_page, subject):
    _, _, plan, _ = subject
    names = {"c": "computes", "C": "runs for", "f": "forecast", "r": "reused", "d": "not needed", "w": "within"}
    with opened(chromium, mask_page) as page:
        page.click("text=branches")
        seen = set()
        for site in plan.sites:
            for step in (1, 5):
                one = cell(page, site, step)
                letter = one.get_attribute("class").split()[0]
                if letter not in seen:
                    seen.add(letter)
                    one.hover()
                    told = page.inner_text(".cell")
                    assert f"Step {step}, timestep" in told and names[letter] in told and site in told
                    assert "why" in told and ("MACs per image" in told) == (letter in "cC") and "per image" in told
        assert {"c", "r", "f"} <= seen or {"c", "d", "w"} <= seen
        held = next(
            (site, step) for site in plan.sites for step in range(STEPS)
            if cell(page, site, step).get_attribute("class").split()[0] == "r"
        )  # fmt: skip
        cell(page, *held).hover()
        (source,) = page.locator("td.source").all()
        assert f"Hands out its value of step {source.get_attribute('data-step')}," in page.inner_text(".cell")


def test_what_a_page_of_one_mask_says_first(chromium, mask_page, subject):
    """Model, steps and scheduler; where it comes from stays closed until it is asked for, and open until then."""
    with opened(chromium, mask_page) as page:
        assert f"{STEPS} steps of {subject[0].scheduler['class']}" in page.inner_text("h1")
        assert page.locator("#provenance details[open]").count() == 0
        page.click("#provenance summary")
        page.click("header button")
        assert page.locator("#provenance details[open]").count() == 1


def test_the_map_by_keyboard(chromium, mask_page):
    with opened(chromium, mask_page) as page:
        page.click("text=stacks")
        folded = page.locator(".map tbody tr").count()
        page.focus('.map tbody [tabindex="0"]')
        assert page.locator(":focus").get_attribute("role") == "rowheader"
        page.keyboard.press("ArrowRight")
        assert page.locator(".map tbody tr").count() > folded, "right unfolds"
        assert page.locator(".map tbody tr").first.get_attribute("aria-expanded") == "true"
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")
        here = page.locator(":focus")
        assert here.get_attribute("data-step") == "1" and "Step 1, timestep" in here.get_attribute("aria-label")
        assert page.inner_text(".cell h3").startswith("Step 1, timestep")
        page.keyboard.press("End")
        assert page.locator(":focus").get_attribute("data-step") == str(STEPS - 1)
        page.keyboard.press("Control+Home")
        page.keyboard.press("Enter")
        assert page.locator(".map tbody tr").count() == folded, "enter folds"
        assert page.locator('.map [tabindex="0"]').count() == 1


def test_a_family_by_budget_and_by_key(chromium, family_page):
    with opened(chromium, family_page) as page:
        page.wait_for_selector("path.point")
        assert page.locator("#tradeoff .list tbody tr").count() == 2
        page.locator('input[aria-label^="Budget"]').fill("40")
        assert page.inner_text('#tradeoff tr[aria-current="true"]').split()[-3:] == ["30.0%", "30.0", "dB"]
        page.focus(".plot")
        page.keyboard.press("ArrowRight")
        assert "at 60.0%" in page.inner_text('#tradeoff tr[aria-current="true"]')
        assert page.locator("path.point").count() == 3, "two members, and a ring around the chosen one"


def test_a_frontier_by_budget(chromium, frontier_page):
    """Budgets are evaluations; a recipe without a mask has no map."""
    with opened(chromium, frontier_page) as page:
        chosen = '#tradeoff tr[aria-current="true"]'
        assert "together" in page.inner_text(chosen) and page.locator("#map td").count() > 0
        assert page.inner_text(chosen).split()[-3:] == ["3.5", "25.0", "dB"]
        assert "3.5\nevaluations, of the denoiser" in page.inner_text(".tiles")
        page.locator('input[aria-label^="Budget"]').fill("30")
        assert page.inner_text(chosen).split()[-3:] == ["3", "20.0", "dB"]
        assert "There is no mask of fewer steps" in page.inner_text("#map")


def test_a_benchmark_from_point_to_pictures(chromium, benchmark_page):
    with opened(chromium, benchmark_page) as page:
        assert page.locator("img[src^=http], b b").count() == 0, "names are text"
        assert "rival <img" in page.inner_text("#tradeoff .list")
        assert "ours, 0.5" in page.inner_text("#pictures .ends") and page.locator("#map td").count() > 0
        page.wait_for_selector("path.point")
        point = page.locator(".plot .scatterlayer .trace").nth(1).locator("path.point").last.bounding_box()
        page.mouse.move(point["x"] + point["width"] / 2, point["y"] + point["height"] / 2)
        page.wait_for_selector(".hoverlayer .hovertext")
        assert "<img" in page.text_content(".hoverlayer")
        page.mouse.down()
        page.mouse.up()
        page.wait_for_selector("#pictures .ends >> text=rival")
        assert "There is no mask of rival" in page.inner_text("#map")
        page.locator(".wipe").fill("80")
        assert page.eval_on_selector(".compare", "one => one.style.getPropertyValue('--cut')") == "80%"
        page.check("text=show the difference")
        assert page.eval_on_selector(".compare", "one => one.classList.contains('difference')")
        page.select_option("#tradeoff select", "ssim")
        assert page.locator("#tradeoff thead >> text=SSIM").count() == 1
        page.locator("#pictures .strips button").first.press("Enter")
        assert "ours" in page.inner_text("#pictures .ends")
        page.click("text=All 4 rows")
        page.click("#rows tr:has-text('1:4')")
        assert "1:4" in page.inner_text("#pictures .ends")
        page.select_option("header select", "1")
        assert page.inner_text("h1") == "another, 8 steps" and page.locator("#pictures").count() == 0


@pytest.mark.parametrize("name", ["mask_page", "benchmark_page"])
def test_on_a_phone_in_the_dark(name, chromium, request):
    with opened(chromium, request.getfixturevalue(name), PHONE, dark=True) as page:
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.tap("#map td[data-step='2'] >> nth=0")
        assert page.inner_text(".cell h3").startswith("Step 2, timestep")
        page.tap("header button")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark
