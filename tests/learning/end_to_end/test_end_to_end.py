"""The default way to learn, on tiny random models: targets of all kinds, what a mask says of itself, seeds, flags."""

import json
import re
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

import stepmask
from fakes import TwoCalls, assert_unchanged, snapshot
from gate import in_gate
from refusal import check_refused
from stepmask import MaskFamily, StepMask, describe, learn, learn_family, make_plan, measure_cost
from stepmask.errors import StepMaskError, TargetError
from stepmask.evaluation import evaluation_seeds
from stepmask.inspection.registry import denoiser_of
from stepmask.learning import EndToEnd
from stepmask.learning.end_to_end.outcome import student_t_95
from stepmask.learning.end_to_end.search.portfolio import coarse_steps, portfolio
from stepmask.learning.job import Spent
from stepmask.mask import Action, scheduler_identity
from stepmask.runtime.noise import Noise
from tiny import ddim_pipeline, ddpm_pipeline, dit_pipeline, generator, tiny_model

STEPS, TARGET = 5, 0.6
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


class Learned:
    """One run of each case, which several tests look at: the mask, the reports, the seeds of all noise."""

    def __init__(self, name: str) -> None:
        self.pipe, scheduler, self.call_kwargs = CASES[name]()
        self.scheduler = scheduler or self.pipe.scheduler
        self.reports, self.seeds = [], []
        self.before = snapshot(denoiser_of(self.pipe))

        def conditions(noise, numbers, seeds, original=Noise._conditions):
            self.seeds.extend(seeds)
            return original(noise, numbers, seeds)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Noise, "_conditions", conditions)
            options = {"scheduler": scheduler, "call_kwargs": self.call_kwargs, "seed": 3, **QUICK}
            self.mask = learn(self.pipe, STEPS, TARGET, callback=self.reports.append, **options)

    def psnrs(self, mask: StepMask, first: int, count: int) -> np.ndarray:
        """PSNR in dB of numbered images, by plain runs."""
        noise = Noise(self.pipe, STEPS, 3, self.call_kwargs)
        full = noise.images(first, count)
        with stepmask.apply(self.pipe, mask):
            return np.minimum(noise.psnrs(noise.images(first, count), full), 80)


@pytest.fixture(scope="module")
def learned():
    made = {}
    return lambda name: made[name] if name in made else made.setdefault(name, Learned(name))


def cost_of(mask: StepMask, pipe, call_kwargs=None) -> float:
    return measure_cost(pipe, call_kwargs=call_kwargs).fraction(make_plan(mask, describe(pipe)))


def assert_cost(mask: StepMask, pipe, target: float, call_kwargs=None) -> None:
    """At most `target`, and near it; on random weights a table that costs less may be the better one."""
    assert 0.7 * target <= cost_of(mask, pipe, call_kwargs) <= target + 1e-9


# --- targets


@pytest.mark.parametrize("name", in_gate(CASES, "DDIMPipeline", "DiTPipeline, scale 2"))
def test_every_pipeline_meets_its_target(name, learned):
    case = learned(name)
    mask, call = case.mask, case.call_kwargs
    assert_unchanged(denoiser_of(case.pipe), case.before)
    graph = describe(case.pipe)
    assert mask.compute.shape == (STEPS, len(graph)) and mask.compute[0].all() and mask.sites == graph.names
    assert mask.graph == graph.fingerprint and mask.scheduler == scheduler_identity(case.scheduler)
    assert list(mask.timesteps) == [float(t) for t in case.scheduler.timesteps]
    assert_cost(mask, case.pipe, TARGET, call)
    assert mask.provenance["macs"] == pytest.approx(cost_of(mask, case.pipe, call), abs=1e-6)
    assert mask.provenance["method"] == "end-to-end" and mask.provenance["asked"] == {"target_macs": TARGET}


@pytest.mark.parametrize("name", [pytest.param("DDIMPipeline", marks=pytest.mark.slow), "DiTPipeline, scale 2"])
def test_no_schedule_within_the_target_is_better_on_the_validation_noise(name, learned):
    case = learned(name)
    cost = partial(cost_of, pipe=case.pipe, call_kwargs=case.call_kwargs)
    inputs = describe(case.pipe), case.mask.timesteps, (Action.hold, Action.linear)
    rivals = [*portfolio(*inputs), *coarse_steps(*inputs, TARGET, cost)]
    within = [rival for rival in rivals if cost(rival) <= TARGET]
    reached = case.psnrs(case.mask, 0, 3).mean()
    assert len(within) > 3 and max(case.psnrs(rival, 0, 3).mean() for rival in within) <= reached + 0.01
    assert reached == pytest.approx(case.mask.provenance["psnr"]["validation_mean"], abs=0.01)


def test_without_forecasts_masks_are_binary_and_without_gains_none_are_learned():
    pipe = dit_pipeline()
    mask = learn(pipe, STEPS, TARGET, forecast=False, **QUICK)
    assert mask.is_binary
    assert_cost(mask, pipe, TARGET)
    assert learn(pipe, 3, 0.8, **{**QUICK, "gains": 0}).gains is None
    assert learn(pipe, 3, 0.8, channel_gains=False, **{**QUICK, "gains": 4}).channel_gains is None


@pytest.mark.parametrize(("steps", "target"), [(1, 1.0), (2, 0.8), (3, 1.0)])
def test_very_few_steps(steps, target):
    pipe = dit_pipeline()
    mask = learn(pipe, steps, target, **QUICK)
    assert mask.num_rows == steps and cost_of(mask, pipe) <= target


def test_a_configuration_is_single_options():
    single = {name: value for name, value in QUICK.items() if name != "progress"}
    by_name, given = (
        learn(dit_pipeline(), 3, 0.8, progress=False, **options)
        for options in ({"method": "end-to-end", **single}, {"method": EndToEnd(**single)})
    )
    assert by_name == given


@pytest.mark.slow
def test_a_speed_up(monkeypatch, tmp_path):
    def fixed(description, *_):  # measured ones depend on what else the machine does
        return np.linspace(1.0, 2.0, len(description.graph)), 1.0

    monkeypatch.setattr("stepmask.inspection.measure_cost._time_sites", fixed)
    options = {"target_speedup": 1.3, "resume": tmp_path / "state", **QUICK}
    mask = learn(dit_pipeline(), STEPS, **options)
    assert mask.provenance["asked"] == {"target_speedup": 1.3}
    assert mask.provenance["cost"] <= 1 / 1.3 and mask.provenance["cost"] != mask.provenance["macs"]
    monkeypatch.setattr("stepmask.inspection.measure_cost._time_sites", None)
    assert learn(dit_pipeline(), STEPS, **options) == mask, "measured again, latencies would differ: they are kept"


@pytest.mark.parametrize(("limits", "far"), [
    ({"target_macs": 0.7, "target_speedup": 1.5}, {"target_speedup": 1.0}),
    pytest.param({"target_macs": 0.6, "target_speedup": 1.3}, {"target_macs": 1.0}, marks=pytest.mark.slow),
])  # fmt: skip
def test_a_speed_up_beside_a_share_of_the_macs(limits, far, monkeypatch, tmp_path):
    """Each of the two is not kept where it is not asked for."""
    asked_for = []

    def fixed(description, batch_size, *_):  # much time is spent outside of all sites
        asked_for.append(batch_size)
        return np.full(len(description.graph), 4.0), 12.0

    monkeypatch.setattr("stepmask.inspection.measure_cost._time_sites", fixed)
    options = {"coarse": False, "speed_batch_size": 2, **QUICK}
    both = learn(dit_pipeline(), STEPS, **limits, resume=tmp_path / "state", **options).provenance
    one = learn(dit_pipeline(), STEPS, **{**limits, **far}, **options).provenance
    macs, share = limits["target_macs"], 1 / limits["target_speedup"]
    rounding = 1e-6
    assert both["macs"] <= macs + rounding and both["latency"]["share"] <= share + rounding
    passed = one["latency"]["share"] - share if "target_speedup" in far else one["macs"] - macs
    assert passed > 0.01
    assert both["asked"] == limits and both["latency"]["batch_size"] == 2
    assert asked_for == [4, 4], "two images, each with guidance"
    assert both["latency"]["full_step_ms"] == 6 * 4 + 12
    tightest = min(macs, share)
    cost = max(both["macs"] * tightest / macs, both["latency"]["share"] * tightest / share)
    assert both["cost"] == pytest.approx(cost, abs=2e-6)
    with pytest.raises(StepMaskError, match=r"another run .*goals\.target_macs was 0.*, now None"):
        learn(dit_pipeline(), STEPS, target_speedup=1.5, resume=tmp_path / "state", **options)


def test_latencies_without_room_for_so_many_images(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("stepmask.inspection.measure_cost._time_sites", full)
    says = "no room for 16 images at once.* give speed_batch_size"
    check_refused(says, learn, dit_pipeline(), STEPS, target_speedup=1.5, **QUICK)


@pytest.mark.slow
def test_a_psnr(learned):
    case = learned("DDIMPipeline")
    wanted = case.mask.provenance["psnr"]["mean"] - 3
    mask = learn(case.pipe, STEPS, min_psnr=wanted, seed=3, **{**QUICK, "rounds": 0, "num_moves": 0})
    assert mask.provenance["psnr"]["mean"] >= wanted and mask.provenance["macs"] < 1
    assert mask.provenance["asked"] == {"min_psnr": wanted}


def test_what_is_out_of_reach():
    with pytest.raises(TargetError, match=r"min_psnr=79\.9 was not reached"):
        learn(ddim_pipeline(), 3, min_psnr=79.9, **{**QUICK, "rounds": 0})
    check_refused(
        "ask for more of the", learn, dit_pipeline(), STEPS, 0.5, max_cache_bytes=1, **QUICK, error=TargetError
    )
    with pytest.raises(TargetError, match=r"target_macs=0\.05 cannot be reached"):
        learn(dit_pipeline(), STEPS, 0.05, target_speedup=1.1, **QUICK)
    with pytest.raises(TargetError, match=r"target_speedup=50 cannot be reached: .* \d\.\d\d times as fast"):
        learn(dit_pipeline(), STEPS, target_speedup=50.0, **QUICK)


@pytest.mark.parametrize("name", [pytest.param("DDIMPipeline", marks=pytest.mark.slow), "DiTPipeline, scale 2"])
def test_a_limit_of_the_cache(name, learned):
    case = learned(name)
    pipe, free = case.pipe, case.mask.provenance["cache_bytes_per_image"]
    limit = int(0.8 * free)
    mask = learn(pipe, STEPS, TARGET, max_cache_bytes=limit, call_kwargs=case.call_kwargs, **QUICK)
    recorded = mask.provenance["cache_bytes_per_image"]
    call = {"batch_size": 3} if name == "DDIMPipeline" else {"class_labels": [1, 2, 3], **GUIDED}
    with stepmask.apply(pipe, mask) as run:
        pipe(generator=generator(), num_inference_steps=STEPS, output_type="pt", **call)
        assert run.summary().peak_cache_bytes / 3 == recorded <= limit < free
    assert cost_of(mask, pipe, case.call_kwargs) <= TARGET


# --- what a mask says of itself


@pytest.mark.parametrize("name", ["DDIMPipeline", "DiTPipeline, scale 2"])
def test_what_is_reported_was_measured_on_other_noise(name, learned):
    case = learned(name)
    record, noise = case.mask.provenance, Noise(case.pipe, STEPS, 3)
    psnrs = case.psnrs(case.mask, 20_000, 2)
    assert record["psnr"]["mean"] == pytest.approx(psnrs.mean(), abs=0.01)
    assert record["psnr"]["worst"] == pytest.approx(psnrs.min(), abs=0.01)
    low, high = record["psnr"]["confidence_95"]
    two_sided = 12.706  # Student's t of one degree of freedom
    assert high - low == pytest.approx(2 * two_sided * psnrs.std(ddof=1) / 2**0.5, abs=0.02)
    assert low <= record["psnr"]["mean"] <= high and record["psnr"]["held_back_images"] == 2
    assert json.loads(json.dumps(record)) == record and record["seed"] == 3
    first, last = record["noise_seeds"]
    assert first == min(case.seeds) and max(case.seeds) <= last, "all noise that was used"
    assert first <= noise.seeds(20_000, 2)[0] <= last
    check_refused("used to learn", evaluation_seeds, [first], case.mask)


@pytest.mark.parametrize(("degrees", "quantile"), [(1, 12.706), (4, 2.776), (5, 2.571), (15, 2.131), (100, 1.984)])
def test_quantiles_of_students_t(degrees, quantile):
    assert student_t_95(degrees) == pytest.approx(quantile, abs=5e-3)


def test_the_callback_sees_every_round(learned, capsys):
    case = learned("DDIMPipeline")
    assert len(case.reports) >= 2 and all(report.target == TARGET for report in case.reports)
    assert case.reports[-1].best.cost <= TARGET
    assert case.reports[-1].best.actions.tolist() == case.mask.actions.tolist()
    assert "at 60%: best" in str(case.reports[-1])
    learn(dit_pipeline(), 3, 0.8, **QUICK)
    assert capsys.readouterr() == ("", "")
    learn(dit_pipeline(), 3, 0.8, **{**QUICK, "progress": True})
    captured = capsys.readouterr()
    assert "selecting took" in captured.err and "selecting 1/" not in captured.err and captured.out == ""


def test_without_a_terminal_lines_say_how_far_it_is(monkeypatch, capsys):
    monkeypatch.setattr("stepmask.learning.job.SECONDS_BETWEEN_LINES", -1)
    learn(dit_pipeline(), 3, 0.8, **{**QUICK, "progress": True})
    assert re.search(r"selecting 1/\d+: .*; \S+ seconds of about \S+ \w+\n", capsys.readouterr().err)


def test_a_bar_says_how_long_it_takes():
    assert Spent(456.0).render(SimpleNamespace(elapsed=192.0)).plain == "3.2 minutes of about 7.6 minutes"
    assert Spent(0.0).words(12.0) == "12 seconds"


# --- seeds, modes, flags


@pytest.mark.slow
def test_the_same_seed_gives_the_same_mask(learned):
    """With a sampler that draws noise at every step; under a caller's inference mode."""
    first, pipe = learned("DDPMPipeline").mask, ddpm_pipeline()  # whose weights must not be inference tensors
    torch.manual_seed(2)
    with torch.inference_mode():
        assert learn(pipe, STEPS, TARGET, seed=3, **QUICK) == first
        assert torch.is_inference_mode_enabled()
    expected = torch.rand(3)
    torch.manual_seed(2)
    assert torch.equal(torch.rand(3), expected), "the global random state is left alone"
    assert learn(dit_pipeline(), 3, 0.9, seed=5, **QUICK).provenance["noise_seeds"] != first.provenance["noise_seeds"]


def test_flags_of_the_model_are_put_back():
    pipe = dit_pipeline()
    pipe.transformer.train()
    pipe.transformer.enable_gradient_checkpointing()
    for index, parameter in enumerate(pipe.transformer.parameters()):
        parameter.requires_grad_(index % 2 == 0)
    before = snapshot(pipe.transformer), snapshot(pipe.vae)
    mask = learn(pipe, 3, 0.8, **QUICK)
    again = learn(pipe, 3, 0.8, gradient_checkpointing=True, **QUICK)
    assert_unchanged(pipe.transformer, before[0])
    assert_unchanged(pipe.vae, before[1])
    assert mask == learn(dit_pipeline(), 3, 0.8, **QUICK)
    assert np.array_equal(mask.actions, again.actions) and mask.provenance["psnr"] == again.provenance["psnr"]


def test_a_bfloat16_model():
    pipe = dit_pipeline().to(torch.bfloat16)
    assert_cost(learn(pipe, 3, 0.8, **QUICK), pipe, 0.8)


# --- objective


def test_an_objective_is_asked_with_gradient_and_judges_the_candidates():
    """By the first row of the first channel alone, what happens to the others is no matter."""
    seen, rounds = [], []

    def first_row(images):
        images.requires_grad and images.register_hook(seen.append)
        return images[:, :1, :1]

    pipe = ddim_pipeline()
    mask = learn(pipe, STEPS, TARGET, objective=first_row, callback=rounds.append, **QUICK)
    for gradient in seen:
        assert gradient[:, :1, :1].any() and not gradient[:, 1:].any() and not gradient[:, :, 1:].any()
    assert seen and mask.provenance["config"]["objective"] == "given"
    assert "validation_mean" not in mask.provenance["psnr"]
    best, noise = rounds[-1].best, Noise(pipe, STEPS, seed=0)
    every = StepMask(compute=np.ones(best.actions.shape), sites=describe(pipe).names, timesteps=noise.timesteps())
    wanted = noise.images(0, len(best.psnrs))
    with stepmask.apply(pipe, every.with_actions(best.actions, **best.table.forecasting)):
        error = noise.images(0, len(best.psnrs)) - wanted
    size, error = (first_row(images).square().sum((1, 2, 3)) for images in (wanted, error))
    assert error.min() > 0 and best.psnrs == pytest.approx((10 * (size / error).log10()).numpy(), rel=1e-3)


# --- families


def test_a_family(tmp_path):
    pipe, targets = dit_pipeline(), (0.45, 0.7)
    family = learn_family(pipe, STEPS, targets, **{**QUICK, "num_moves": 0})
    costs, psnrs = [m.macs for m in family], [m.psnr for m in family]
    assert costs == sorted(costs, reverse=True) and psnrs == sorted(psnrs, reverse=True)
    for member in family:
        assert member.macs == pytest.approx(cost_of(member.mask, pipe), abs=1e-6)
        assert member.psnr == member.mask.provenance["psnr"]["mean"]
        assert member.mask.provenance["asked"] == {"targets": list(targets)}
    assert family.at(0.6) is family.at(0.6) and cost_of(family.at(0.6), pipe) <= 0.6
    cheapest = min(family, key=lambda m: m.macs)
    assert cheapest.macs <= 0.45 and family.at(0.45) == cheapest.mask
    family.save(tmp_path / "family.json")
    assert MaskFamily.load(tmp_path / "family.json") == family
    check_refused("cannot be reached", learn_family, pipe, STEPS, (0.7, 0.05), **QUICK, error=TargetError)
