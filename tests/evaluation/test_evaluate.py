"""evaluate: the same noise under both runs, the circumstances on record, and what it refuses."""

import json
import re
from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
from diffusers import HeunDiscreteScheduler

import stepmask
from refusal import check_refused
from stepmask import MaskMismatchError, StepMaskError, evaluate, schedules
from stepmask.evaluation import evaluation_seeds
from stepmask.evaluation.conditions import Conditions
from stepmask.inspection.sampler_loop import SamplerLoop
from tiny import ddim_pipeline, dit_pipeline, tiny_model

STEPS = 4


@pytest.fixture(scope="module")
def pipe():
    return ddim_pipeline()


@pytest.fixture(scope="module")
def mask(pipe):
    return schedules.fora(pipe, STEPS, interval=2)


def all_ones(mask):
    return replace(mask, compute=np.ones_like(mask.compute))


def test_a_mask_that_computes_everything_changes_nothing(pipe, mask):
    result = evaluate(pipe, all_ones(mask), seeds=2, speed=False)
    assert torch.equal(result.full, result.masked)
    assert result.psnr.mean == 100.0 and result.macs_fraction == pytest.approx(1.0) and result.speed is None


def test_numbers_and_circumstances(pipe, mask):
    plan = stepmask.make_plan(mask, stepmask.describe(pipe))
    result = evaluate(pipe, plan, seeds=3, batch_size=2, speed_pairs=2)
    cost = stepmask.measure_cost(pipe)
    assert result.macs_fraction == cost.fraction(plan) < 1
    assert result.macs_per_image == cost.total_macs(plan)
    assert result.full_macs_per_image == cost.step_macs * STEPS
    assert result.psnr.min <= result.psnr.mean < 100
    assert result.speed.pairs == 2 and result.speed.batch_size == 2
    assert sum(result.cells.values()) == plan.states.size and result.peak_cache_bytes > 0
    content = json.loads(json.dumps(result.to_dict()))
    assert content["seeds"] == [10_000, 10_001, 10_002] and content["rows"] == STEPS
    assert (content["denoiser"], content["scheduler"], content["dtype"]) == ("UNet2DModel", "DDIMScheduler", "float32")
    assert content["versions"]["torch"] == torch.__version__ and "full" not in content
    text = str(result)
    assert f"{result.macs_fraction:.1%}" in text and "speed-up, denoiser" in text and "10000 to 10002" in text


def test_an_image_does_not_depend_on_how_many_are_made(pipe, mask):
    many = evaluate(pipe, mask, seeds=[7, 8, 9], batch_size=3, speed=False)
    one = evaluate(pipe, mask, seeds=[9], speed=False)
    assert torch.allclose(many.full[2:], one.full, atol=1e-5)
    assert torch.allclose(many.masked[2:], one.masked, atol=1e-4)


def test_reference_saves_the_full_run(pipe, mask, monkeypatch):
    first = evaluate(pipe, mask, seeds=2, speed=False)
    told = []
    second = evaluate(
        pipe, mask, seeds=2, speed=False, reference=first.full, progress=lambda done, todo: told.append((done, todo))
    )
    assert second.psnr == first.psnr and told == [(1, 1)]
    timed = evaluate(pipe, mask, seeds=2, batch_size=2, speed_pairs=1, reference=first.full)
    assert timed.psnr == first.psnr and timed.speed.pairs == 1
    check_refused("2 images for 3 seeds", evaluate, pipe, mask, seeds=3, reference=first.full)


def test_guided_pipeline_gets_the_same_labels_in_every_batch_size():
    pipe = dit_pipeline()
    pipe.register_to_config(id2label={i: str(i) for i in range(10)})
    mask = schedules.fora(pipe, 2, interval=1)
    result = evaluate(pipe, mask, seeds=3, batch_size=2, call_kwargs={"guidance_scale": 2.0}, speed=False)
    assert torch.equal(result.full, result.masked) and result.guidance_scale == 2.0
    assert (
        result.full_macs_per_image
        == 2 * evaluate(pipe, mask, seeds=1, call_kwargs={"guidance_scale": 1.0}, speed=False).full_macs_per_image
    )
    conditions = Conditions(pipe, None, 3)
    labels = conditions.slice(0, 3)["class_labels"]
    assert labels == conditions.slice(0, 2)["class_labels"] + conditions.slice(2, 3)["class_labels"]
    assert conditions.slice(2, 4)["class_labels"] == [labels[2], labels[0]]
    given = Conditions(pipe, {"class_labels": [5, 6, 7]}, 3)
    assert given.slice(1, 3)["class_labels"] == [6, 7]


def test_bare_denoiser_with_a_second_order_scheduler():
    unet, scheduler = tiny_model("UNet2DModel"), HeunDiscreteScheduler()
    mask = schedules.fora(SamplerLoop(unet, scheduler), 3, interval=2)
    result = evaluate(unet, mask, scheduler=scheduler, seeds=2, speed=False)
    assert result.rows == 5 and result.num_inference_steps == 3
    assert result.full.min() >= 0 and result.full.max() <= 1


def test_seeds_that_learning_saw_are_refused(mask):
    learned = replace(mask, provenance={"noise_seeds": [10_005, 10_100]})
    assert evaluation_seeds(4, learned) == [10_000, 10_001, 10_002, 10_003]
    check_refused("11 of 16 seeds, 10005 first", evaluation_seeds, 16, learned)
    check_refused("at least one seed", evaluation_seeds, [], mask)


@pytest.mark.parametrize(("seeds", "words"), [
    (2.0, "whole numbers from 0 to 2^63, or how many there shall be, got 2.0"),
    ("ab", "got 'a'"),
    ([2**70], "got 1180591620717411303424"),
    ([3, -1], "got -1"),
    ([5, 6, 5], "some seeds are there twice"),
])  # fmt: skip
def test_seeds_that_are_none(seeds, words, mask):
    check_refused(re.escape(words), evaluation_seeds, seeds, mask)


def test_refusals(pipe, mask):
    with pytest.raises(MaskMismatchError, match="num_inference_steps=4"):
        evaluate(pipe, mask, seeds=1, num_inference_steps=3, speed=False)
    check_refused("a StepMask, a Plan or a Recipe", evaluate, pipe, mask.compute, seeds=1)
    check_refused("batch_size", evaluate, pipe, mask, batch_size=0)
    with stepmask.apply(pipe, mask), pytest.raises(StepMaskError, match="remove it first"):
        evaluate(pipe, mask, seeds=1)
    check_refused("generator", evaluate, pipe, mask, seeds=1, call_kwargs={"generator": None})


@pytest.mark.parametrize("name", ["HeunDiscreteScheduler", "PNDMScheduler", "DPMSolverMultistepScheduler"])
def test_speed_with_schedulers_that_count_rows_their_own_way(name):
    unet, scheduler = tiny_model("UNet2DModel"), getattr(diffusers, name)()
    mask = schedules.fora(SamplerLoop(unet, scheduler), 4, interval=2)
    result = evaluate(unet, mask, scheduler=scheduler, seeds=1, batch_size=2, speed_pairs=1)
    assert result.speed.pairs == 1


def test_training_mode_is_left_while_sampling_and_put_back():
    pipe = dit_pipeline()
    pipe.register_to_config(id2label={i: str(i) for i in range(10)})
    pipe.transformer.train()
    pipe.transformer.transformer_blocks[0].eval()
    result = evaluate(pipe, schedules.fora(pipe, 2, interval=1), seeds=2, speed=False)
    assert torch.equal(result.full, result.masked)
    assert pipe.transformer.training and not pipe.transformer.transformer_blocks[0].training
