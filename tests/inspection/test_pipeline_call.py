"""Arguments that a call does not take are refused in words, before anything runs."""

import diffusers
import pytest
from diffusers import HeunDiscreteScheduler

from stepmask import StepMaskError, evaluate, learn, measure_cost, schedules
from stepmask.inspection.pipeline_call import PipelineCall
from stepmask.inspection.sampler_loop import SamplerLoop
from stepmask.timesteps import start_run, stepped
from tiny import ddim_pipeline, dit_pipeline, tiny_model


def test_what_is_taken_passes():
    loop = SamplerLoop(tiny_model("UNet2DModel"), HeunDiscreteScheduler())
    for pipe, given in (
        (dit_pipeline(), {"guidance_scale": 2.0, "class_labels": [1]}), (loop, {"class_labels": [1]}),
        (ddim_pipeline(), None),
    ):  # fmt: skip
        assert PipelineCall(pipe).check(given) is None


def test_calls_that_take_anything():
    class Open:
        unet = tiny_model("UNet2DModel")

        def __call__(self, num_inference_steps=50, **more):
            """Passes everything on."""

    assert PipelineCall(Open()).check({"guidance_scale": 2.0}) is None


@pytest.mark.parametrize("ask", [
    lambda pipe, given: learn(pipe, 4, call_kwargs=given),
    lambda pipe, given: evaluate(pipe, schedules.fora(pipe, 4, 2), seeds=1, call_kwargs=given),
    lambda pipe, given: measure_cost(pipe, call_kwargs=given),
])  # fmt: skip
@pytest.mark.parametrize("scheduler", [None, HeunDiscreteScheduler()])
def test_what_is_not_taken_is_named(ask, scheduler):
    pipe = ddim_pipeline() if scheduler is None else SamplerLoop(tiny_model("UNet2DModel"), scheduler)
    owner = "the call of DDIMPipeline" if scheduler is None else "UNet2DModel, sampled in a plain loop,"
    with pytest.raises(StepMaskError, match=f"{owner} takes no guidance_scale, strength: leave it out; it takes "):
        ask(pipe, {"strength": 0.5, "guidance_scale": 2.5})


@pytest.mark.parametrize("given", [{"num_inference_steps": 2}, {"generator": None}, {"batch_size": 2}])
def test_what_stepmask_says_to_the_call_itself(given):
    with pytest.raises(StepMaskError, match=f"call_kwargs must not hold {next(iter(given))}"):
        learn(ddim_pipeline(), 4, call_kwargs=given)


@pytest.mark.parametrize("name", ["SCMScheduler", "HeliosScheduler", "HeliosDMDScheduler"])
def test_schedulers_that_need_more_than_a_number_of_steps(name):
    """A rule needs the number of rows alone: SCM also lists where the run ends."""
    scheduler = getattr(diffusers, name)()
    start_run(scheduler, 4)
    assert len(scheduler.timesteps) == 4 + (name == "SCMScheduler") and len(stepped(scheduler)) == 4


@pytest.mark.parametrize("steps", [0, 5000])
def test_schedules_of_steps_that_no_scheduler_makes(steps):
    with pytest.raises(StepMaskError, match=f"DDIMScheduler makes no run of {steps} steps: ask for at least 1"):
        schedules.fora(ddim_pipeline(), steps, 2)


@pytest.mark.parametrize("label", [-1, 5000])
def test_classes_that_a_model_does_not_have(label):
    with pytest.raises(StepMaskError, match=f"there is no class {label}"):
        learn(dit_pipeline(), 4, conditions=[1, label])
