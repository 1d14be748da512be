"""One thing at a time is different: schedulers, starts, guidance, dtype, what happens in mid-run."""

from dataclasses import replace

import diffusers
import pytest
import torch
from cases import BY_NAME, ddim, stable_diffusion
from runs import all_ones, by_reference, calls_of, interrupted, random_actions, with_guidance_ended

import stepmask
from gate import in_gate
from refusal import check_refused
from tiny import quiet

pytestmark = pytest.mark.filterwarnings("ignore:timesteps differ", "ignore:__array_wrap__:DeprecationWarning")

SD = BY_NAME["Stable Diffusion"]
IMAGE = BY_NAME["Stable Diffusion, image to image"]
SD3, FLUX = BY_NAME["Stable Diffusion 3"], BY_NAME["Flux"]


def assert_runs_as_hooks_would(case, pipe, calls=None, seed=3, share=0.5):
    """Applies random masks with and without forecasts, and compares with hooks; also a second time."""
    plain = case.run(pipe)
    with stepmask.apply(pipe, all_ones(pipe)):
        assert torch.equal(case.run(pipe), plain)
    for forecasts in (0.0, 0.6):
        mask = random_actions(pipe, seed, share, forecasts)
        wanted = by_reference(pipe, mask, calls or calls_of(case, len(mask.timesteps)), lambda: case.run(pipe))
        assert not torch.equal(wanted, plain), "the mask must matter"
        with stepmask.apply(pipe, mask):
            assert torch.equal(case.run(pipe), wanted)
            assert forecasts or torch.equal(case.run(pipe), wanted)


# --- schedulers

SCHEDULERS = {
    "Heun": diffusers.HeunDiscreteScheduler,
    "KDPM2": diffusers.KDPM2DiscreteScheduler,
    "DPM++": diffusers.DPMSolverMultistepScheduler,
    "DPM++ Karras": lambda: diffusers.DPMSolverMultistepScheduler(use_karras_sigmas=True),
    "DPM++ SDE": lambda: diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"),
    "PNDM": lambda: diffusers.PNDMScheduler(skip_prk_steps=True, steps_offset=1),
    "PNDM with Runge-Kutta steps": lambda: diffusers.PNDMScheduler(steps_offset=1),
    "Euler": diffusers.EulerDiscreteScheduler,
    "Euler ancestral": diffusers.EulerAncestralDiscreteScheduler,
    "UniPC": diffusers.UniPCMultistepScheduler,
    "DDPM": diffusers.DDPMScheduler,
    "LCM": diffusers.LCMScheduler,
}


VARIATIONS = {name: replace(SD, scheduler=scheduler, steps=5) for name, scheduler in SCHEDULERS.items()}
for name, start in {"Heun": 4, "PNDM": 2, "Euler": 2, "DPM++ SDE": 2, "Euler ancestral": 2}.items():
    VARIATIONS[f"{name}, a late start"] = replace(IMAGE, scheduler=SCHEDULERS[name], start=start)
VARIATIONS |= {
    "flow matching of second order": replace(SD3, scheduler=diffusers.FlowMatchHeunDiscreteScheduler),
    "timesteps of one's own": replace(SD, options={"timesteps": [900, 500, 400, 100]}, scheduler=SCHEDULERS["DPM++"]),
    "without guidance": replace(SD, options={"guidance_scale": 1.0}),
}


FURTHER = {
    "DDPM", "KDPM2", "DPM++ Karras", "DPM++ SDE, a late start", "PNDM, a late start", "Heun, a late start",
    "Euler ancestral, a late start", "UniPC", "LCM", "PNDM with Runge-Kutta steps", "DPM++ SDE", "Euler ancestral",
    "without guidance",
}  # fmt: skip
"""Variations of the others, which are slow together."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in FURTHER else []) for name in VARIATIONS]
)
@pytest.mark.shows("second-order schedulers, late starts, timesteps of your own", apply="bitwise")
def test_schedulers_starts_and_guidance(name):
    assert_runs_as_hooks_would(VARIATIONS[name], VARIATIONS[name].build())


def bfloat16():
    return torch.autocast("cpu", torch.bfloat16)


@pytest.mark.parametrize(("case", "mode"), [(SD, bfloat16), (SD3, bfloat16), (SD, torch.inference_mode)])
@pytest.mark.shows("autocast, inference mode", apply="bitwise")
def test_autocast_and_inference_mode(case, mode):
    pipe = case.build()
    with mode():
        assert_runs_as_hooks_would(case, pipe)


# --- guidance


@pytest.mark.shows("guidance that ends in mid-run", apply="bitwise; the first row after that computes")
def test_guidance_that_ends_in_mid_run():
    """Half the batch is left then: a new stream, whose first row computes."""
    case = with_guidance_ended(replace(SD, steps=6))
    assert_runs_as_hooks_would(case, case.build(), [(row, int(row > 1)) for row in range(6)])


@pytest.mark.shows("a further call at some steps (skip-layer guidance)", apply="bitwise")
def test_a_third_call_at_some_steps():
    """Skip-layer guidance of SD3, without the blocks that it skips."""
    options = {"skip_guidance_layers": [1], "skip_layer_guidance_start": 0.1, "skip_layer_guidance_stop": 0.7}
    case = replace(SD3, steps=6, options=options)
    calls = [(row, stream) for row in range(6) for stream in ((0, 1) if 1 <= row <= 4 else (0,))]
    assert_runs_as_hooks_would(case, case.build(), calls)


# --- number formats


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize("case", in_gate([SD, FLUX, BY_NAME["Wan"]], SD), ids=lambda case: case.name)
@pytest.mark.shows("float16, bfloat16", apply="bitwise")
def test_half_precision(case, dtype):
    inputs = case.inputs

    def half(batch):
        return {k: v.to(dtype) if isinstance(v, torch.Tensor) else v for k, v in inputs(batch).items()}

    case = replace(case, make=lambda: case_make(case).to(dtype), inputs=half)
    assert_runs_as_hooks_would(case, case.build(), seed=4)


def case_make(case):
    return BY_NAME[case.name].make()


# --- several runs


def test_a_run_that_is_interrupted_leaves_nothing_behind():
    pipe = SD.build()
    for scheduler in (pipe.scheduler, diffusers.EulerDiscreteScheduler()):
        pipe.scheduler = scheduler
        plain = SD.run(pipe)
        mask = random_actions(pipe, 3)
        wanted = by_reference(pipe, mask, calls_of(SD, SD.steps), lambda: SD.run(pipe))
        with stepmask.apply(pipe, mask):
            assert not torch.equal(interrupted(SD, 1).run(pipe, seed=7), plain)
            assert torch.equal(SD.run(pipe), wanted)


def test_two_pipelines_step_in_turns():
    first, second = SD.build(), FLUX.build()
    pipes, masks, wanted = (first, second), [], []
    for case, pipe in zip((SD, FLUX), pipes, strict=True):
        case.run(pipe)
        masks.append(random_actions(pipe, 3))
        calls = calls_of(case, case.steps)
        wanted.append(by_reference(pipe, masks[-1], calls, lambda case=case, pipe=pipe: case.run(pipe)))
    made = []

    def call_the_other(pipe, step, timestep, inputs):
        made.append(FLUX.run(second))
        return inputs

    with stepmask.apply(first, masks[0]), stepmask.apply(second, masks[1]):
        assert torch.equal(replace(SD, options={"callback_on_step_end": call_the_other}).run(first), wanted[0])
    assert len(made) == SD.steps and all(torch.equal(images, wanted[1]) for images in made)


# --- one denoiser, several pipelines


def other_way(pipe):
    """The same modules as image to image."""
    return quiet(diffusers.StableDiffusionImg2ImgPipeline.from_pipe(pipe, requires_safety_checker=False))


@pytest.mark.shows("pipelines that share a denoiser and its scheduler", apply="bitwise")
def test_another_pipeline_made_of_the_same_parts_runs_masked():
    """They share the scheduler, so it is known where the other one stands."""
    pipe = replace(SD, steps=5).build()
    other = other_way(pipe)
    assert other.scheduler is pipe.scheduler and other.unet is pipe.unet
    plain = IMAGE.run(other)
    mask = random_actions(other, 3)
    wanted = by_reference(other, mask, calls_of(IMAGE, 5), lambda: IMAGE.run(other))
    text = replace(SD, steps=5)
    text_wanted = by_reference(pipe, mask, calls_of(text, 5), lambda: text.run(pipe))
    with stepmask.apply(pipe, mask):
        for _ in range(2):
            assert torch.equal(IMAGE.run(other), wanted) and not torch.equal(wanted, plain)
            assert torch.equal(text.run(pipe), text_wanted)


@pytest.mark.parametrize(
    "scheduler", [ddim, lambda: diffusers.EulerDiscreteScheduler(steps_offset=1)], ids=["DDIM", "Euler"]
)
@pytest.mark.parametrize("before", in_gate(["nothing", "a run", "an interrupted run"], "an interrupted run"))
@pytest.mark.shows("pipelines that share a denoiser, each with its scheduler", apply="refused")
def test_another_pipeline_with_a_scheduler_of_its_own_is_refused(before, scheduler):
    pipe = stable_diffusion(scheduler=scheduler())
    other = other_way(quiet(pipe))
    other.scheduler = scheduler()
    SD.run(pipe)
    mask = random_actions(pipe, 3)
    wanted = by_reference(pipe, mask, calls_of(SD, SD.steps), lambda: SD.run(pipe))
    pipe.scheduler = scheduler()
    with stepmask.apply(pipe, mask):
        if before == "a run":
            SD.run(pipe)
        if before == "an interrupted run":
            interrupted(SD, 1).run(pipe)
        for steps in (5, 8):  # of which 3 and 4 are made
            with pytest.raises(stepmask.PositionError, match="another pipeline"):
                replace(IMAGE, steps=steps).run(other)
        assert torch.equal(SD.run(pipe), wanted)


@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("name", ["Flux", "Flux, true guidance"])
def test_another_pipeline_whose_timesteps_are_rescaled_is_refused(name, last):
    """Flux divides them by 1000: after an interrupted run, another one's first step looks like more of that row."""
    case = BY_NAME[name]
    pipe, other = case.build(), case.build()
    other.transformer = pipe.transformer
    case.run(pipe)
    mask = random_actions(pipe, 3)
    wanted = by_reference(pipe, mask, calls_of(case, case.steps), lambda: case.run(pipe))

    with stepmask.apply(pipe, mask):
        case.run(pipe)
        check_refused("another pipeline", case.run, other, error=stepmask.PositionError)
        interrupted(case, last).run(pipe)
        check_refused("another timestep than before", case.run, other, error=stepmask.PositionError)
        assert torch.equal(case.run(pipe), wanted)


def test_a_first_step_that_fails_before_the_scheduler_steps():
    pipe, other = FLUX.build(), FLUX.build()
    other.transformer = pipe.transformer
    FLUX.run(pipe)
    with stepmask.apply(pipe, random_actions(pipe, 3)):
        hook = pipe.transformer.proj_out.register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            FLUX.run(pipe)
        hook.remove()
        check_refused("another timestep than before, still at row 0", FLUX.run, other, error=stepmask.PositionError)
