"""The rivals of 2026 as rows: masks go through files, and what runs is made of them anew."""

import numpy as np
import pytest

from stepmask import Recipe, StepMask
from stepmask_lab.benchmark import Comparison, Subject, methods_by_name, rivals_of_2026
from stepmask_lab.benchmark.naming import short_name
from stepmask_lab.method import Method
from stepmask_lab.pages.method_families import family_of
from stepmask_lab.rivals.predicted_plan import PredictedPlan
from tiny import dit_pipeline

RIVALS = {short_name(method): method for method in rivals_of_2026.rivals_of_2026()}
STATIC = [name for name, method in RIVALS.items() if isinstance(method, Method)]


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(rivals_of_2026, "SEARCH", {"annealing": 1, "climbing": 0, "num_calibration": 1})
    monkeypatch.setattr(rivals_of_2026, "NUM_IMAGES", 2)


@pytest.mark.parametrize("name", STATIC)
def test_masks_go_through_files(name, tmp_path):
    method, subject = RIVALS[name], Subject(dit_pipeline(), 6, targets=(0.7,))
    if method.fits(subject) is not None:
        pytest.skip(f"{name} {method.fits(subject)}")
    settings = method.settings(subject)
    mask = method.make(subject, settings[-1], method.seeds[0])
    mask.save(tmp_path / "mask.json")
    read = StepMask.load(tmp_path / "mask.json")
    if method.refine is None:
        assert name == "budcache" and settings == ["4"] and 0 < len(mask.provenance["steps"]) <= 4
        return
    one, other = method.refine(subject, mask), method.refine(subject, read)
    if isinstance(one, Recipe):
        assert one.timesteps == other.timesteps and np.array_equal(one.mask.actions, mask.actions)
        return
    assert isinstance(one, PredictedPlan) and np.array_equal(one.table, other.table)
    assert np.array_equal(one.states, other.states) and 0 < one.compute.mean() < 1


def test_the_command_line_knows_them_by_name_and_together():
    assert [short_name(method) for method in methods_by_name("of-2026")] == list(RIVALS)
    assert [method.name for method in methods_by_name("l2p,dpcache")] == ["L2P", "DPCache"]
    families = {method.name: family_of(method.name) for method in RIVALS.values()}
    assert {family.name for family in families.values()} == {"of 2026", "of 2026, adaptive"}


def test_rows_have_work_and_effort_beside_them(tmp_path, monkeypatch):
    """The spread of work over images where each decides for itself; calls and seconds where something was measured."""
    monkeypatch.setitem(rivals_of_2026.THRESHOLDS, "EasyCache", ("0.1",))
    chosen = methods_by_name("easycache,l2p,spectrum,budcache-timesteps")
    subject = Subject(dit_pipeline(), 6, targets=(0.7,))
    rows = Comparison("a-dit", subject, tmp_path, num_images=2, batch_size=2).run(chosen)
    found = {row["method"]: row for row in rows}
    work, effort = found["EasyCache"]["work"], found["L2P"]["effort"]
    assert set(work) == {"mean", "deviation", "min", "max"} and work["mean"] == pytest.approx(
        found["EasyCache"]["macs"], abs=1e-3
    )
    assert effort["denoiser_calls"] == 6 and effort["seconds"] > 0
    assert found["BudCache + timesteps"]["effort"]["denoiser_calls"] > 100
    assert "effort" not in found["Spectrum"] and "work" not in found["Spectrum"]
