"""What a page holds: the map's letters and numbers, and files' texts as data that nothing can break out of."""

import json
import re
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest

from stepmask import MaskFamily, StepMask, StepMaskError, describe, make_plan, measure_cost, schedules
from stepmask.family import Member
from stepmask.liveness import State
from stepmask.report import Report, facts_of, family_study, mask_map, mask_study, page, render
from stepmask.report.on_model import maps_on
from tiny import dit_pipeline, random_mask

HOSTILE = '</script><script>alert(1)</script><img src=x onerror=alert(1)>&amp;"\u2028'


@pytest.fixture(scope="module")
def planned():
    """A pipeline, a random mask for it with forecasts, and its plan."""
    pipe = dit_pipeline()
    graph = describe(pipe)
    mask = random_mask(pipe, pipe.scheduler, 8, seed=3, forecasts=0.5)
    return pipe, mask, make_plan(mask, graph)


def data_in(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


def test_the_map_of_a_plan_says_what_runs_and_what_it_costs(planned):
    pipe, mask, plan = planned
    drawn = maps_on(pipe, mask)(mask)
    cost, place = measure_cost(pipe), {name: i for i, name in enumerate(plan.sites)}
    assert drawn["planned"] and {site["name"] for site in drawn["sites"]} == set(plan.sites)
    spent = drawn["always"] * mask.num_rows
    for site in drawn["sites"]:
        column = place[site["name"]]
        for step, letter in enumerate(site["states"]):
            assert (letter in "cC") == bool(plan.called[step, column]) or letter == "w"
            assert (letter == "c") <= (plan.states[step, column] == State.compute)
            spent += site["cost"] * (letter in "cC")
        assert [int(kept) for kept in site["keep"]] == plan.keep[:, column].tolist()
        assert site["bytes"] == cost.value_bytes[column]
    assert spent / mask.num_rows == pytest.approx(cost.fraction(plan)) == pytest.approx(drawn["macs"])
    assert drawn["peakBytes"] == cost.peak_cache_bytes(plan) > 0


def test_the_map_of_a_mask_says_what_it_asks_for(planned):
    _, mask, _ = planned
    drawn = mask_map(mask)
    asked = {site["name"]: site["asked"] for site in drawn["sites"]}
    rows = mask.to_dict()["rows"]
    assert asked == {name: "".join(row[i] for row in rows) for i, name in enumerate(mask.sites)}
    assert not drawn["planned"] and "macs" not in drawn and "cost" not in drawn["sites"][0]


def test_more_cells_than_a_page_can_show_are_refused():
    large = StepMask(compute=np.ones((1001, 400)), sites=[f"s{i}" for i in range(400)], timesteps=range(1001, 0, -1))
    with pytest.raises(StepMaskError, match="400,400 cells"):
        mask_map(large)


def test_what_files_say_stays_data(planned):
    _, mask, _ = planned
    strange = {HOSTILE: HOSTILE, "model": HOSTILE, "psnr": {"mean": float("nan"), "confidence_95": "x"}, "macs": "many"}
    sites = [f"{name}{HOSTILE}" for name in mask.sites]
    study = mask_study(replace(mask, sites=sites, provenance=strange))
    text = render(Report(HOSTILE, HOSTILE, [study]))
    assert text.count("<script") == text.count("</script") == 2 and "<img" not in text
    found = data_in(text)
    assert found["title"] == found["source"] == HOSTILE
    assert [HOSTILE, HOSTILE] in found["studies"][0]["facts"] and HOSTILE in found["studies"][0]["name"]
    assert found["studies"][0]["entries"][0]["values"] == {"macs": None, "psnr": None, "cache": None}


def test_the_policy_allows_the_scripts_of_the_page_alone(planned):
    family = MaskFamily((Member(0.5, 40.0, planned[1]),))
    text = render(Report("t", "s", [family_study(family)]))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    scripts = re.findall(r"<script>(.*?)</script>", text, re.S)
    assert len(scripts) == 2 and "plotly.js" in scripts[0][:200]
    allowed = [f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" for script in scripts]
    assert policy.startswith(f"default-src 'none'; script-src {' '.join(allowed)}; ")
    assert "http-equiv" in text and not re.search(r'(src|href)="(?!data:)', text.replace(scripts[0], ""))


def test_only_a_trade_off_needs_plotly(planned, monkeypatch):
    monkeypatch.setattr(page.importlib.util, "find_spec", lambda name: None)
    assert "<table" not in render(Report("t", "s", [mask_study(planned[1])]))
    with pytest.raises(StepMaskError, match=r"pip install 'stepmask\[report\]'"):
        render(Report("t", "s", [family_study(MaskFamily((Member(0.5, 40.0, planned[1]),)))]))


def test_facts_are_short_and_name_where_they_lie():
    record = {
        "seeds": list(range(100, 164)),
        "psnr": {"mean": 41.25},
        "gains": None,
        "calls": 14734,
        "on": True,
        "huge": 10**400,
    }
    assert facts_of(record) == [
        ("seeds", "100 to 163 (64 values)"), ("psnr · mean", "41.25"), ("calls", "14\u202f734"), ("on", "yes"),
        ("huge", str(10**400)),
    ]  # fmt: skip


def test_a_family_lists_its_members(planned):
    pipe, mask, _ = planned
    cheap = schedules.fora(pipe, 8, 4)
    family = MaskFamily((Member(0.6, 40.0, mask), Member(0.3, 30.0, cheap)))
    study = family_study(family)
    assert [entry.values["macs"] for entry in study.entries] == [0.6, 0.3]
    assert [axis.key for axis in study.axes] == ["macs", "psnr"]
    assert [len(entry.map["sites"]) for entry in study.entries] == [len(mask.sites), len(cheap.sites)]
