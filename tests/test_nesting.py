"""Random models whose sites nest, traced and run: nothing dead is read, and nothing runs in vain."""

from dataclasses import dataclass, fields
from functools import cache

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

import stepmask
from gate import in_gate
from nests import WIDTH, Nest
from refusal import ends_in_nan
from stepmask import BlockGraph, StepMask, make_plan, measure_cost, register_sites
from stepmask.inspection.sampler_loop import SamplerLoop
from stepmask.learning.end_to_end.tables import settle
from stepmask.liveness import Plan, State
from stepmask.mask import Action
from stepmask.runtime.policies import RunPlan
from tiny import count_computes, generator, modules_of, nan_like, reference

STEPS, BATCH = 6, 2
SAMPLE = {"x": torch.zeros(1, WIDTH, dtype=torch.float64), "t": torch.zeros(1)}


class Case:
    """A random model, and masks of it."""

    def __init__(self, seed: int, two_streams: bool) -> None:
        self.model = Nest(seed, two_streams).eval().double()
        self.graph: BlockGraph = register_sites(self.model, self.model.branches, SAMPLE)
        self.loop = SamplerLoop(self.model, DDIMScheduler(clip_sample=False))
        self.loop.scheduler.set_timesteps(STEPS)

    def mask(self, seed: int, outer: float = 0.75, weighted: float = 0.0, forecasts: float = 0.4) -> StepMask:
        """A share `outer` of the cells of sites that contain others compute; some forecast from 2 to 4 values."""
        random, count = np.random.default_rng(seed), len(self.graph)
        share = np.where([site in self.graph.within for site in range(count)], outer, 0.5)
        compute = random.random((STEPS, count)) < share
        compute[0] = True
        forecast = ~compute & (random.random(compute.shape) < forecasts)
        chosen = [name for name in self.graph.names if random.random() < weighted]
        weights = {name: random.uniform(-1, 1, (STEPS, random.integers(2, 5), 1)) for name in chosen}
        return StepMask(
            compute=compute, forecast=forecast, gains=random.uniform(0.5, 1.5, compute.shape), weights=weights,
            sites=self.graph.names, timesteps=self.loop.scheduler.timesteps, graph=self.graph.fingerprint,
        )  # fmt: skip

    def sample(self) -> torch.Tensor:
        return self.loop(batch_size=BATCH, num_inference_steps=STEPS, generator=generator()).images

    def masked(self, decision, **options) -> torch.Tensor:
        with stepmask.apply(self.loop, decision, **options):
            return self.sample()

    def by_reference(self, mask: StepMask) -> torch.Tensor:
        rows = iter(range(STEPS))
        with reference(self.model, mask) as running:

            def next_row(*_):
                running.row = next(rows)

            hook = self.model.register_forward_pre_hook(next_row)
            try:
                return self.sample()
            finally:
                hook.remove()


@dataclass(frozen=True, eq=False)
class PoisonedPlan(Plan):
    """One site computes NaN at one row."""

    poison: tuple[int, int] = (-1, -1)

    class policy(RunPlan):
        def asks(self, step):
            asked = list(super().asks(step))
            row, site = self.plan.poison
            asked[site] |= row == step
            return asked

        def __call__(self, step, site, compute, cache):
            if self.plan.poison != (step, site):
                return super().__call__(step, site, compute, cache)
            return super().__call__(step, site, lambda: nan_like(compute()), cache)


@cache
def case_of(seed: int, two_streams: bool) -> Case:
    return Case(seed, two_streams)


ONE_STREAM = [(seed, False) for seed in range(16)]
CASES = [*ONE_STREAM, *((seed, True) for seed in range(16))]


@pytest.mark.parametrize(("seed", "two_streams"), CASES)
def test_elimination_changes_nothing_and_the_plan_is_what_runs(seed, two_streams):
    case = case_of(seed, two_streams)
    cost = measure_cost(case.model, sites=case.model.branches, example_inputs=SAMPLE)
    modules = [site.kind != "stack" for site in case.graph.sites]
    for weighted in (0.0, 0.5):
        mask = case.mask(seed, weighted=weighted)
        plan = make_plan(mask, case.graph)
        wanted = case.masked(mask, eliminate_dead=False)
        expected = case.by_reference(mask)
        torch.testing.assert_close(expected, wanted)
        assert torch.equal(expected, wanted) or mask.weights
        with count_computes(case.model, modules_of(case.graph)) as log, stepmask.apply(case.loop, plan) as handle:
            assert torch.equal(case.sample(), wanted)
        called = plan.called.copy()
        called[0] = True
        assert log == [(row, case.graph.names[i]) for row, i in np.argwhere(called & modules).tolist()]
        assert handle.peak_cache_bytes == BATCH * cost.peak_cache_bytes(plan)
        assert torch.equal(case.masked(settle(mask, case.graph)), wanted)


@pytest.mark.parametrize(("seed", "two_streams"), in_gate(CASES, *CASES[::3]))
def test_nothing_runs_in_vain(seed, two_streams):
    """With two streams, where each site is read or kept as a whole, that holds for tables in which no outer one rests.

    Else a value may be computed, or kept, for the sake of a part that nobody reads.
    """
    case = case_of(seed, two_streams)
    plan = make_plan(case.mask(seed, outer=1.0 if two_streams else 0.75, weighted=0.3), case.graph)
    cells = [cell for cell in np.argwhere(plan.compute).tolist() if not two_streams or cell[1] not in case.graph.within]
    for row, site in np.random.default_rng(seed).permutation(cells)[:12].tolist():
        poisoned = PoisonedPlan(**{f.name: getattr(plan, f.name) for f in fields(plan)}, poison=(row, site))
        assert ends_in_nan(lambda poisoned=poisoned: case.masked(poisoned)), f"row {row}, {case.graph.names[site]}"


@pytest.mark.parametrize(("seed", "two_streams"), ONE_STREAM)
def test_nothing_runs_to_make_what_is_there(seed, two_streams):
    """With one call less, images differ: what is called makes, or calls within it, what was not made before.

    But for this: a site that was called for what lies within it alone may make that value again where it is read.
    """
    case = case_of(seed, two_streams)
    mask = settle(case.mask(seed, forecasts=0.0), case.graph)
    plan, wanted = make_plan(mask, case.graph), case.masked(mask)
    for_others = np.cumsum(plan.called & ~plan.compute, axis=0) > 0
    cells = np.argwhere(plan.called & ~(plan.compute & for_others)).tolist()
    for row, site in np.random.default_rng(seed).permutation([cell for cell in cells if cell[0]])[:25].tolist():
        actions = mask.actions
        actions[row, site] = Action.hold
        without = case.masked(mask.with_actions(actions), eliminate_dead=False)
        assert not torch.equal(without, wanted), f"row {row}, {case.graph.names[site]}"


@pytest.mark.parametrize(("seed", "two_streams"), ONE_STREAM)
def test_settling_changes_no_plan(seed, two_streams):
    graph = case_of(seed, two_streams).graph
    for number in range(20):
        mask = case_of(seed, two_streams).mask(number, weighted=0.3)
        plan, again = make_plan(mask, graph), make_plan(settle(mask, graph), graph)
        assert np.array_equal(plan.states, again.states) and np.array_equal(plan.keep, again.keep)


# seeds of models and of masks
RUNS_FOR_WHAT_LIES_WITHIN = [(0, False, 143), (0, True, 23)]
KEPT_WITH_A_DEAD_PART = [(104, True, 0), (130, True, 3)]


@pytest.mark.parametrize(("seed", "two_streams", "number"), [*RUNS_FOR_WHAT_LIES_WITHIN, *KEPT_WITH_A_DEAD_PART])
def test_what_was_wrong_once(seed, two_streams, number):
    case = Case(seed, two_streams)
    mask = case.mask(number, weighted=0.4 * (number == 3))
    plan = make_plan(mask, case.graph)
    if (seed, two_streams, number) in RUNS_FOR_WHAT_LIES_WITHIN:
        assert (plan.called & (plan.states == State.dead) & (plan.keep > 0)).any(), "its value is read later"
    assert torch.equal(case.masked(plan), case.masked(mask, eliminate_dead=False))
