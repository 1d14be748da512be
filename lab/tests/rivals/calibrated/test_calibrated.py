"""SmoothCache, Block Caching and DiTFastAttn: their rules, targets, and what they say of their cost."""

import inspect

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fakes import TwoCalls
from refusal import check_refused
from stepmask import StepMaskError, TargetError, apply, describe, make_plan, measure_cost
from stepmask.inspection.sampler_loop import SamplerLoop
from stepmask.runtime.sampling import seeded
from stepmask_lab.rivals import Recording, block_caching, ditfastattn, record, smoothcache
from stepmask_lab.rivals.calibrated.block_caching import held
from stepmask_lab.rivals.calibrated.smoothcache import skipped
from tiny import ddim_pipeline, dit_pipeline, tiny_model

STEPS = 8
FROM_RECORDINGS = {"smoothcache": smoothcache, "block_caching": block_caching}


@pytest.fixture(scope="module")
def recordings():
    return {"unet": record(ddim_pipeline(), STEPS, num_images=2), "dit": record(dit_pipeline(), STEPS, num_images=1)}


def table(rows):
    return np.array([[np.inf] * 3, *rows], dtype=float)


def test_smoothcache_skips_by_the_distance_to_the_last_computed_step():
    changes = table([[0.1, 9, 9], [0.1, 0.2, 9], [0.1, 0.2, 0.3], [0.1, 0.2, 0.3], [0.1, 0.2, 0.3], [0.1, 0.2, 0.3]])
    assert skipped(changes, 0.15).tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert skipped(changes, 0.25).tolist() == [0, 1, 1, 0, 1, 1, 0]
    assert skipped(changes, 9).tolist() == [0, 1, 1, 1, 0, 1, 0], "three in a row at most, the last step computes"
    assert skipped(changes, 9, max_skips=1).tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert not skipped(changes, 0.05).any() and not skipped(table([]), 9).any()
    assert not skipped(table([[np.inf] * 3] * 3), np.inf).any()


def test_block_caching_adds_up_changes_since_the_last_computation():
    changes = np.array([[np.inf] * 2, [0.1, 0.3], [0.1, 0.1], [0.1, 0.1], [0.1, np.inf], [0.1, 0.1]])
    assert held(changes, 0.25).T.astype(int).tolist() == [[0, 1, 1, 0, 1, 1], [0, 0, 1, 1, 0, 1]]
    assert held(changes, 0).sum() == 0


changes = hnp.arrays(float, st.tuples(st.integers(1, 12), st.just(3)), elements=st.floats(0, 2))


@settings(deadline=None)
@given(changes, st.floats(0, 3), st.integers(1, 3))
def test_smoothcache_never_skips_what_changed_more(changes, threshold, most):
    skips = skipped(changes, threshold, most)
    assert not skips[0] and not skips[-1]
    computed = 0
    for step, skip in enumerate(skips):
        if skip:
            assert step - computed <= most and changes[step, step - computed - 1] <= threshold
        else:
            computed = step


@settings(deadline=None)
@given(changes, st.floats(0, 3))
def test_block_caching_holds_as_long_as_it_may(changes, threshold):
    table = held(changes, threshold)
    assert not table[0].any()
    for site in range(3):
        computed = 0
        for step in range(1, len(changes)):
            added = 0.0
            for change in changes[computed + 1 : step + 1, site]:
                added += change
            assert table[step, site] == (added <= threshold)
            computed = computed if table[step, site] else step


@pytest.mark.parametrize("model", ["unet", "dit"])
@pytest.mark.parametrize("method", FROM_RECORDINGS)
def test_rules_are_applied_to_the_recording(method, model, recordings):
    recording = recordings[model]
    threshold = float(np.median(recording.changes[1:, list(recording.graph.blocks), 0])) * 1.5
    mask = FROM_RECORDINGS[method](recording, threshold=threshold)
    blocks, kinds = list(recording.graph.blocks), [site.kind for site in recording.graph.sites]
    if method == "smoothcache":
        wanted = {
            k: recording.changes[:, [i for i in blocks if kinds[i] == k]].mean(1) for k in {kinds[i] for i in blocks}
        }
        assert all(np.array_equal(~mask.compute[:, i], skipped(wanted[kinds[i]], threshold)) for i in blocks)
    else:
        assert np.array_equal(~mask.compute[:, blocks], held(recording.changes[:, blocks, 0], threshold))
    assert 0 < (~mask.compute).sum() and mask.compute[0].all() and mask.is_binary
    facts = mask.provenance
    assert facts["method"] == method and facts["threshold"] == threshold and facts["num_inference_steps"] == STEPS
    assert facts["denoiser_calls"] == STEPS and facts["seconds"] == recording.facts["seconds"]


@pytest.mark.parametrize("target", [0.9, 0.7, 0.55])
@pytest.mark.parametrize("model", ["unet", "dit"])
@pytest.mark.parametrize("method", FROM_RECORDINGS)
def test_targets_are_met_after_elimination(method, model, target, recordings):
    mask = FROM_RECORDINGS[method](recordings[model], target_macs=target)
    pipe = ddim_pipeline() if model == "unet" else dit_pipeline()
    fraction = measure_cost(pipe).fraction(make_plan(mask, describe(pipe)))
    assert target - 0.2 < fraction <= target and mask.provenance["macs"] == pytest.approx(fraction, abs=1e-6)
    assert mask.provenance["target_macs"] == target
    again = FROM_RECORDINGS[method](recordings[model], threshold=mask.provenance["threshold"])
    assert np.array_equal(again.compute, mask.compute)


def test_what_cannot_be_reached(recordings):
    with pytest.raises(TargetError, match=r"target_macs=0\.3 cannot be reached by smoothcache.*ask for 0\.\d+ or more"):
        smoothcache(recordings["dit"], target_macs=0.3)
    check_refused("share of the full run", block_caching, recordings["dit"], target_macs=1.5, error=TargetError)


@pytest.mark.parametrize("method", FROM_RECORDINGS)
@pytest.mark.parametrize(("options", "says"), [
    ({}, "one of both"),
    ({"threshold": 1, "target_macs": 0.5}, "one of both"),
    ({"threshold": -1}, "threshold must be a number of at least 0"),
    ({"threshold": float("nan")}, "threshold must be a number of at least 0"),
    ({"threshold": 1, "seed": 2}, "a recording is made already: leave seed out"),
])  # fmt: skip
def test_options_that_make_no_sense(method, options, says, recordings):
    check_refused(says, FROM_RECORDINGS[method], recordings["unet"], **options)


def held_kinds(mask, graph) -> set[str]:
    return {site.kind for site, column in zip(graph.sites, mask.compute.T, strict=True) if not column.all()}


def test_options_of_one_method_alone(recordings):
    with pytest.raises(StepMaskError, match="max_skips must be a whole number between 1 and 3, got 4"):
        smoothcache(recordings["unet"], threshold=1, max_skips=4)
    check_refused("kinds must be some of", block_caching, recordings["unet"], threshold=1, kinds="resnet")
    with pytest.raises(StepMaskError, match="no sites of kind mlp; it has attention, resnet"):
        block_caching(recordings["unet"], threshold=1, kinds=["mlp"])
    mask = block_caching(recordings["unet"], threshold=9, kinds=["attention"])
    assert held_kinds(mask, recordings["unet"].graph) == {"attention"}


def test_block_caching_takes_spatial_transformers_where_there_are_any():
    loop = SamplerLoop(tiny_model("UNet2DConditionModel"), DDIMScheduler())
    text = {"encoder_hidden_states": torch.randn(1, 4, 12, generator=torch.Generator().manual_seed(0))}
    mask = block_caching(loop, 4, threshold=9.0, num_images=1, call_kwargs=text)
    assert held_kinds(mask, describe(loop.denoiser).innermost) == {"transformer"} == set(mask.provenance["kinds"])


@pytest.mark.parametrize("method", [smoothcache, block_caching, ditfastattn])
def test_masks_run_in_the_pipeline_they_were_made_for(method):
    pipe = dit_pipeline()
    mask = method(pipe, 4, threshold=0.5, num_images=2, call_kwargs={"guidance_scale": 2.0})
    assert mask.provenance["guidance_scale"] == 2.0 and mask.provenance["seconds"] > 0
    with apply(pipe, mask) as handle:
        pipe(class_labels=[1], num_inference_steps=4, generator=seeded([0]))
    assert handle.summary().macs_fraction == pytest.approx(mask.provenance["macs"], abs=1e-6)


def test_options_of_recording_are_those_of_ditfastattn():
    own = set(inspect.signature(ditfastattn).parameters) - {"threshold"}
    assert own == set(inspect.signature(record).parameters)
    assert isinstance(record(ddim_pipeline(), 2, num_images=1), Recording)


@torch.no_grad()
def greedy(model, timesteps, threshold, seed):
    """DiTFastAttn's choice in a loop of our own, with hooks."""
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(timesteps)
    sites = [name for name in describe(model).names if name.endswith("attn1")]
    modules, cache, state = dict(model.named_modules()), {}, {"held": set(), "store": False}

    def hook(name):
        def swap(module, args, value):
            if name in state["held"]:
                return cache[name]
            if state["store"]:
                cache[name] = value
            return value

        return swap

    hooks = [modules[name].register_forward_hook(hook(name)) for name in sites]
    sample, rows = torch.randn(1, 4, 8, 8, generator=seeded([seed])[0]), []
    for step, timestep in enumerate(scheduler.timesteps):

        def run(held, store, sample=sample, timestep=timestep):
            state.update(held=set(held), store=store)
            return model(sample, timestep[None], class_labels=torch.tensor([3]), return_dict=False)[0][:, :4]

        full, chosen = run([], step == 0), []
        for number, name in enumerate(sites if step else [], start=1):
            a, b = run([*chosen, name], False), full
            if ((a - b).abs() / torch.maximum(a.abs(), b.abs())).mean() < threshold * number / len(sites):
                chosen.append(name)
        rows.append([name not in chosen for name in sites])
        sample = scheduler.step(run(chosen, step > 0) if step else full, timestep, sample).prev_sample
    for one in hooks:
        one.remove()
    return np.array(rows)


@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.1, 0.2, 5.0])
def test_ditfastattn_equals_a_loop_of_our_own(threshold):
    model = tiny_model("DiTTransformer2DModel")
    loop = SamplerLoop(model, DDIMScheduler())
    kwargs = {"class_labels": torch.tensor([3])}
    mask = ditfastattn(loop, 6, threshold, num_images=1, call_kwargs=kwargs)
    attention = [i for i, name in enumerate(mask.sites) if name.endswith("attn1")]
    others = [i for i in range(len(mask.sites)) if i not in attention]
    wanted = greedy(model, 6, threshold, mask.provenance["noise_seeds"][0])
    assert np.array_equal(mask.compute[:, attention], wanted) and mask.compute[:, others].all()
    assert mask.provenance["denoiser_calls"] == 1 + 5 * (len(attention) + 2)
    if threshold in (0.0, 5.0):
        assert mask.compute[1:, attention].mean() == (threshold == 0.0)


def test_ditfastattn_of_two_calls_decides_in_the_first():
    pipe = TwoCalls(tiny_model("DiTTransformer2DModel"), DDIMScheduler())
    mask = ditfastattn(pipe, 3, 5.0, num_images=2, call_kwargs={"class_labels": [3, 7]})
    attention = [i for i, name in enumerate(mask.sites) if name.endswith("attn1")]
    assert not mask.compute[1:, attention].any()
    assert mask.provenance["denoiser_calls"] >= 1 + 2 * (len(attention) + 2) + 3


def test_ditfastattn_is_for_transformers():
    check_refused(r"is for transformers.*UNet2DModel has none", ditfastattn, ddim_pipeline(), 3)
