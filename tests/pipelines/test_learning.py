"""Learning and evaluation inside pipelines that need conditions: a gradient comes back through their loops."""

import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from cases import BY_NAME, FORWARDS, flux_texts
from diffusers import FirstBlockCacheConfig
from more_transformers import TRANSFORMERS
from runs import random_actions, with_guidance_ended
from torch.autograd.graph import saved_tensors_hooks

import stepmask
import tiny
from gate import in_gate
from refusal import check_refused
from stepmask import UnsupportedModelError, measure_cost, schedules
from stepmask.inspection import first_step as capture
from stepmask.inspection.overrides import without_decoder
from stepmask.inspection.pipeline_call import PipelineCall
from stepmask.inspection.registry import denoiser_of
from stepmask.learning import EndToEnd, interception
from stepmask.learning.end_to_end.gradients.chain import Chain
from stepmask.learning.end_to_end.gradients.probe import forth_and_back
from stepmask.runtime.sampling import sample, timesteps_of_run

FEW = {**tiny.FEW, "rounds": 1, "num_projections": 1, "progress": False}
WAN = BY_NAME["Wan"]
LEARNED = ["Stable Diffusion", "Stable Diffusion 3", "Flux, true guidance", "Wan", "LTX-Video, from an image"]
FURTHER = ("Stable Diffusion 3", "Flux, true guidance", "LTX-Video, from an image")


@pytest.mark.filterwarnings("error:.*timesteps differ")
@pytest.mark.parametrize("case", [
    pytest.param(BY_NAME[name], marks=pytest.mark.slow if name in FURTHER else [])
    for name in LEARNED
], ids=LEARNED)  # fmt: skip
@pytest.mark.shows("guidance in one batch, in two calls, embedded", learn="verified")
def test_learn_and_evaluate(case):
    case = replace(case, steps=3)
    pipe, inputs = case.build(), case.arguments(3)
    mask = stepmask.learn(pipe, case.steps, 0.6, call_kwargs=inputs, **FEW)
    assert 0 < (~mask.compute[1:]).sum() and mask.provenance["psnr"]["mean"] > 20
    made = case.run(pipe)
    result = stepmask.evaluate(pipe, mask, seeds=3, call_kwargs=inputs, batch_size=3, speed=False)
    assert result.macs_fraction <= 0.6 and result.full.shape[1:] == made.shape[1:]
    assert result.psnr.mean > 20 and not torch.equal(result.full, result.masked)


@pytest.mark.shows("second-order schedulers, late starts, timesteps of your own", learn="verified for late starts")
def test_evaluation_of_a_late_start_counts_what_ran():
    case = BY_NAME["Stable Diffusion, image to image"]
    pipe, inputs = case.build(), case.arguments(2)
    mask = schedules.fora(pipe, case.steps, interval=case.steps)
    result = stepmask.evaluate(pipe, mask, seeds=2, call_kwargs=inputs, speed=False)
    ran = case.steps - case.start
    cost = measure_cost(pipe, call_kwargs=inputs)
    assert result.rows == ran and result.full_macs_per_image == ran * cost.step_macs
    with stepmask.apply(pipe, mask) as run:
        case.run(pipe)
        assert result.macs_fraction == cost.fraction(run.ran) == run.summary().macs_fraction > 1 / ran


def test_learn_where_pictures_are_made_with_numpy():
    case = replace(BY_NAME["Stable Diffusion, T2I-Adapter"], steps=2)
    assert stepmask.learn(case.build(), case.steps, 0.6, call_kwargs=case.arguments(2), **FEW).num_rows == case.steps


@pytest.mark.parametrize("name", ["Stable Diffusion, image to image", "PixArt-Sigma"])
def test_the_paper_s_learner(name):
    """It takes late starts too; prompts are gone through again and again."""
    case = BY_NAME[name]
    pipe = case.build()
    inputs = case.arguments(3)
    mask = stepmask.learn(
        pipe, case.steps, 0.7, method="paper", call_kwargs=inputs, num_trajectories=2, batch_size=2, progress=False
    )
    with stepmask.apply(pipe, mask):
        assert case.run(pipe).isfinite().all()


@pytest.mark.shows("a further call at some steps (skip-layer guidance)", learn="by runs alone, with a warning")
def test_where_calls_do_not_follow_from_each_other_learning_goes_by_runs():
    """A run with a third call at some steps."""
    case = BY_NAME["Stable Diffusion 3"]
    third = {"skip_guidance_layers": [1, 1], "skip_layer_guidance_stop": 0.6}
    with pytest.warns(UserWarning, match="by runs alone"):
        stepmask.learn(case.build(), 6, 0.6, call_kwargs=case.arguments(2) | third, **FEW)


PARTS = {
    "a late start": (replace(BY_NAME["Stable Diffusion, image to image"], steps=10), range(4, 10)),
    "an early end": (replace(BY_NAME["Stable Diffusion XL"], steps=10, options={"denoising_end": 0.6}), range(6)),
}


@pytest.mark.parametrize(("part", "method"), [
    *in_gate([(part, method) for part in PARTS for method in ("end-to-end", "paper", "ecad")],
    ("a late start", "end-to-end")),
])  # fmt: skip
def test_the_budget_is_that_of_the_rows_that_run(part, method):
    case, rows = PARTS[part]
    options = {
        "end-to-end": {**tiny.FEWEST, "rounds": 1, "num_projections": 1, "progress": False},
        "paper": {"num_trajectories": 2, "batch_size": 2, "progress": False},
        "ecad": {"population": 4, "generations": 1, "num_calibration": 2, "num_checked": 2, "progress": False},
    }[method]
    pipe = case.build()
    mask = stepmask.learn(pipe, case.steps, 0.6, method=method, call_kwargs=case.arguments(2), **options)
    assert mask.num_rows == 10 and mask.provenance["rows_run"] == [rows[0], rows[-1]]
    assert mask.compute[[row for row in range(10) if row not in rows[1:]]].all()
    with stepmask.apply(pipe, mask) as run:
        case.run(pipe)
        summary = run.summary()
    assert summary.rows == len(rows)
    assert summary.macs_fraction == pytest.approx(mask.provenance["macs"], abs=0.005) and summary.macs_fraction <= 0.6
    if method == "end-to-end":
        again = stepmask.learn(
            pipe, case.steps, 0.8, call_kwargs=case.arguments(2), start=mask, **{**options, "rounds": 0}
        )
        assert again.num_rows == 10 and again.provenance["started_from_masks"] == 1


@pytest.mark.shows("guidance that ends in mid-run", learn="by runs alone, with a warning")
def test_rows_that_do_not_cost_alike_are_counted_as_they_run():
    case = replace(with_guidance_ended(BY_NAME["Stable Diffusion"]), steps=6)
    pipe, inputs = case.build(), case.arguments(1)
    with pytest.warns(UserWarning, match="1 to 2 inputs and begin anew at row 2 .*by runs alone"):
        mask = stepmask.learn(pipe, case.steps, 0.7, call_kwargs=inputs, **FEW)
    assert mask.compute[[0, 2]].all() and not mask.compute.all() and mask.provenance["macs"] <= 0.7
    cost, weights = measure_cost(pipe, call_kwargs=inputs), [2, 2, 1, 1, 1, 1]
    modules = tiny.modules_of(stepmask.describe(pipe))
    with tiny.count_computes(denoiser_of(pipe), modules) as computed, stepmask.apply(pipe, mask) as run:
        case.run(pipe, batch=1)
        assert run.ran.inputs.tolist() == weights and run.summary().rows == 6
        assert run.summary().macs_fraction == pytest.approx(mask.provenance["macs"], abs=1e-6)
    sites, always = cost.shares()
    rows = np.average(run.ran.called, axis=0, weights=weights)
    assert len(computed) == run.ran.called[:, [site.kind != "stack" for site in run.ran.graph.sites]].sum()
    assert mask.provenance["macs"] == pytest.approx(rows @ sites + always, abs=1e-6)
    result = stepmask.evaluate(pipe, mask, seeds=1, call_kwargs=inputs, speed=False)
    assert result.macs_fraction == pytest.approx(mask.provenance["macs"], abs=1e-6)
    assert result.full_macs_per_image == 4 * cost.step_macs
    check_refused("rows to cost alike", stepmask.learn, pipe, 6, 0.7, method="paper", call_kwargs=inputs)


# --- latents


@pytest.mark.parametrize("name", ["Stable Diffusion", "Sana", "Wan", "LTX-Video"])
def test_latents_are_those_of_the_pipeline(name):
    """Also of decoders that run once for every few frames, and where slices and tiles are wanted."""
    case = BY_NAME[name]
    pipe = case.build()
    pipe.vae.enable_slicing()
    plain = case.run(pipe)
    wanted = replace(case, options={**case.options, "output_type": "latent"}).run(pipe)
    with without_decoder(pipe) as latents:
        case.run(pipe)
    assert latents[0].shape[0] == 2 and latents[0][0].numel() == wanted[0].numel()
    assert pipe.vae.use_slicing and torch.equal(case.run(pipe), plain)


def test_a_decoder_of_the_users_own_comes_back():
    """As `vae.decode = torch.compile(vae.decode)` leaves one."""
    pipe = WAN.build()
    own = pipe.vae.decode = lambda *args, **kwargs: type(pipe.vae).decode(pipe.vae, *args, **kwargs)
    with without_decoder(pipe):
        assert pipe.vae.decode is not own
    assert pipe.vae.decode is own


def test_samples_of_pipelines():
    pipe = WAN.build()
    videos = sample(pipe, WAN.arguments(2), [0, 1], WAN.steps)
    assert videos.shape == (2, 5, 3, 16, 16) and 0 <= videos.min() < videos.max() <= 1
    latents = sample(pipe, WAN.arguments(2) | {"output_type": "latent"}, [0, 1], WAN.steps)
    assert latents.shape == (2, 4, 2, 2, 2) and latents.min() < 0


# --- timesteps


@pytest.mark.parametrize("name", ["Stable Diffusion", "Flux, true guidance"])
def test_timesteps_of_a_run_without_the_run(name):
    case = BY_NAME[name]
    pipe = case.build()
    calls = []
    hook = pipe.vae.decoder.register_forward_pre_hook(lambda *_: calls.append("decoded"))
    found = timesteps_of_run(pipe, case.arguments(1), [0], case.steps)
    hook.remove()
    assert not calls
    case.run(pipe)
    assert found == pipe.scheduler.timesteps.tolist()


@pytest.mark.parametrize("most", [1.5, 1.57080])
def test_timesteps_that_the_call_says(most):
    """SCM has an intermediate timestep of its own, for two steps alone."""
    case = next(one for one in TRANSFORMERS if one.name == "SanaSprintPipeline")
    pipe, given = case.build(), case.arguments(1) | {"max_timesteps": most}
    found = timesteps_of_run(pipe, given, [0], case.steps)
    sample(pipe, given, [0], case.steps)
    assert found == pipe.scheduler.timesteps.tolist() and found[0] == pytest.approx(most)
    assert schedules.fora(pipe, case.steps, 2).timesteps == pytest.approx([1.5708, 1.1781, 0.7854, 0.3927, 0], abs=1e-4)


def test_schedules_for_timesteps_that_shift_with_the_resolution():
    case = BY_NAME["Flux, true guidance"]
    pipe = case.build()
    mask = schedules.fora(pipe, 4)
    with stepmask.apply(pipe, mask), warnings.catch_warnings():
        warnings.simplefilter("error")
        case.run(pipe)
    named = mask.resample([999, 700, 400, 100])
    with stepmask.apply(pipe, named), pytest.warns(UserWarning, match="timesteps differ"):
        case.run(pipe)


def latents_of(case, pipe):
    """What the denoiser makes in a run, differentiable."""
    with without_decoder(pipe) as latents:
        case.run(pipe)
    return latents[0]


def back(chain, call, shape=(2, 4, 16, 16)) -> np.ndarray:
    """Slopes by gain, after a run and the way back through it."""
    forth_and_back(chain, call, torch.zeros(shape), lambda error: error, lambda images: images)
    assert np.isfinite(chain.effects.by_gain).all() and np.abs(chain.effects.by_gain).sum() > 0
    return chain.effects.by_gain


# --- cost


@pytest.mark.parametrize(("name", "given", "forwards"), [
    ("Stable Diffusion", {}, 2),
    ("Stable Diffusion", {"guidance_scale": 1.0}, 1),
    ("Stable Diffusion XL", {}, 2),
    ("Stable Diffusion 3", {}, 2),
    ("PixArt-Sigma", {}, 2),
    ("Wan", {}, 2),
    ("Wan", {"guidance_scale": 1.0}, 1),
    ("Flux", {}, 1),
    ("Flux", {"guidance_scale": 7.5}, 1),
    ("Flux", {"true_cfg_scale": 4.0}, 1),
    ("Flux", {"true_cfg_scale": 4.0, "negative_prompt": "blurred"}, 2),
    ("Flux", flux_texts(1, 4.0), 2),
    ("Stable Diffusion, PAG", {}, 3),
    ("Stable Diffusion, PAG", {"guidance_scale": 1.0}, 2),
    ("Stable Diffusion, PAG", {"pag_scale": 0.0}, 2),
    ("Stable Diffusion, InstructPix2Pix", {}, 3),
    ("Stable Diffusion, InstructPix2Pix", {"image_guidance_scale": 0.5}, 1),
])  # fmt: skip
def test_forwards_per_image(name, given, forwards):
    pipe = BY_NAME[name].build()
    assert PipelineCall(pipe).forwards_per_image(given) == forwards
    assert measure_cost(pipe, call_kwargs=given).forwards_per_image == forwards


@pytest.mark.parametrize("name", ["Stable Diffusion", "Flux", "Wan", pytest.param("Mochi", marks=pytest.mark.slow)])
def test_a_summary_is_told_at_the_sizes_of_its_run(name):
    case = BY_NAME[name]
    pipe = case.build()
    case.run(pipe)
    with stepmask.apply(pipe, random_actions(pipe)) as run:
        for size in (0, 1):
            case.run(pipe, size=size)
            cost = measure_cost(pipe, call_kwargs=case.arguments(2, size))
            assert run.summary().macs_per_image == cost.total_macs(run.ran)
            assert run.summary().macs_fraction == cost.fraction(run.ran)


PAG = [name for name in BY_NAME if name.endswith("PAG")]


@pytest.mark.parametrize("name", ["Stable Diffusion, InstructPix2Pix", "Flux, true guidance", "Wan", *PAG])
def test_forwards_are_counted_where_a_run_can_be_started(name, monkeypatch):
    """Whatever the arguments seem to say; however many images are asked for."""
    case = BY_NAME[name]
    pipe, inputs = case.build(), case.arguments(2)
    monkeypatch.setattr(PipelineCall, "forwards_per_image", lambda call, call_kwargs: 99)
    several = next(name for name in PipelineCall(pipe).parameters if re.fullmatch(r"num_\w+_per_prompt", name))
    found = capture.first_step(pipe, inputs | {several: 3, "num_inference_steps": 7})
    assert found.forwards == FORWARDS[case.guidance] and len(next(iter(found.inputs.values()))) == 1


@pytest.mark.parametrize("options", [{}, {"guidance_scale": 1.0}, {"pag_scale": 0.0}], ids=str)
def test_guidance_that_is_off_is_not_counted(options):
    pipe, inputs = BY_NAME["Stable Diffusion, PAG"].build(), BY_NAME["Stable Diffusion, PAG"].arguments(1)
    assert capture.first_step(pipe, inputs | options).forwards == 3 - len(options)


def test_a_late_start_is_started():
    case = BY_NAME["Stable Diffusion, image to image"]
    found = capture.first_step(case.build(), case.arguments(2) | {"strength": 0.2})
    assert found.forwards == 2 and found.inputs["sample"].shape == (1, 4, 16, 16)


@pytest.mark.parametrize("name", PAG)
def test_perturbed_attention_is_not_left_behind(name):
    """The pipeline sets processors at the beginning of a run, which is not brought to its end."""
    case = BY_NAME[name]
    pipe = case.build()
    before = denoiser_of(pipe).attn_processors
    measure_cost(pipe, call_kwargs=case.arguments())
    timesteps_of_run(pipe, case.arguments(1), [0], case.steps)
    assert denoiser_of(pipe).attn_processors == before


@pytest.mark.parametrize("eliminate_dead", [True, False])
@pytest.mark.parametrize("name", ["FreeU", "Stable Diffusion, T2I-Adapter"])
@pytest.mark.shows("T2I-Adapter", learn="verified")
@pytest.mark.shows("FreeU", learn="verified")
def test_learning_where_the_model_writes_into_values(name, eliminate_dead):
    """What is differentiated is what runs; gradients come back through it."""
    case = replace(BY_NAME["Stable Diffusion" if name == "FreeU" else name], steps=6)
    pipe = case.build()
    if name == "FreeU":
        pipe.enable_freeu(0.9, 0.2, 1.2, 1.4)
    case.run(pipe)
    mask = random_actions(pipe, 3, share=0.4, forecasts=0.5, nested=False)
    plan = stepmask.make_plan(mask, stepmask.describe(pipe).innermost, eliminate_dead=eliminate_dead)

    with stepmask.apply(pipe, plan):
        wanted = latents_of(case, pipe)
    found = []

    def kept():
        found.append(latents_of(case, pipe))
        return found[0]

    back(Chain(pipe, plan, 2, 1, EndToEnd(graph_bytes=0)), kept, wanted.shape)
    assert torch.equal(found[0], wanted)


@pytest.mark.shows("caches of diffusers (`enable_cache`)", learn="refused")
def test_learning_with_a_cache_of_diffusers_is_refused():
    """Their full run is none."""
    case = BY_NAME["Flux"]
    pipe = case.build()
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.5))
    with pytest.raises(UnsupportedModelError, match=r"carry values of the denoiser from step to step.*disable_cache"):
        stepmask.learn(pipe, 4, 0.6, call_kwargs=case.arguments(2))


def test_evaluating_beside_a_cache_of_diffusers_needs_a_full_run_from_elsewhere():
    case = BY_NAME["Flux"]
    pipe = case.build()
    inputs = {"num_inference_steps": 3, "call_kwargs": case.arguments(2), "seeds": 2, "speed": False}
    mask = schedules.fora(pipe, 3, 1)
    full = stepmask.evaluate(pipe, mask, **inputs).full
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.5))
    with pytest.raises(stepmask.StepMaskError, match=r"no full run: call disable_cache\(\) first, or give reference="):
        stepmask.evaluate(pipe, mask, **inputs)
    with pytest.raises(stepmask.StepMaskError, match="speed=False"):
        stepmask.evaluate(pipe, mask, reference=full, **inputs | {"speed": True})
    assert 0 < stepmask.evaluate(pipe, mask, reference=full, **inputs).psnr.mean < 100, "the cache is on"
    pipe.transformer.disable_cache()
    assert stepmask.evaluate(pipe, mask, reference=full, **inputs).psnr.mean == 100


@pytest.mark.parametrize("name", ["Stable Diffusion", "Stable Diffusion, ControlNet"])
def test_what_runs_beside_the_denoiser_keeps_no_graph(name):
    """Of every further step only the latents' way through guidance and scheduler is kept."""
    kept = {}
    for steps in (4, 8):
        case = replace(BY_NAME[name], steps=steps)
        pipe, numbers = case.build(), []
        plan = stepmask.make_plan(schedules.fora(pipe, steps, 2, forecast="linear"), stepmask.describe(pipe))
        count = lambda tensor, numbers=numbers: numbers.append(tensor.numel()) or tensor  # noqa: E731

        def call(case=case, pipe=pipe, count=count):
            with saved_tensors_hooks(count, lambda tensor: tensor):
                return latents_of(case, pipe)

        back(Chain(pipe, plan, 2, 1, EndToEnd(graph_bytes=0)), call)
        kept[steps] = sum(numbers)
    latents = 2 * 4 * 16 * 16
    assert kept[8] - kept[4] < 40 * 4 * latents


@pytest.mark.shows("ControlNet", learn="verified")
def test_gradients_come_back_through_a_controlnet(monkeypatch):
    """As they did while its graph was kept."""
    found = []
    for way in (interception._again, lambda compute, args, kwargs: compute()):
        monkeypatch.setattr(interception, "_again", way)
        case = replace(BY_NAME["Stable Diffusion, ControlNet"], steps=4)
        pipe = case.build()
        plan = stepmask.make_plan(schedules.fora(pipe, 4, 2, forecast="linear"), stepmask.describe(pipe))
        found.append(
            back(Chain(pipe, plan, 2, 1, EndToEnd(graph_bytes=0)), lambda case=case, pipe=pipe: latents_of(case, pipe))
        )
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4)


@pytest.mark.shows("modular pipelines", apply="bitwise", learn="by runs alone, with a warning")
def test_modular_pipelines():
    """A mask runs in the modular and in the standard pipeline; gradients come back through the standard one alone."""
    standard, modular = BY_NAME["Flux"], BY_NAME["Flux, modular"]
    pipe = modular.build()
    says = r"FluxModularPipeline switch gradients off.*standard pipeline.*by runs alone"
    with pytest.warns(UserWarning, match=says):
        stepmask.learn(pipe, 4, 0.7, call_kwargs=modular.arguments(2), **FEW)
    few = {"num_trajectories": 1, "batch_size": 2, "progress": False}
    learned = stepmask.learn(pipe, 4, 0.7, method="paper", call_kwargs=modular.arguments(2), **few)
    for mask in (learned, schedules.key_steps(pipe, 4)):
        here, there = (
            stepmask.evaluate(one.build(), mask, call_kwargs=one.arguments(2), seeds=2, speed=False)
            for one in (modular, standard)
        )
        assert here.psnr.mean == pytest.approx(there.psnr.mean, abs=0.01) and here.psnr.mean < 100
        assert here.macs_per_image == there.macs_per_image


def test_a_modular_pipeline_is_run_quietly(capfd):
    case = BY_NAME["Stable Diffusion XL, modular"]
    pipe = case.make()
    capfd.readouterr()
    stepmask.measure_cost(pipe, call_kwargs=case.arguments(1))
    case.run(pipe, 1)
    assert capfd.readouterr().err == ""
