"""Arguments that a call does not take are refused in words, before anything runs."""

from __future__ import annotations

import pytest
from diffusers import HeunDiscreteScheduler

from stepmask import StepMaskError, evaluate, learn, measure_cost, schedules
from stepmask.runtime.sampling import SamplerLoop, check_call_kwargs
from tiny import ddim_pipeline, dit_pipeline, tiny_model


def test_what_is_taken_passes():
    check_call_kwargs(dit_pipeline(), {"guidance_scale": 2.0, "class_labels": [1]})
    check_call_kwargs(SamplerLoop(tiny_model("UNet2DModel"), HeunDiscreteScheduler()), {"class_labels": [1]})
    check_call_kwargs(ddim_pipeline(), None)


def test_calls_that_take_anything():
    class Open:
        def __call__(self, num_inference_steps=50, **more):
            """Passes everything on."""

    check_call_kwargs(Open(), {"guidance_scale": 2.0})


@pytest.mark.parametrize(
    "ask",
    [
        lambda pipe, given: learn(pipe, 4, call_kwargs=given),
        lambda pipe, given: evaluate(pipe, schedules.fora(pipe, 4, 2), seeds=1, call_kwargs=given),
        lambda pipe, given: measure_cost(pipe, call_kwargs=given),
    ],
)
@pytest.mark.parametrize("scheduler", [None, HeunDiscreteScheduler()])
def test_what_is_not_taken_is_named(ask, scheduler):
    pipe = ddim_pipeline() if scheduler is None else SamplerLoop(tiny_model("UNet2DModel"), scheduler)
    owner = "the call of DDIMPipeline" if scheduler is None else "UNet2DModel, sampled in a plain loop,"
    with pytest.raises(StepMaskError, match=f"{owner} takes no guidance_scale, strength: leave it out; it takes "):
        ask(pipe, {"strength": 0.5, "guidance_scale": 2.5})
