"""learn(method="global") and learn_family on tiny random models: targets of all kinds, rivals, resuming, errors."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

import stepmask
from fakes import TwoCalls, assert_unchanged, snapshot
from stepmask import (
    BlockGraph,
    Site,
    StepMask,
    StepMaskError,
    TargetError,
    UnsupportedModelError,
    describe,
    learn,
    learn_family,
    make_plan,
    measure_cost,
)
from stepmask.evaluation import evaluation_seeds
from stepmask.inspection.registry import denoiser_of
from stepmask.learning import GlobalConfig, LearnConfig
from stepmask.learning.end_to_end.gradients.probe import _overflow_as_worst
from stepmask.learning.end_to_end.learner import Asked, Selecting
from stepmask.learning.end_to_end.measurement.judge import PSNR_CAP, Judge
from stepmask.learning.end_to_end.search.portfolio import moved_steps, portfolio, spaced_steps
from stepmask.learning.end_to_end.search.search import Round
from stepmask.learning.end_to_end.tables import Candidate, Table
from stepmask.mask import Action, scheduler_identity
from stepmask.runtime.apply import is_applied
from stepmask.runtime.noise import Noise
from stepmask.schedules import fora
from tiny import ddim_pipeline, ddpm_pipeline, dit_pipeline, generator, tiny_model

STEPS = 5
QUICK = {
    "rounds": 1, "gains": 1, "num_probes": 1, "num_validation": 3, "num_held_back": 2, "num_moves": 1,
    "shrink": 0.35, "progress": False,
}  # fmt: skip
GUIDED = {"guidance_scale": 2.0}

CASES = {  # pipeline or denoiser, scheduler, call_kwargs
    "DDIMPipeline": lambda: (ddim_pipeline(), None, None),
    "DDPMPipeline": lambda: (ddpm_pipeline(), None, None),
    "DiTPipeline, scale 2": lambda: (dit_pipeline(), None, GUIDED),
    "DiT, loop": lambda: (tiny_model("DiTTransformer2DModel"), DDIMScheduler(), None),
    "two calls": lambda: (
        TwoCalls(tiny_model("DiTTransformer2DModel"), DDIMScheduler()),
        None,
        {"class_labels": [3, 7]},
    ),
}


def cost_of(mask: StepMask, pipe, call_kwargs=None) -> float:
    return measure_cost(pipe, call_kwargs=call_kwargs).fraction(make_plan(mask, describe(pipe)))


def assert_cost(mask: StepMask, pipe, target: float, call_kwargs=None) -> None:
    """At most `target`, and near it; on random weights a table that costs less may be the better one."""
    cost = cost_of(mask, pipe, call_kwargs)
    assert 0.75 * target <= cost <= target + 1e-9


# --- targets


@pytest.mark.parametrize("name", CASES)
def test_every_pipeline_meets_its_target(name):
    pipe, scheduler, call_kwargs = CASES[name]()
    before = snapshot(denoiser_of(pipe))
    mask = learn(pipe, STEPS, 0.6, scheduler=scheduler, call_kwargs=call_kwargs, **QUICK)
    assert_unchanged(denoiser_of(pipe), before)
    graph = describe(pipe)
    assert mask.compute.shape == (STEPS, len(graph)) and mask.compute[0].all() and mask.sites == graph.names
    assert mask.graph == graph.fingerprint
    assert mask.scheduler == scheduler_identity(scheduler or pipe.scheduler)
    assert list(mask.timesteps) == [float(t) for t in (scheduler or pipe.scheduler).timesteps]
    assert_cost(mask, pipe, 0.6, call_kwargs)
    assert mask.provenance["macs"] == pytest.approx(cost_of(mask, pipe, call_kwargs), abs=1e-6)
    assert mask.provenance["method"] == "global" and mask.provenance["asked"] == {"target_macs": 0.6}


@pytest.mark.parametrize(("make", "call_kwargs"), [(ddim_pipeline, None), (dit_pipeline, GUIDED)])
def test_no_schedule_within_the_target_is_better_on_the_validation_noise(make, call_kwargs):
    pipe, target = make(), 0.62
    mask = learn(pipe, STEPS, target, call_kwargs=call_kwargs, **QUICK)
    noise = Noise(pipe, STEPS, 0, call_kwargs)
    full = noise.images(0, 3)

    def psnr(mask: StepMask) -> float:
        with stepmask.apply(pipe, mask):
            return float(np.minimum(noise.psnrs(noise.images(0, 3), full), 80).mean())

    inputs = describe(pipe), mask.timesteps, (Action.hold, Action.linear)
    rivals = [*portfolio(*inputs), *spaced_steps(*inputs, target, partial(cost_of, pipe=pipe, call_kwargs=call_kwargs))]
    within = [rival for rival in rivals if cost_of(rival, pipe, call_kwargs) <= target]
    assert len(within) > 3 and max(psnr(rival) for rival in within) <= psnr(mask) + 0.01
    assert psnr(mask) == pytest.approx(mask.provenance["psnr"]["validation_mean"], abs=0.01)


def test_key_steps_that_cost_as_much_as_the_target_and_one_more():
    """Whole steps of three equal sites: six of ten cost 0.6."""
    graph = BlockGraph.branches([Site(f"{i}.ff", "mlp") for i in range(3)])
    found = list(spaced_steps(graph, range(10), (Action.hold, Action.linear), 0.65, lambda mask: mask.compute.mean()))
    assert {round(mask.compute.mean(), 9) for mask in found} == {0.6, 0.7}
    assert all(not mask.is_binary for mask in found)
    binary = spaced_steps(graph, range(10), (Action.hold,), 0.65, lambda mask: mask.compute.mean())
    assert all(mask.is_binary for mask in binary)
    assert list(spaced_steps(graph, range(1), (Action.hold,), 1.0, lambda mask: mask.compute.mean())) == []


def test_moved_steps_keep_their_number_order_and_the_first():
    found = [tuple(steps) for steps in moved_steps((0, 2, 3, 6), 8, seed=0)]
    alone = {(0, 1, 3, 6), (0, 2, 4, 6), (0, 2, 3, 5), (0, 2, 3, 7)}
    with_later = {(0, 1, 2, 5), (0, 3, 4, 7), (0, 2, 4, 7)}
    assert set(found) == alone | with_later and len(found) == len(set(found))
    assert found != [tuple(steps) for steps in moved_steps((0, 2, 3, 6), 8, seed=1)]
    assert list(moved_steps((0,), 8, seed=0)) == []


def test_moving_key_steps_helps(monkeypatch):
    """A search that measures nothing but tables of key steps, and likes late ones."""
    pipe = dit_pipeline()
    monkeypatch.setattr(Judge, "_psnrs", lambda self, table, first, count, *_: np.full(count, late(table.actions)))

    def late(actions) -> float:
        return float(np.flatnonzero((actions == Action.compute).all(1)).sum())

    selecting = Selecting(pipe, 8, Asked(target_macs=0.5), 0, None, GlobalConfig(num_moves=200, rounds=0), None)
    search = selecting.search
    search._begin([0.5])
    before = search.best(0.5)
    (report,) = search._climb(0.5)
    assert report.best.psnr > before.psnr and late(report.best.actions) == 0 + 6 + 7
    assert report.best.made_by == "key_steps 3 steps linear"


def test_without_forecasts_masks_are_binary():
    pipe = ddim_pipeline()
    mask = learn(pipe, STEPS, 0.6, forecast=False, **QUICK)
    assert mask.is_binary
    assert_cost(mask, pipe, 0.6)


@pytest.mark.parametrize(("steps", "target"), [(1, 1.0), (2, 0.8), (3, 0.8), (3, 1.0)])
def test_very_few_steps(steps, target):
    pipe = dit_pipeline()
    mask = learn(pipe, steps, target, **QUICK)
    assert mask.num_rows == steps and cost_of(mask, pipe) <= target


def test_what_is_reported_was_measured_on_other_noise():
    pipe = ddim_pipeline()
    mask = learn(pipe, STEPS, 0.6, seed=3, **QUICK)
    record = mask.provenance
    noise = Noise(pipe, STEPS, 3)
    full = noise.images(20_000, 2)
    with stepmask.apply(pipe, mask):
        psnrs = noise.psnrs(noise.images(20_000, 2), full)
    assert record["psnr"]["mean"] == pytest.approx(psnrs.mean(), abs=0.01)
    assert record["psnr"]["worst"] == pytest.approx(psnrs.min(), abs=0.01)
    low, high = record["psnr"]["confidence_95"]
    two_sided = 12.706  # Student's t of one degree of freedom
    assert high - low == pytest.approx(2 * two_sided * psnrs.std(ddof=1) / 2**0.5, abs=0.02)
    assert low <= record["psnr"]["mean"] <= high and record["psnr"]["held_back_images"] == 2
    assert json.loads(json.dumps(record)) == record and record["seed"] == 3
    first, last = record["noise_seeds"]
    assert first <= noise.seeds(20_000, 2)[0] <= last
    with pytest.raises(StepMaskError, match="used to learn"):
        evaluation_seeds([first], mask)


def test_the_noise_in_provenance_is_all_that_was_used(monkeypatch):
    seen = []

    def conditions(self, numbers, seeds, original=Noise._conditions):
        seen.extend(seeds)
        return original(self, numbers, seeds)

    monkeypatch.setattr(Noise, "_conditions", conditions)
    first, last = learn(dit_pipeline(), STEPS, 0.6, **QUICK).provenance["noise_seeds"]
    assert first == min(seen) and max(seen) <= last


def test_a_speed_up(monkeypatch):
    def fixed(denoiser, graph, *_):  # measured ones depend on what else the machine does
        return np.linspace(1.0, 2.0, len(graph)), 1.0

    monkeypatch.setattr("stepmask.inspection.measure_cost._time_sites", fixed)
    mask = learn(ddim_pipeline(), STEPS, target_speedup=1.3, **QUICK)
    assert mask.provenance["asked"] == {"target_speedup": 1.3}
    assert mask.provenance["cost"] <= 1 / 1.3 and mask.provenance["cost"] != mask.provenance["macs"]


def test_a_psnr():
    pipe = dit_pipeline()
    wanted = learn(pipe, STEPS, 0.4, **QUICK).provenance["psnr"]["mean"] + 0.1
    mask = learn(pipe, STEPS, min_psnr=wanted, **QUICK)
    assert mask.provenance["psnr"]["mean"] >= wanted and mask.provenance["macs"] < 1
    assert mask.provenance["asked"] == {"min_psnr": wanted}


def test_a_psnr_that_is_out_of_reach():
    with pytest.raises(TargetError, match=r"min_psnr=79\.9 was not reached"):
        learn(ddim_pipeline(), STEPS, min_psnr=79.9, **QUICK)


@pytest.mark.parametrize("make", [ddim_pipeline, dit_pipeline])
def test_a_limit_of_the_cache(make):
    pipe = make()
    free = learn(pipe, STEPS, 0.7, **QUICK).provenance["cache_bytes_per_image"]
    limit = int(0.8 * free)
    mask = learn(pipe, STEPS, 0.7, max_cache_bytes=limit, **QUICK)
    recorded = mask.provenance["cache_bytes_per_image"]
    call = {"class_labels": [1, 2, 3]} if make is dit_pipeline else {"batch_size": 3}
    with stepmask.apply(pipe, mask) as run:
        pipe(generator=generator(), num_inference_steps=STEPS, output_type="pt", **call)
        assert run.summary().peak_cache_bytes / 3 == recorded <= limit < free
    assert cost_of(mask, pipe) <= 0.7


def test_a_limit_that_nothing_keeps():
    with pytest.raises(TargetError, match="ask for more of the"):
        learn(ddim_pipeline(), STEPS, 0.5, max_cache_bytes=1, **QUICK)


# --- seeds, modes


def test_the_same_seed_gives_the_same_mask():
    """With a sampler that draws noise at every step."""
    torch.manual_seed(1)
    first = learn(ddpm_pipeline(), STEPS, 0.6, seed=4, **QUICK)
    pipe = ddpm_pipeline()  # whose weights must not be inference tensors
    torch.manual_seed(2)
    with torch.inference_mode():
        assert learn(pipe, STEPS, 0.6, seed=4, **QUICK) == first
        assert torch.is_inference_mode_enabled()
    expected = torch.rand(3)
    torch.manual_seed(2)
    assert torch.equal(torch.rand(3), expected), "the global random state is left alone"
    other = learn(dit_pipeline(), STEPS, 0.9, seed=5, **QUICK)
    assert other.provenance["noise_seeds"] != first.provenance["noise_seeds"]


def test_flags_of_the_model_are_put_back():
    pipe = dit_pipeline()
    pipe.transformer.train()
    pipe.transformer.enable_gradient_checkpointing()
    for index, parameter in enumerate(pipe.transformer.parameters()):
        parameter.requires_grad_(index % 2 == 0)
    before = snapshot(pipe.transformer), snapshot(pipe.vae)
    mask = learn(pipe, STEPS, 0.6, **QUICK)
    assert_unchanged(pipe.transformer, before[0])
    assert_unchanged(pipe.vae, before[1])
    assert mask.actions.tolist() == learn(dit_pipeline(), STEPS, 0.6, **QUICK).actions.tolist()


def test_a_bfloat16_model():
    pipe = dit_pipeline().to(torch.bfloat16)
    assert_cost(learn(pipe, STEPS, 0.6, **QUICK), pipe, 0.6)


# --- objective


def test_an_objective_is_asked_with_gradient():
    """Only the first channel counts: nothing that changes the others alone does harm."""
    seen = []

    def first_channel(images):
        images.requires_grad and images.register_hook(seen.append)
        return images[:, :1]

    plain = learn(ddim_pipeline(), STEPS, 0.6, **QUICK)
    mask = learn(ddim_pipeline(), STEPS, 0.6, objective=first_channel, **QUICK)
    assert seen and all(not gradient[:, 1:].any() and gradient[:, 0].any() for gradient in seen)
    assert mask.provenance["config"]["objective"] == "given"
    assert mask.provenance["psnr"] != plain.provenance["psnr"] or (mask.actions != plain.actions).any()


def test_an_objective_judges_the_candidates():
    """By the first row of pixels alone, what happens to the others is no matter."""
    rounds = []

    def first_row(images):
        return images[:, :, :1]

    pipe = ddim_pipeline()
    learn(pipe, STEPS, 0.6, objective=first_row, callback=rounds.append, **QUICK)
    best, noise = rounds[-1].best, Noise(pipe, STEPS, seed=0)
    every = StepMask(compute=np.ones(best.actions.shape), sites=describe(pipe).names, timesteps=noise.timesteps())
    wanted = noise.images(0, len(best.psnrs))
    with stepmask.apply(pipe, every.with_actions(best.actions, gains=best.table.gains)):
        error = noise.images(0, len(best.psnrs)) - wanted
    size, error = (first_row(images).square().sum((1, 2, 3)) for images in (wanted, error))
    assert error.min() > 0 and best.psnrs == pytest.approx((10 * (size / error).log10()).numpy(), rel=1e-3)


# --- resuming


class Stop(Exception):
    pass


def count_calls(pipe) -> list:
    calls = []
    denoiser_of(pipe).register_forward_pre_hook(lambda *args: calls.append(1))
    return calls


@pytest.mark.parametrize("make", [ddpm_pipeline, dit_pipeline])
def test_an_interrupted_search_goes_on_to_the_same_mask(make, tmp_path):
    pipe, rounds = make(), []
    calls = count_calls(pipe)
    expected = learn(pipe, STEPS, 0.6, callback=lambda report: rounds.append(len(calls)), **QUICK)
    all_calls = len(calls)
    assert len(rounds) >= 2
    stops = range(0, len(rounds), 2) if make is dit_pipeline else [0]
    for number in stops:
        until = rounds[number]
        pipe, path, seen = make(), tmp_path / f"state{number}", []
        calls = count_calls(pipe)

        def stop(report, seen=seen, number=number):
            seen.append(report)
            if len(seen) == number + 1:
                raise Stop

        with pytest.raises(Stop):
            learn(pipe, STEPS, 0.6, resume=path, callback=stop, **QUICK)
        assert len(calls) == until
        calls.clear()
        assert learn(pipe, STEPS, 0.6, resume=str(path), **QUICK) == expected
        full_runs = 3 * STEPS  # of the references that PSNRs are taken against
        assert len(calls) <= all_calls - until + full_runs


def test_a_finished_search_gives_its_mask_again(tmp_path):
    path, pipe = tmp_path / "state", dit_pipeline()
    mask = learn(pipe, STEPS, 0.6, resume=path, **QUICK)
    calls = count_calls(pipe)
    assert learn(pipe, STEPS, 0.6, resume=path, **QUICK) == mask and len(calls) == 0


def brightness(images):
    return images.mean(1, keepdim=True)


def test_a_search_with_an_objective_goes_on_in_another_process(tmp_path):
    """Where the function lies in memory is not what tells it from another."""
    path, pipe = tmp_path / "state", dit_pipeline()
    mask = learn(pipe, 3, 0.8, objective=partial(brightness), resume=path, **QUICK)
    calls = count_calls(pipe)
    assert learn(pipe, 3, 0.8, objective=partial(brightness), resume=path, **QUICK) == mask
    assert len(calls) == 3, "one full run, to see that the objective does what it did"
    with pytest.raises(StepMaskError, match="belongs to another search"):
        learn(pipe, 3, 0.8, objective=torch.abs, resume=path, **QUICK)


def test_the_state_of_another_search_is_refused(tmp_path):
    path = tmp_path / "state"
    learn(dit_pipeline(), 3, 0.8, resume=path, **QUICK)
    content = path.read_bytes()
    for make, steps, target, options in [
        (partial(dit_pipeline, seed=1), 3, 0.8, {}),
        (dit_pipeline, 4, 0.8, {}),
        (dit_pipeline, 3, 0.7, {}),
        (dit_pipeline, 3, 0.8, {"seed": 1}),
        (dit_pipeline, 3, 0.8, {"forecast": False}),
        (dit_pipeline, 3, 0.8, {"call_kwargs": GUIDED}),
    ]:
        with pytest.raises(StepMaskError, match="belongs to another search"):
            learn(make(), steps, target, resume=path, **{**QUICK, **options})
    assert path.read_bytes() == content


# --- families


def test_a_family(tmp_path):
    pipe, targets = ddim_pipeline(), (0.45, 0.7)
    family = learn_family(pipe, STEPS, targets, **QUICK)
    costs, psnrs = [m.macs for m in family], [m.psnr for m in family]
    assert costs == sorted(costs, reverse=True) and psnrs == sorted(psnrs, reverse=True)
    for member in family:
        assert member.macs == pytest.approx(cost_of(member.mask, pipe), abs=1e-6)
        assert member.psnr == member.mask.provenance["psnr"]["mean"]
    assert family.at(0.6) is family.at(0.6) and cost_of(family.at(0.6), pipe) <= 0.6
    cheapest = min(family, key=lambda m: m.macs)
    assert cheapest.macs <= 0.45 and family.at(0.45) == cheapest.mask
    family.save(tmp_path / "family.json")
    assert stepmask.MaskFamily.load(tmp_path / "family.json") == family


def test_a_family_is_learned_end_to_end():
    with pytest.raises(StepMaskError, match="families are learned end to end"):
        learn_family(dit_pipeline(), STEPS, config=LearnConfig())
    with pytest.raises(TargetError, match="cannot be reached"):
        learn_family(dit_pipeline(), STEPS, (0.7, 0.05), **QUICK)
    with pytest.raises(TargetError, match="at least one share"):
        learn_family(dit_pipeline(), STEPS, (), **QUICK)


# --- what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_macs": 0.6, "target_speedup": 2.0}, "one of target_macs, target_speedup, .*got target_macs, target_"),
        ({"target_speedup": 2.0, "min_psnr": 40}, "got target_speedup, min_psnr"),
        ({"target_macs": None}, "got none"),
        ({"target_macs": 0}, r"in \(0, 1\]"),
        ({"target_macs": 1.2}, r"in \(0, 1\]"),
        ({"target_macs": "half"}, r"in \(0, 1\].*'half'"),
        ({"target_macs": 0.05}, "target_macs=0.05 cannot be reached"),
        ({"target_speedup": 0.5}, "target_speedup is a factor of at least 1"),
        ({"target_speedup": float("nan")}, "target_speedup is a factor"),
        ({"target_speedup": "fast"}, "target_speedup is a factor"),
        ({"min_psnr": -3}, "min_psnr is in dB"),
        ({"min_psnr": "good"}, "min_psnr is in dB"),
        ({"max_cache_bytes": 0}, "max_cache_bytes must be a positive number"),
        ({"max_cache_bytes": "1 GB"}, "max_cache_bytes must be a positive number"),
        ({"method": "best"}, "method must be one of global, per-step, paper, .*got 'best'"),
        ({"num_trajectories": 3}, r"method='global' has no option 'num_trajectories'; there are rounds, "),
        ({"rounds": -1}, "rounds must be a number between"),
        ({"num_probes": 2.5}, "num_probes must be a whole number"),
        ({"shrink": True}, "shrink must be a number"),
        ({"objective": 3}, "objective must be a function"),
        ({"config": GlobalConfig(), "rounds": 2}, r"not both \(rounds\)"),
        ({"config": GlobalConfig(), "method": "paper"}, "takes a LearnConfig, got GlobalConfig"),
        ({"method": "paper", "min_psnr": 40}, 'min_psnr needs method="global"'),
        ({"method": "per-step", "max_cache_bytes": 10**6}, 'max_cache_bytes needs method="global"'),
        ({"config": LearnConfig(), "target_speedup": 2.0}, 'target_speedup needs method="global"'),
    ],
)
def test_requests_that_make_no_sense(options, message):
    with pytest.raises(StepMaskError, match=message):
        learn(dit_pipeline(), STEPS, **{"progress": False, **options})


@pytest.mark.parametrize("steps", [0, 2.5, "50", True])
def test_impossible_numbers_of_steps(steps):
    for kind in (learn, learn_family):
        with pytest.raises(StepMaskError, match="num_inference_steps must be a whole number"):
            kind(dit_pipeline(), steps, **QUICK)


def test_models_that_cannot_be_learned_for():
    pipe = ddim_pipeline()
    mask = learn(pipe, 3, 0.8, **QUICK)
    with stepmask.apply(pipe, mask), pytest.raises(StepMaskError, match=r"a mask is applied.*remove it"):
        learn(pipe, 3, 0.8, **QUICK)
    pipe.enable_model_cpu_offload(device="cpu")
    with pytest.raises(UnsupportedModelError, match="offloaded: learn before"):
        learn(pipe, 3, 0.8, **QUICK)
    pipe = dit_pipeline()
    pipe.transformer.compile()
    with pytest.raises(UnsupportedModelError, match="compiled"):
        learn(pipe, 3, 0.8, **QUICK)


def test_a_denoiser_without_gradient():
    pipe = dit_pipeline()
    pipe.transformer.proj_out_2.register_forward_hook(lambda module, args, output: output.detach())
    before = snapshot(pipe.transformer)
    with pytest.raises(UnsupportedModelError, match="no gradient reaches the output of DiTTransformer2DModel"):
        learn(pipe, 3, 0.8, **QUICK)
    assert_unchanged(pipe.transformer, before)


# --- progress


def test_the_callback_sees_every_round(capsys):
    seen = []
    mask = learn(ddim_pipeline(), STEPS, 0.6, callback=seen.append, **QUICK)
    assert len(seen) >= 2 and all(report.target == 0.6 for report in seen)
    assert seen[-1].best.cost <= 0.6 and seen[-1].best.actions.tolist() == mask.actions.tolist()
    assert capsys.readouterr() == ("", "")
    learn(dit_pipeline(), 3, 0.8, **{**QUICK, "progress": True})
    captured = capsys.readouterr()
    assert "selecting" in captured.out + captured.err


# --- what is broken


def test_a_table_whose_images_are_broken_never_wins(monkeypatch):
    """As forecasts that overflow in float16 would break them."""
    plain, seen = Noise.images, []

    def images(self, *numbers):
        found = plain(self, *numbers)
        applied = is_applied(denoiser_of(self.pipe))
        if applied and len(seen) < 12:
            seen.append(1)
            return torch.full_like(found, torch.nan)
        return found

    monkeypatch.setattr(Noise, "images", images)
    mask = learn(dit_pipeline(), STEPS, 0.6, **QUICK)
    assert len(seen) == 12 and np.isfinite(mask.provenance["psnr"]["mean"])


def test_images_one_after_the_other(tmp_path):
    """The same search, at less memory and more calls, and an interrupted one may go on so."""
    config = GlobalConfig(num_probes=3, num_validation=3, images_per_call=2)
    searches = [
        Selecting(dit_pipeline(), STEPS, Asked(target_macs=0.6), 0, GUIDED, one, None)
        for one in (config, replace(config, images_per_call=None))
    ]
    table = Table(fora(dit_pipeline(), STEPS, 2, forecast="linear").actions)
    in_parts, at_once = (search.judge.probe(table, 0) for search in searches)
    np.testing.assert_allclose(in_parts.linear, at_once.linear, rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(in_parts.square, at_once.square, rtol=1e-3)
    assert in_parts.projections.shape == at_once.projections.shape and in_parts.size == at_once.size
    np.testing.assert_allclose(*(search.judge.psnrs(table) for search in searches), rtol=1e-3)
    path = tmp_path / "state"
    mask = learn(dit_pipeline(), STEPS, 0.6, resume=path, **QUICK)
    assert np.array_equal(
        learn(dit_pipeline(), STEPS, 0.6, resume=path, images_per_call=1, **QUICK).actions, mask.actions
    )
    with pytest.raises(StepMaskError, match="images_per_call must be a whole number"):
        learn(dit_pipeline(), STEPS, 0.6, images_per_call=0, **QUICK)


def test_a_full_run_that_is_broken_is_refused(monkeypatch):
    plain = Noise.images
    monkeypatch.setattr(Noise, "images", lambda self, *numbers: plain(self, *numbers) / 0)
    with pytest.raises(StepMaskError, match="the full run makes NaN or infinite values"):
        learn(dit_pipeline(), STEPS, 0.6, **QUICK)


def test_effects_that_overflow_are_the_worst():
    effects = np.array([0.0, -2.0, np.nan, np.inf, 0.5])
    assert _overflow_as_worst(effects).tolist() == [0.0, -2.0, 2000.0, 2000.0, 0.5]
    assert _overflow_as_worst(effects[:2]).tolist() == [0.0, -2.0]


def test_a_search_may_go_on_with_other_held_back_images(tmp_path):
    """They and where values wait say nothing about the way of the search, and may be what it broke on."""
    path, pipe = tmp_path / "state", dit_pipeline()
    mask = learn(pipe, STEPS, 0.6, resume=path, **QUICK)
    calls = count_calls(pipe)
    again = learn(pipe, STEPS, 0.6, resume=path, **{**QUICK, "num_held_back": 7, "offload": True})
    assert np.array_equal(again.actions, mask.actions) and again.provenance["psnr"]["held_back_images"] == 7
    assert len(calls) <= 2 * STEPS * 3, "three parts, full and masked"


def test_a_table_that_meets_the_target_is_taken_however_small_the_last_step(monkeypatch):
    """From key steps just above a target, one round may save less than half a percent, and that is enough."""
    selecting = Selecting(dit_pipeline(), STEPS, Asked(target_macs=0.6), 0, None, GlobalConfig(rounds=0), None)
    search = selecting.search
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
    search = Selecting(dit_pipeline(), STEPS, Asked(target_macs=0.6), 0, None, GlobalConfig(rounds=0), None).search
    base = Candidate(Table(np.ones((STEPS, 1))), 0.8, np.full(3, start), "")
    monkeypatch.setattr(search, "_round", lambda base, level, *_: Round(0.6, level, base, predicted, true))
    assert [one.level for one in search._tries(base, 0.7, 0.6)] == [0.7] * rounds
