"""What really runs is what the cost table says, fully and under a mask."""

import pytest
import torch

from stepmask import apply, describe, make_plan, measure_cost
from stepmask.inspection.registry import denoiser_of
from stepmask_lab.mac_counter import counted
from tiny import ddim_pipeline, dit_pipeline, generator, random_mask

STEPS = 4
PIPELINES = {
    "U-Net": (ddim_pipeline, {"batch_size": 2}),
    "DiT, guided": (dit_pipeline, {"class_labels": [0, 1], "guidance_scale": 2.0}),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_what_runs_is_what_the_cost_table_says(name):
    make, arguments = PIPELINES[name]
    pipe = make()
    denoiser = denoiser_of(pipe)
    cost = measure_cost(pipe, call_kwargs=arguments)
    plan = make_plan(random_mask(pipe, pipe.scheduler, STEPS), describe(pipe))
    assert cost.product_macs.sum() > 0, "attention is among what is counted"
    with counted(denoiser) as full:
        pipe(**arguments, generator=generator(), num_inference_steps=STEPS)
    assert full.macs / 2 == cost.step_macs * STEPS
    with apply(pipe, plan), counted(denoiser) as masked:
        pipe(**arguments, generator=generator(), num_inference_steps=STEPS)
    assert masked.macs / 2 == pytest.approx(cost.total_macs(plan), rel=1e-12)
    assert masked.macs < full.macs
    with torch.inference_mode(), counted(denoiser) as inferred:
        pipe(**arguments, generator=generator(), num_inference_steps=STEPS)
    assert inferred.macs == full.macs
    assert "forward" not in vars(denoiser)


def test_counting_ends_with_an_exception():
    denoiser = ddim_pipeline().unet
    with pytest.raises(RuntimeError, match="stop"), counted(denoiser):
        raise RuntimeError("stop")
    assert "forward" not in vars(denoiser)
