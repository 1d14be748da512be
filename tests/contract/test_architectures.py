"""What every registered family promises, on its tiny model. Registering a family tests it."""

import itertools
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property
from typing import get_args

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves

import stepmask
from gate import in_gate
from refusal import ends_in_nan
from stepmask import StepMask, describe, make_plan, measure_cost
from stepmask.graph import OUT, Level, Site
from stepmask.inspection.registry import architecture_of, registered_architectures
from stepmask.inspection.sampler_loop import SamplerLoop
from stepmask.liveness import Plan, State
from stepmask.runtime.policies import RunPlan
from stepmask.values import tensors_in
from tiny import (
    conditions,
    count_computes,
    generator,
    module_of,
    modules_of,
    nan_like,
    random_mask,
    reference,
    tiny_model,
    with_channel_gains,
)

FAMILIES = sorted(registered_architectures())
STEPS = 5
PACKED = {"FluxTransformer2DModel", "ChromaTransformer2DModel", "AuraFlowTransformer2DModel"}
PACKED |= {"CogVideoXTransformer3DModel", "Lumina2Transformer2DModel"}
"""Where image and text share a tensor, the trace cannot tell one from the other: it names readers that are none."""


def inputs_of(model):
    return architecture_of(model).example_inputs(model, 2)


def inside_of(graph, site: int) -> set[int]:
    return {i for i in range(len(graph)) if graph.within.get(site, 0) >> i & 1}


def trace(model, sites):
    return architecture_of(model).trace(model, sites)


LIKE_OTHERS = {
    "MochiTransformer3DModel",
    "Lumina2Transformer2DModel",
    "AuraFlowTransformer2DModel",
    "ChromaTransformer2DModel",
}
"""Take long, and are built of what others have."""

pytestmark = pytest.mark.parametrize("family", in_gate(FAMILIES, *(one for one in FAMILIES if one not in LIKE_OTHERS)))


class Case:
    """A tiny model, its graph, and the plain loop around it."""

    def __init__(self, family: str, dtype: torch.dtype = torch.float32) -> None:
        self.model, self.packed = tiny_model(family).to(dtype), family in PACKED
        self.graph = describe(self.model)
        self.scheduler = DDIMScheduler(clip_sample=False)
        self.loop = SamplerLoop(self.model, self.scheduler)
        self.conditions = conditions(self.model, 2)
        self.untouched = tiny_model(family)

    def sample(self) -> torch.Tensor:
        return self.loop(2, STEPS, generator(), **self.conditions).images

    @cached_property
    def plain(self) -> torch.Tensor:
        return self.sample()

    @cached_property
    def num_tensors(self) -> dict[str, int]:
        """By site, of how many tensors its value is."""
        found, hooks = {}, []
        for name in self.graph.names:

            def count(module, args, output, name=name):
                found[name] = len(tensors_in(output))

            hooks.append(module_of(self.model, name).register_forward_hook(count))
        with torch.no_grad():
            self.model(**inputs_of(self.model))
        for hook in hooks:
            hook.remove()
        return found

    def masked(self, mask, **options) -> torch.Tensor:
        with stepmask.apply(self.model, mask, scheduler=self.scheduler, **options):
            return self.sample()

    def by_reference(self, mask: StepMask) -> torch.Tensor:
        with reference(self.model, mask) as running:
            calls = iter(range(STEPS))
            hook = self.model.register_forward_pre_hook(lambda *_: setattr(running, "row", next(calls)))
            try:
                return self.sample()
            finally:
                hook.remove()

    def mask(self, seed: int, **options) -> StepMask:
        return random_mask(self.model, self.scheduler, STEPS, seed, **options)

    def all_ones(self) -> StepMask:
        return self.mask(0, share=1.1)


shared = cache(Case)


@pytest.fixture
def case(family) -> Case:
    """One for all tests of a family: that nothing stays behind is what they hold."""
    return shared(family)


@pytest.fixture
def own(family) -> Case:
    """For tests that leave something on the model."""
    return Case(family)


def changed_modules(model) -> dict[str, list[str]]:
    """Modules with something on them that a plain model does not have."""
    found = {}
    for name, module in model.named_modules():
        hooks = [k for k, value in vars(module).items() if k.endswith("_hooks") and isinstance(value, dict) and value]
        found[name] = hooks + [key for key in ("forward", "_hf_hook", "_old_forward") if key in vars(module)]
    return {name: own for name, own in found.items() if own}


# --- the graph


def test_sites_are_modules_in_the_order_in_which_they_run(case):
    ran = []
    hooks = [
        module_of(case.model, name).register_forward_hook(lambda *_, name=name: ran.append(name))
        for name in case.graph.names
    ]
    with torch.no_grad():
        case.model(**inputs_of(case.model))
    for hook in hooks:
        hook.remove()
    assert ran == list(case.graph.names)


def test_levels_nest(case):
    """Each level covers the whole model, the coarser ones with fewer sites; what contains others comes after them."""
    graph, family = case.graph, architecture_of(case.model)
    named = {site.name for site in family.sites(case.model)}
    assert {graph.names[i] for i in range(len(graph)) if i not in graph.within} == named == set(graph.innermost.names)
    branches, blocks, stacks = (graph.level(level) for level in get_args(Level))
    assert {graph.names[i] for i in branches} == {graph.innermost.names[i] for i in graph.innermost.blocks}
    assert len(branches) > len(blocks) >= len(stacks) >= 1
    for level in (blocks, stacks):
        covered = set(level).union(*(inside_of(graph, i) for i in level))
        assert covered >= set(branches), "every branch lies within a site of the level, or is one"
        assert not any(inside_of(graph, i) & set(level) for i in level), "none of them contains another"
    for outer in graph.within:
        assert graph.sites[outer].kind in ("block", "stack") and max(inside_of(graph, outer)) < outer
    lists = {site.name for site in graph.sites if site.kind == "stack"}
    assert lists == {name for name in graph.names if isinstance(case.model.get_submodule(name), nn.ModuleList)}
    assert lists or family.class_name == "LatteTransformer3DModel", "its two lists run in turns"


def test_the_innermost_graph_knows_nothing_of_what_is_around_it(case, monkeypatch):
    monkeypatch.setattr("stepmask.inspection.architecture.sites_around", lambda model, sites: ())
    flat = trace(case.model, case.graph.innermost.sites)
    assert not flat.within and flat.inner is None and flat.innermost is flat
    assert replace(case.graph.innermost, rewritten=frozenset()) == replace(flat, rewritten=frozenset())
    assert case.graph.fingerprint == flat.fingerprint == case.graph.innermost.fingerprint


def test_feeders_feed_their_site_alone(case):
    feeders = architecture_of(case.model).feeders(case.model)
    names = [feeder for site in feeders.values() for feeder in site]
    assert set(feeders) <= set(case.graph.names) and len(set(names)) == len(names)
    traced = trace(case.model, [*case.graph.innermost.sites, *(Site(name, "mlp") for name in names)]).innermost
    index = {name: i for i, name in enumerate(traced.names)}
    for site, feeding in feeders.items():
        for feeder in feeding:
            assert traced.readers(index[feeder]) == (index[site],)


def test_feeders_rest_where_their_site_does(own):
    feeders = architecture_of(own.model).feeders(own.model)
    modules = dict(own.model.named_modules())
    mask = own.mask(3)
    runs = dict(zip(mask.sites, make_plan(mask, own.graph).compute.sum(0), strict=True))
    count = dict.fromkeys(feeders, 0)
    for site, feeding in feeders.items():
        for feeder in feeding:
            child = modules[feeder]
            original = child.forward

            def counting(*args, site=site, original=original):
                count[site] += 1
                return original(*args)

            child.forward = counting
    own.masked(mask)
    assert count == {site: runs[site] for site in feeders}


def test_tracing_leaves_the_model_alone(own):
    before = {name: (p.device, p.requires_grad) for name, p in own.model.named_parameters()}
    trace(own.model.train(), own.graph.innermost.sites)
    measure_cost(own.model)
    assert own.model.training and not changed_modules(own.model)
    assert before == {name: (p.device, p.requires_grad) for name, p in own.model.named_parameters()}


def has_nan(value) -> bool:
    return any(leaf.isnan().any() for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor))


@torch.no_grad()
def nan_readers(case: Case, poisoned: int | None, inputs: dict, clean: dict[int, torch.Tensor]) -> set[int]:
    """Sites (and OUT) that would return NaN where one site returns NaN and all others are held clean."""
    modules = dict(case.model.named_modules())
    found: set[int] = set()
    hooks = []
    for site, name in enumerate(case.graph.innermost.names):

        def after(module, args, output, site=site):
            if has_nan(output):
                found.add(site)
            return nan_like(output) if site == poisoned else clean.setdefault(site, output)

        hooks.append(modules[name].register_forward_hook(after))
    family = architecture_of(case.model)
    with sdpa_kernel(SDPBackend.MATH):  # the fused one on the CPU may lose a NaN
        output = family.run(case.model, inputs)
    for hook in hooks:
        hook.remove()
    return found | ({OUT} if output.isnan().any() else set())


def test_nan_finds_the_same_readers(case):
    """Cross-check of the trace with real numbers, of the innermost sites."""
    family, graph = architecture_of(case.model), case.graph.innermost
    inputs = family.example_inputs(case.model, 2)
    clean: dict[int, torch.Tensor] = {}
    assert nan_readers(case, None, inputs, clean) == set()
    for site in range(len(graph)):
        found, said = nan_readers(case, site, inputs, clean), set(graph.readers(site))
        assert found == said or (case.packed and found < said), graph.names[site]
    fresh = {name: torch.full_like(inputs[name], torch.nan, dtype=torch.float32) for name in family.step_inputs}
    reached = nan_readers(case, None, {**inputs, **fresh}, clean) - {OUT}
    assert reached == {site for site in range(len(graph)) if graph.depends_on_step(site)}


def test_graph_does_not_depend_on_weights_dtype_or_mode(case, family):
    other = tiny_model(family, seed=7).train().to(torch.bfloat16)
    assert describe(other).fingerprint == case.graph.fingerprint


def test_costs_add_up(case):
    cost = measure_cost(case.model)
    assert cost.sites == case.graph.names
    innermost = [i for i in range(len(case.graph)) if i not in case.graph.within]
    assert (cost.macs >= 0).all() and (cost.macs[innermost] > 0).all() and cost.always_macs > 0
    assert cost.fraction(case.all_ones()) == pytest.approx(1)
    graph = case.graph.innermost
    unread = [i for i in range(len(graph)) if not graph.readers(i)]
    still = []  # what nothing that changes reaches computes once: the text's own blocks of Lumina 2
    for site in range(len(graph)):
        if not graph.depends_on_step(site) and set(graph.writers(site)) <= set(still):
            still.append(site)
    shares = cost.shares()[0][innermost]
    wanted = 1 - shares[unread].sum() - shares[still].sum() * (STEPS - 1) / STEPS
    assert cost.fraction(make_plan(case.all_ones(), case.graph)) == pytest.approx(wanted)


# --- running


def test_all_ones_is_the_plain_model(case):
    assert torch.equal(case.masked(case.all_ones()), case.plain)
    assert torch.equal(case.masked(case.all_ones(), eliminate_dead=False), case.plain)


@pytest.mark.parametrize("seed", range(1, 4))  # each share once, once with samplers that always compute
def test_masked_runs_are_the_reference_with_and_without_elimination(case, seed):
    mask = case.mask(seed, share=(0.5, 0.2, 0.8)[seed % 3], only_blocks=seed % 4 == 3)
    wanted = case.by_reference(mask)
    assert not torch.equal(wanted, case.plain), "the mask must matter"
    assert torch.equal(case.masked(mask), wanted)
    assert torch.equal(case.masked(mask, eliminate_dead=False), wanted)
    assert torch.equal(case.masked(make_plan(mask, case.graph, skip_unchanged=False)), wanted)


@pytest.mark.parametrize(
    ("seed", "dtype"), [(0, torch.float32), pytest.param(1, torch.bfloat16, marks=pytest.mark.slow)], ids=str
)
def test_forecasts_are_the_reference_with_and_without_elimination(family, seed, dtype):
    case = shared(family, dtype)
    options = {"share": (0.5, 0.3)[seed], "forecasts": (0.5, 1.0)[seed]}
    masks = (case.mask(number, **options) for number in itertools.count(seed, 3))
    mask, wanted = next(
        (mask, image)
        for mask in itertools.islice(masks, 20)
        if not torch.equal(image := case.by_reference(mask), case.by_reference(replace(mask, forecast=None)))
    )
    assert wanted.dtype == dtype and wanted.isfinite().all()
    with stepmask.apply(case.model, mask, scheduler=case.scheduler):
        assert torch.equal(case.sample(), wanted)
        assert torch.equal(case.sample(), wanted), "a second call"
    assert torch.equal(case.masked(mask, eliminate_dead=False), wanted)
    assert torch.equal(case.masked(make_plan(mask, case.graph, skip_unchanged=False)), wanted)
    by_channel = with_channel_gains(mask, case.model, case.sample, seed)
    wanted = case.by_reference(by_channel)
    assert by_channel.channel_gains and wanted.isfinite().all()
    assert torch.equal(case.masked(by_channel), wanted)


def test_the_plan_is_what_runs(case):
    for seed in range(4):
        mask = case.mask(seed, forecasts=0.7 * (seed % 2))
        plan = make_plan(mask, case.graph)
        with count_computes(case.model, modules_of(case.graph)) as log:
            case.masked(plan)
        runs = plan.called.copy()
        runs[0] = True  # what nobody ever reads runs once, to show its shape
        modules = [site for site in range(len(case.graph)) if case.graph.sites[site].kind != "stack"]
        assert log == [(row, case.graph.names[site]) for row, site in np.argwhere(runs).tolist() if site in modules]


def test_dead_values_never_reach_the_output(case):
    """Dead sites return NaN; held blocks make them where the graph has any."""
    dead = 0
    for seed in range(6):
        mask = case.mask(seed, share=0.3, forecasts=0.5 * (seed % 2))
        dead += int((make_plan(mask, case.graph).states == State.dead).sum())
        assert case.masked(mask).isfinite().all()
    always_read = all(OUT in case.graph.readers(site) for site in range(len(case.graph)))
    assert (dead == 0) == always_read


@pytest.mark.parametrize("nested", [pytest.param(False, marks=pytest.mark.slow), True], ids=["branches", "nested"])
def test_every_surviving_compute_matters(case, nested):
    """It reaches the output.

    Where sites nest, it may also lie in the part that nobody reads of a value of two streams, which is kept as one.
    """
    graph = case.graph if nested else case.graph.innermost
    plan = make_plan(case.mask(1, share=0.4, forecasts=0.4, nested=nested), graph)
    cells = np.argwhere(plan.compute)
    chosen = np.random.default_rng(0).permutation(cells)[:16]
    for row, site in chosen.tolist():
        poisoned = PoisonedPlan(**{f.name: getattr(plan, f.name) for f in fields(plan)}, poison=(row, site))
        kept = [outer for outer, inside in graph.within.items() if inside >> site & 1 and plan.keep[row, outer]]
        two_streams = any(case.num_tensors[graph.names[outer]] > 1 for outer in kept)
        matters = ends_in_nan(lambda poisoned=poisoned: case.masked(poisoned))
        assert matters or (nested and (two_streams or case.packed)), f"row {row}, {graph.names[site]}"


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


def test_sites_may_be_named_in_part(case):
    some = case.graph.names[1::2]
    compute = np.ones((STEPS, len(some)), bool)
    compute[1::2] = False
    mask = StepMask(compute=compute, sites=some, timesteps=case.all_ones().timesteps)
    assert torch.equal(case.masked(mask), case.by_reference(mask))


# --- leaving


def test_leaving_restores_every_module(case):
    feeders = architecture_of(case.model).feeders(case.model).values()
    modules = dict(case.model.named_modules())
    sites = {name for name in case.graph.names if not isinstance(modules[name], nn.ModuleList)}
    gated = {"", *sites, *(name for names in feeders for name in names)}
    with stepmask.apply(case.model, case.mask(0), scheduler=case.scheduler):
        assert set(changed_modules(case.model)) == gated
        assert not changed_modules(case.untouched), "another instance"
        case.sample()
    assert not changed_modules(case.model)
    assert torch.equal(case.sample(), case.plain)


def test_leaving_by_an_exception_restores_every_module_and_the_next_run_is_right(case):
    mask, rows = case.mask(0), iter(range(STEPS))
    wanted = case.by_reference(mask)
    last = dict(case.model.named_modules())[case.graph.innermost.names[-1]]

    def fail(*_):
        if next(rows) == 2:
            raise RuntimeError("in the middle of a forward pass")

    hook = last.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="middle"):
        case.masked(case.all_ones())
    hook.remove()
    assert not changed_modules(case.model) and torch.equal(case.sample(), case.plain)
    with stepmask.apply(case.model, mask, scheduler=case.scheduler) as run:
        hook = last.register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            case.sample()
        hook.remove()
        assert torch.equal(case.sample(), wanted)
    run.remove()  # once more does nothing
    assert not changed_modules(case.model)


def test_applying_again_replaces(case):
    first, second = case.mask(0), case.mask(1)
    wanted = case.by_reference(second)
    old = stepmask.apply(case.model, first, scheduler=case.scheduler)
    new = stepmask.apply(case.model, second, scheduler=case.scheduler)
    assert torch.equal(case.sample(), wanted)
    old.remove()
    assert torch.equal(case.sample(), wanted), "the old handle must not remove the new mask"
    new.remove()
    assert not changed_modules(case.model)


def test_a_submodule_called_on_its_own_just_runs(case):
    """Gates decide within the denoiser's forward only."""
    name = case.graph.names[0]
    module = dict(case.model.named_modules())[name]
    seen = {}

    def keep(module, args, kwargs, output):
        seen.update(args=args, kwargs=kwargs, output=output)

    hook = module.register_forward_hook(keep, with_kwargs=True)
    with torch.no_grad():
        case.model(**inputs_of(case.model))
        hook.remove()
        with stepmask.apply(case.model, case.mask(0), scheduler=case.scheduler):
            case.sample()
            again = tree_leaves(module(*seen["args"], **seen["kwargs"]))
            assert all(torch.equal(a, b) for a, b in zip(again, tree_leaves(seen["output"]), strict=True))
