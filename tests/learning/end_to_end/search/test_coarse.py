"""The search that lets all blocks rest together: moving key steps, where refining starts; nothing is measured here."""

from dataclasses import replace

import numpy as np

from jobs import job_for
from stepmask.learning import EndToEnd
from stepmask.learning.end_to_end.judge import Judge
from stepmask.learning.end_to_end.learner import EndToEndLearning
from stepmask.learning.end_to_end.search.search import Search
from stepmask.learning.end_to_end.tables import Candidate, Table
from stepmask.mask import Action
from tiny import ddim_pipeline, dit_pipeline

STEPS = 5


def search_for(target: float, steps: int = STEPS, **options) -> Search:
    job = job_for(dit_pipeline(), steps, EndToEnd(**{"rounds": 0, "coarse": True, **options}), target_macs=target)
    return EndToEndLearning(job).search


def test_moving_key_steps_helps(monkeypatch):
    """A search that measures nothing but tables of key steps, and likes late ones."""

    def late(actions) -> float:
        return float(np.flatnonzero((actions == Action.compute).all(1)).sum())

    monkeypatch.setattr(Judge, "_psnrs", lambda self, table, first, count, *_: np.full(count, late(table.actions)))
    search = search_for(0.5, steps=8, num_moves=50, gradients=False)
    search._begin([0.5])
    before = search.best(0.5)
    (report,) = search._climb(0.5)
    assert report.best.psnr > before.psnr and late(report.best.actions) == 0 + 6 + 7
    assert report.best.made_by == "key_steps 3 steps linear"


def test_spacings_contend_with_the_weights_they_have_learned(monkeypatch):
    """The least promising of three before is the best after a few iterations."""
    search, iterations = search_for(0.5, steps=20, gains=10, rounds=1), []

    def fitted(self, table, count, number):
        iterations.append(count)
        return Table(table.actions, gains=np.full(table.actions.shape, 2.0))

    def psnrs(self, table, first, count, *_):
        late = float(np.flatnonzero((table.actions == Action.compute).all(1)).sum())
        return np.full(count, late if table.gains is None else 100 - late)

    monkeypatch.setattr(Judge, "with_gains", fitted)
    monkeypatch.setattr(Judge, "_psnrs", psnrs)
    search._begin([0.5])
    near, dearer = search._bounds(0.5)
    contenders = search._whole_steps(dearer)[:3]
    assert len(contenders) == 3 and contenders[0].psnr > contenders[-1].psnr
    chosen = search._most_promising(dearer)
    assert chosen is contenders[-1] and iterations == [3, 3, 3], "of 10"
    alike, best = search._spaced_like(chosen, near), search._whole_steps(near)[0]
    assert alike is not best and search._spacings_of(alike) & search._spacings_of(chosen) and alike.cost < chosen.cost
    assert search._like(chosen, near) == [best, alike] and search._like(best, near) == [best]


def test_shallow_steps_contend_too_and_may_cost_more(monkeypatch):
    """However bad they look before weights are learned; what they cost will be taken away from other cells."""

    def psnrs(self, table, first, count, *_):
        return np.full(count, float((table.actions == Action.compute).all(1).sum() > (table.actions[1] == 1).sum()))

    monkeypatch.setattr(Judge, "_psnrs", psnrs)
    fitted = []
    monkeypatch.setattr(Judge, "with_gains", lambda self, table, *_: fitted.append(table) or table)
    job = job_for(ddim_pipeline(), 20, EndToEnd(coarse=True, rounds=1), target_macs=0.3)
    search = EndToEndLearning(job).search
    search._begin([0.3])
    near, dearer = search._bounds(0.3)
    found = search._whole_steps(near)
    kinds = [search._is_shallow(one) for one in found]
    assert not any(kinds[:3]) and any(kinds) and search.task.graph.within
    shallow = found[kinds.index(True)]
    counted = search._counts[shallow.table.digest]
    assert counted <= near and shallow.cost > counted
    search._most_promising(near)
    assert len(fitted) == 3 and fitted[-1] is shallow.table
    assert search._is_shallow(search._spaced_like(shallow, dearer))
    by_runs = EndToEndLearning(job_for(ddim_pipeline(), 20, EndToEnd(coarse=True, gradients=False), target_macs=0.3))
    by_runs.search._begin([0.3])
    assert all(one.cost <= 0.3 for one in by_runs.search._whole_steps(0.3))


def test_the_walk_goes_where_key_steps_are_many():
    goals = {"targets": (0.7, 0.5, 0.2)}
    unet, transformer = (
        EndToEndLearning(job_for(make(), 20, EndToEnd(rounds=0, gains=0), **goals))
        for make in (ddim_pipeline, dit_pipeline)
    )
    assert unet.search._walked([0.7, 0.5, 0.2]) == [0.7] and transformer.search._walked([0.7]) == []
    coarse = EndToEndLearning(job_for(ddim_pipeline(), 20, EndToEnd(coarse=True, rounds=0, gains=0), **goals))
    assert coarse.search._walked([0.7]) == [] and coarse.num_rounds < unet.num_rounds


def test_refining_starts_near_the_target_from_what_promises_most():
    """Of tables that have learned their gains; what was started from before counts less."""
    search = search_for(0.5)

    def known(cost: float, psnr: float, fitted: bool = True) -> Candidate:
        found = Candidate(Table(np.full((1, 1), len(search.candidates))), cost, np.full(3, psnr), "", fitted)
        search.candidates[found.table.digest] = found
        return found

    known(0.5, 60.0, fitted=False)
    known(0.7, 70.0)  # too far away
    above, at = known(0.58, 43.0), known(0.5, 41.5)
    assert search._base(0.5) is above, "the dearest first, though it may lose 3 dB on the way"
    assert search._base(0.5) is at
    made = known(0.49, 41.0)
    assert search._base(0.5) is made, "2 dB off what was tried"
    other = search_for(0.5)
    other.candidates = {c.table.digest: c for c in (replace(above, psnrs=np.full(3, 41.0)), at)}
    assert other._base(0.5) is at, "the dearest promises clearly less"
    assert search.best(0.5).psnr == 60.0
