"""The walk: on the way down, making rounds again; nothing is measured here."""

import numpy as np
import pytest

from jobs import job_for
from stepmask.learning import EndToEnd
from stepmask.learning.end_to_end.judge import PSNR_CAP
from stepmask.learning.end_to_end.learner import EndToEndLearning
from stepmask.learning.end_to_end.search.search import Round, Search
from stepmask.learning.end_to_end.tables import Candidate, Table
from tiny import dit_pipeline

STEPS = 5


def search_for(target: float, steps: int = STEPS, **options) -> Search:
    job = job_for(dit_pipeline(), steps, EndToEnd(rounds=0, coarse=False, **options), target_macs=target)
    return EndToEndLearning(job).search


def test_a_table_that_meets_the_target_is_taken_however_small_the_last_step(monkeypatch):
    """From key steps just above a target, one round may save less than half a percent, and that is enough."""
    search = search_for(0.6)
    above, below = (Candidate(Table(np.ones((STEPS, 1))), cost, np.ones(3), "") for cost in (0.6015, 0.599))
    one = Round(0.6, 0.6, below, predicted=1.0, true=1.0)
    monkeypatch.setattr(search, "_round", lambda *_: one)
    monkeypatch.setattr(search, "_plain", lambda cost: below)
    walk = search._descend(above, 0.6)
    assert next(walk) is one
    with pytest.raises(StopIteration) as done:
        next(walk)
    assert done.value.value is below


@pytest.mark.parametrize(
    ("start", "predicted", "true", "rounds"),
    [(50.0, 48.0, 45.5, 1), (50.0, 48.0, 44.5, 2), (50.0, np.nan, np.nan, 2), (PSNR_CAP, 79.0, 60.0, 1)],
    ids=["as predicted", "short of it", "hopeless", "from the full run"],
)
def test_a_round_on_the_way_down_that_falls_short_is_made_again(start, predicted, true, rounds, monkeypatch):
    search = search_for(0.6)
    base = Candidate(Table(np.ones((STEPS, 1))), 0.8, np.full(3, start), "")
    monkeypatch.setattr(search, "_round", lambda base, level, *_: Round(0.6, level, base, predicted, true))
    assert [one.level for one in search._tries(base, 0.7, 0.6)] == [0.7] * rounds
