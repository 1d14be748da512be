"""One step of Gauss and Newton by differences, on errors that are known functions of the weights."""

from functools import cache

import numpy as np
import pytest
import torch

from stepmask import StepMask, describe
from stepmask.learning.end_to_end import newton
from stepmask.learning.end_to_end.newton import newton_step
from stepmask.learning.end_to_end.tables import Table
from stepmask.mask_tables import weights_of_a_line
from stepmask.schedules import key_steps
from tiny import dit_pipeline

STEPS, IMAGES, ENTRIES = 9, 2, 60


@cache
def subject() -> tuple[StepMask, object, str]:
    """Key steps whose forecasts are sums of three values, the sites, and the name of the one that forecasts."""
    pipe = dit_pipeline()
    mask, graph = key_steps(pipe, STEPS, [0, 1, 3, 6]), describe(pipe)
    (site,) = (graph.names[i] for i in graph.level("stack"))
    lines = {site: np.tile(weights_of_a_line(3), (STEPS, 1, 2))}
    return mask.with_actions(mask.actions, weights=lines), graph, site


def errors_of(wanted: np.ndarray, site: str, seen: list, seed: int = 0, entries: int = ENTRIES):
    """Errors (N, D) that are linear in the weights, and 0 at those that are wanted."""
    random = np.random.default_rng(seed).normal(size=(wanted.size, IMAGES * entries))

    def errors(tables: list[Table]) -> list[torch.Tensor]:
        seen.append(len(tables))
        off = [(table.weights[site] - wanted).ravel() @ random for table in tables]
        return [torch.from_numpy(one).reshape(IMAGES, entries) for one in off]

    return errors


def wanted_weights(terms=(1, 2)) -> np.ndarray:
    """Other weights where a forecast may differ: at the rows that rest, and with as many values as are known there."""
    mask, _, site = subject()
    wanted, known = mask.weights[site].copy(), np.cumsum(mask.compute[:, mask.sites.index(site)])
    for row in np.flatnonzero(~mask.compute[:, mask.sites.index(site)]):
        for term in terms:
            if known[row] > term:
                wanted[row, term] += 0.1 * (row + term)
    return wanted


def test_weights_that_make_no_error_are_found():
    (mask, graph, site), wanted, seen = subject(), wanted_weights(), []
    found = newton_step(mask, graph, errors_of(wanted, site, seen), errors_of(wanted, site, seen, seed=1))
    before = np.abs(mask.weights[site] - wanted).max()
    assert np.abs(found.weights[site] - wanted).max() < 0.05 * before
    rests = 5  # rows; at the first of them two values are known, so it has no third term
    assert seen == [1 + 2 * rests - 1, 1 + len(newton.DAMPING)]
    assert found.actions.tolist() == Table.of(mask, graph).actions.tolist()


def test_weights_stay_where_others_are_no_better_on_other_images():
    (mask, graph, site), wanted = subject(), wanted_weights()
    there, elsewhere = errors_of(wanted, site, []), errors_of(mask.weights[site] + 1e-6, site, [])
    assert newton_step(mask, graph, there, elsewhere).weights[site].tolist() == mask.weights[site].tolist()


def test_what_does_nothing_is_not_moved_far():
    """An error that no weight changes but by rounding."""
    (mask, graph, site), wanted = subject(), wanted_weights()
    noise = torch.Generator().manual_seed(0)

    def errors(tables):
        return [torch.ones(IMAGES, 8) + 1e-9 * torch.randn(IMAGES, 8, generator=noise) for _ in tables]

    better = errors_of(wanted + 1000, site, [])  # the further the better
    found = newton_step(mask, graph, errors, better).weights[site]
    assert np.abs(found - mask.weights[site]).max() <= newton.MOST_CHANGE


def test_neighbouring_rows_change_together_where_there_are_many(monkeypatch):
    monkeypatch.setattr(newton, "MOST_NUMBERS", 4)
    (mask, graph, site), wanted, seen = subject(), wanted_weights(), []
    newton_step(mask, graph, errors_of(wanted, site, seen), errors_of(wanted, site, seen))
    assert seen[0] == 1 + 4


@pytest.mark.parametrize("most", [40, 10**6])
def test_of_large_errors_some_entries_are_drawn(most, monkeypatch):
    monkeypatch.setattr(newton, "MOST_ENTRIES", most)
    (mask, graph, site), wanted = subject(), wanted_weights()
    found = newton_step(mask, graph, errors_of(wanted, site, []), errors_of(wanted, site, []))
    assert np.abs(found.weights[site] - wanted).max() < 0.05 * np.abs(mask.weights[site] - wanted).max()
