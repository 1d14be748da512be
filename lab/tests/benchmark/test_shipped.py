"""Rivals as they ship: which model they run on, that they save something, forget everything, and leave nothing."""

import importlib.util
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial

import pytest
import torch

from small import ldm_pipeline, pixart_pipeline
from stepmask import StepMaskError, apply, make_plan, measure_cost, schedules
from stepmask.evaluation import sampler_for
from stepmask.evaluation.sampler import Sampler
from stepmask.inspection.describe import describe
from stepmask.inspection.registry import denoiser_of
from stepmask_lab.benchmark.methods import guided
from stepmask_lab.benchmark.naming import methods_by_name, short_name
from stepmask_lab.method import Subject, Unmasked
from stepmask_lab.shipped import shipped_methods
from stepmask_lab.shipped._enabling import Rival
from stepmask_lab.unmasked import OtherSampler, evaluate_unmasked
from tiny import ddim_pipeline, dit_pipeline

STEPS = 8
SEEDS = [7, 8]
MODELS = {"U-Net": ddim_pipeline, "DiT": dit_pipeline, "LDM": ldm_pipeline, "PixArt": pixart_pipeline}
METHODS = {short_name(method): method for method in shipped_methods()}
PACKAGES = {"deepcache": "DeepCache", "cache": "cache_dit", "diffusers": "diffusers"}
REFUSED = {
    ("deepcache-package", "DiT"): "has no attribute 'unet'",
    ("deepcache-package", "PixArt"): "has no attribute 'unet'",
    ("cache-dit-dbcache", "U-Net"): "UNet2DModel is not officially supported by cache-dit",
    ("cache-dit-dbcache", "LDM"): "UNet2DConditionModel is not officially supported by cache-dit",
    ("diffusers-firstblockcache", "U-Net"): "finds no list of transformer blocks in UNet2DModel",
    ("diffusers-firstblockcache", "LDM"): "finds no list of transformer blocks in UNet2DConditionModel",
    ("diffusers-magcache", "U-Net"): "finds nothing to cache in UNet2DModel",
    ("diffusers-magcache", "LDM"): "finds nothing to cache in UNet2DConditionModel",
    ("diffusers-fastercache", "U-Net"): "here is no guidance",
    ("diffusers-fastercache", "DiT"): "takes the first half of a batch for unconditional, DiTPipeline the second",
}
for model in ("U-Net", "LDM"):
    for how in ("cache-dit-dbcache-taylorseer", "cache-dit-masks-taylorseer"):
        REFUSED[how, model] = REFUSED["cache-dit-dbcache", model]
RUNS = [(method, model) for method in METHODS for model in MODELS if (method, model) not in REFUSED]
LARGER = [
    (method, model)
    for method, model in RUNS
    if model in ("LDM", "PixArt") and {(method, "U-Net"), (method, "DiT")} & {*RUNS}
]
"""Of methods that smaller models show."""


@cache
def subject_of(model: str) -> Subject:
    pipe = MODELS[model]()
    return Subject(pipe, STEPS, guided(pipe))


def shipped(method: str):
    pytest.importorskip(PACKAGES[method.partition("-")[0]])
    return METHODS[method]


def plain(subject: Subject) -> Sampler:
    everything = schedules.fora(subject.pipe, subject.steps, 1)
    return sampler_for(subject.pipe, everything, SEEDS, subject.steps, subject.call_kwargs)[0]


def run(subject: Subject, method: Unmasked, setting: str) -> tuple[torch.Tensor, float]:
    """Images of a method, and its MACs per image."""
    sampler = OtherSampler(**vars(plain(subject)), running=partial(method.running, subject, setting))
    images, _ = sampler.masked(0, SEEDS)
    return images, sampler.macs / sampler.num_counted


@cache
def full_run(model: str) -> tuple[torch.Tensor, float]:
    sampler = OtherSampler(**vars(plain(subject_of(model))), running=None)
    return sampler.full(0, SEEDS)[0], sampler.full_macs_per_image(SEEDS[0])


def interrupt(*_):
    raise KeyboardInterrupt


def state_of(pipe) -> dict:
    """Everything that hangs on the modules of a denoiser, and the pipeline's call."""
    found = {"call": type(pipe).__call__, "class": sorted(vars(type(pipe)))}
    for name, module in denoiser_of(pipe).named_modules():
        for key, value in vars(module).items():
            found[name, key] = id(value), [*map(id, value.values())] if isinstance(value, dict) else None
    return found


@pytest.mark.parametrize(("method", "model"), REFUSED)
def test_what_does_not_support_a_model_says_why(method, model):
    before = state_of(subject_of(model).pipe)
    assert REFUSED[method, model] in shipped(method).fits(subject_of(model))
    assert state_of(subject_of(model).pipe) == before


@pytest.mark.parametrize(
    ("method", "model"), [pytest.param(*run, marks=pytest.mark.slow if run in LARGER else []) for run in RUNS]
)
def test_what_supports_a_model_saves_something_and_leaves_no_trace(method, model):
    rival, subject = shipped(method), subject_of(model)
    setting = rival.settings(subject)[-1]
    images, macs = full_run(model)
    before = state_of(subject.pipe)
    first, second = run(subject, rival, setting), run(subject, rival, setting)
    assert torch.equal(first[0], second[0]), "nothing is carried from one call to the next"
    assert not torch.equal(first[0], images) and first[1] == second[1] < macs
    with pytest.raises(KeyboardInterrupt), rival.running(subject, setting):
        handle = denoiser_of(subject.pipe).register_forward_hook(interrupt)
        plain(subject).full(0, SEEDS)
    handle.remove()
    assert state_of(subject.pipe) == before
    assert torch.equal(plain(subject).full(0, SEEDS)[0], images)


@pytest.mark.parametrize(("method", "model"), [
    pytest.param(*run, marks=pytest.mark.slow if run[0] not in ("deepcache-package", "cache-dit-dbcache") else [])
    for run in RUNS if run[1] in ("U-Net", "DiT")
])  # fmt: skip
def test_trials_find_what_runs(method, model):
    assert shipped(method).fits(subject_of(model)) is None


@pytest.mark.parametrize("interval", [2, 3])
def test_the_package_of_deepcache_does_what_our_schedule_does(interval):
    rival, subject = shipped("deepcache-package"), subject_of("U-Net")
    sampler, mask = plain(subject), schedules.deepcache(subject.pipe, STEPS, interval, branch=0)
    with apply(subject.pipe, mask):
        ours, _ = sampler.full(0, SEEDS)
    theirs, macs = run(subject, rival, f"1:{interval}")
    assert torch.equal(theirs, ours)
    cost, plan = measure_cost(subject.pipe), make_plan(mask, describe(subject.pipe), skip_unchanged=False)
    assert macs == pytest.approx(cost.total_macs(plan))


def test_speed_is_measured_in_pairs_and_macs_beside_it():
    subject = subject_of("DiT")
    fewer = next(method for method in methods_by_name() if method.name == "fewer steps")
    result = evaluate_unmasked(
        subject.pipe, STEPS, partial(fewer.running, subject, "4"), seeds=2, call_kwargs=subject.call_kwargs,
        batch_size=2, speed_pairs=2,
    )  # fmt: skip
    assert result.speed.pairs == 2 and result.speed.denoiser.median > 0
    assert result.macs_fraction == 0.5 and result.rows == 4


def test_a_package_that_is_not_installed_names_the_extra(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "DeepCache" else find(name, *a))
    reason = METHODS["deepcache-package"].fits(subject_of("U-Net"))
    assert reason == "needs the package DeepCache: pip install 'stepmask-lab[rivals]'"


def test_an_error_of_ours_is_not_taken_for_a_rival_s():
    @contextmanager
    def enable(subject, options):
        raise KeyError("ours")
        yield

    rival = Rival("ours", "diffusers.hooks", lambda subject: {"a": None}, enable)
    with pytest.raises(KeyError, match="ours"):
        rival.refusal(replace(subject_of("U-Net"), steps=2))


def test_the_command_line_knows_them_by_name_and_together():
    assert [short_name(method) for method in methods_by_name("shipped")] == list(METHODS)
    (one,) = methods_by_name("cache-dit-dbcache")
    assert one.name == "cache-dit DBCache"
    assert not {method.name for method in methods_by_name()} & {method.name for method in METHODS.values()}
    with pytest.raises(StepMaskError, match=r"no method 'deep'; there are .*deepcache-package.*, shipped"):
        methods_by_name("deep")
