"""The package hicache-pp as it ships: its Hermite polynomials are ours, and its exponentials continue exponentials."""

import importlib.util

import numpy as np
import pytest
import torch

from refusal import check_refused
from stepmask import evaluate, schedules
from stepmask_lab.rivals.hicache_pp.plan import hicache_pp_plan
from stepmask_lab.rivals.predictors import differences, scaled_hermite
from stepmask_lab.rivals.taylorseer.plan import hicache_plan, taylorseer
from tiny import ddim_pipeline, dit_pipeline

STEPS = 8


def test_our_hermite_polynomials_are_the_packages():
    package = pytest.importorskip("hicache_pp")
    for order in range(4):
        theirs = package.scaled_hermite(order, torch.tensor(3.0, dtype=torch.float64), 0.5).item()
        assert scaled_hermite(order, 3.0, 0.5) == pytest.approx(theirs)


@pytest.mark.parametrize("make", [dit_pipeline, ddim_pipeline])
def test_a_run_by_the_packages_hermite_is_a_run_by_our_table(make):
    pytest.importorskip("hicache_pp")
    pipe = make()
    mask = taylorseer(pipe, STEPS, 2, level="stack")
    theirs = evaluate(pipe, hicache_pp_plan(pipe, mask, "hermite"), seeds=2, speed=False)
    ours = evaluate(pipe, hicache_plan(pipe, mask), seeds=2, speed=False)
    assert torch.allclose(theirs.masked, ours.masked, atol=1e-4) and not torch.equal(theirs.masked, theirs.full)
    assert theirs.macs_fraction == ours.macs_fraction and theirs.peak_cache_bytes >= ours.peak_cache_bytes


def test_exponentials_are_continued(monkeypatch):
    """Values that decay at two rates: the package's fit to four of them, at distance 2, is exact; a line is not."""
    pytest.importorskip("hicache_pp")
    pipe = dit_pipeline()
    plan = hicache_pp_plan(pipe, schedules.key_steps(pipe, 12, [0, 2, 4, 6, 8, 10]), "dmd")
    policy = plan.policy(plan)
    rows = np.arange(12)
    values = torch.tensor(np.outer(0.8**rows, [1, 2, 0, 1]) + np.outer(0.5**rows, [0, 1, 3, -1]))

    class Known:
        def known(self, site):
            return [(at, values[at]) for at in (6, 4, 2, 0)]

    assert torch.allclose(policy.forecast(7, 0, Known()), values[7], atol=1e-6)
    line = torch.tensor(differences([0, 2, 4, 6], 12, 1)[7]) @ values
    assert not torch.allclose(line, values[7], atol=1e-3)


@pytest.mark.parametrize("basis", ["dmd", "auto"])
def test_each_basis_runs(basis):
    pytest.importorskip("hicache_pp")
    pipe = dit_pipeline()
    plan = hicache_pp_plan(pipe, taylorseer(pipe, 12, 2, level="stack"), basis)
    result = evaluate(pipe, plan, seeds=1, speed=False)
    assert torch.isfinite(result.masked).all() and result.macs_fraction < 1
    late = plan.from_row(3)
    assert late.table is None and late.num_rows == 9


def test_it_is_refused_without_the_package_and_with_strange_bases(monkeypatch):
    pipe = dit_pipeline()
    mask = schedules.key_steps(pipe, 4, 2)
    if importlib.util.find_spec("hicache_pp"):
        check_refused("basis must be one of dmd, hermite, auto", hicache_pp_plan, pipe, mask, "taylor")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_refused(r"needs the package hicache-pp: pip install", hicache_pp_plan, pipe, mask)
