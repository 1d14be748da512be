"""A task: what a mask depends on, found once, and what tells one task from another, the same on every machine."""

import json

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverSinglestepScheduler, HeunDiscreteScheduler
from PIL import Image

import stepmask
from stepmask import StepMaskError, describe, measure_cost
from stepmask.inspection.registry import denoiser_of
from stepmask.mask import check_scheduler, scheduler_identity
from stepmask.runtime.task import Task, comparable, weights_digest
from stepmask.timesteps import start_run
from tiny import ddim_pipeline, dit_pipeline, tiny_model

STEPS = 4


def test_facts_are_those_of_the_pipeline():
    pipe = dit_pipeline()
    task = Task(pipe, STEPS, seed=3, call_kwargs={"guidance_scale": 2.0}, conditions=[3, 7])
    assert task.pipe is pipe and task.denoiser is pipe.transformer and task.graph == describe(pipe)
    assert task.call_kwargs == {"class_labels": [3, 7], "guidance_scale": 2.0}
    one, other = task.costs, measure_cost(pipe, call_kwargs=task.call_kwargs)
    assert np.array_equal(one.shares()[0], other.shares()[0]) and one.forwards_per_image == 2
    assert task.scheduler == scheduler_identity(pipe.scheduler)
    assert task.timesteps == [float(t) for t in pipe.scheduler.timesteps] and task.shape == (STEPS, len(task.graph))
    assert task.noise.seeds(0, 2) == Task(pipe, STEPS, seed=3).noise.seeds(0, 2)
    record = task.facts([5, 6, 9])
    assert record["noise_seeds"] == [5, 9] and record["guidance_scale"] == 2.0 and record["seed"] == 3
    assert json.loads(json.dumps(record)) == record
    assert Task(pipe, STEPS).facts([0])["guidance_scale"] == 4.0, "the pipeline's own"


def test_facts_are_found_once_and_when_they_are_asked_for(monkeypatch):
    calls = []
    for name in ("description_of", "cost_of", "Noise"):
        plain = getattr(stepmask.runtime.task, name)
        watched = lambda *args, plain=plain, name=name, **options: calls.append(name) or plain(*args, **options)  # noqa: E731
        monkeypatch.setattr(stepmask.runtime.task, name, watched)
    task = Task(dit_pipeline(), STEPS)
    assert calls == []
    for _ in range(2):
        assert task.graph is task.graph and task.costs is task.costs
        assert task.noise is task.noise and task.timesteps is task.timesteps and task.shape
        task.identity()
    assert sorted(calls) == ["Noise", "cost_of", "description_of"]


def test_bare_denoisers_and_schedulers_that_take_more_steps():
    model = tiny_model("UNet2DModel")
    task = Task(model, STEPS, scheduler=HeunDiscreteScheduler())
    assert task.denoiser is model and task.shape[0] == 2 * STEPS - 1
    assert task.scheduler["class"] == "HeunDiscreteScheduler"
    with pytest.raises(StepMaskError, match="bare denoiser needs its scheduler"):
        Task(model, STEPS)


@pytest.mark.parametrize(("arguments", "says"), [
    ({"num_inference_steps": 0}, "num_inference_steps must be a whole number of at least 1, got 0"),
    ({"num_inference_steps": 4.0}, "num_inference_steps must be a whole number"),
    ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
    ({"seed": True}, "seed must be a whole number"),
    ({"conditions": [5000]}, "there is no class 5000"),
    ({"call_kwargs": "abc"}, "call_kwargs is a dictionary"),
])  # fmt: skip
def test_what_makes_no_sense(arguments, says):
    with pytest.raises(StepMaskError, match=says):
        Task(dit_pipeline(), **{"num_inference_steps": STEPS, **arguments})


def test_a_mask_of_a_task_is_checked_and_runs():
    pipe = ddim_pipeline()
    task = Task(pipe, STEPS)
    table = np.ones(task.shape, dtype=bool)
    table[1, list(task.graph.blocks)] = False
    mask = task.mask(table, scores=np.full(task.shape, 0.5), made="here", **task.facts([1, 2]))
    mask.check(graph=task.graph, scheduler=pipe.scheduler)
    assert mask.provenance["made"] == "here" and (mask.scores == 0.5).all()
    plain = task.noise.images(0, 1)
    with task.apply(mask):
        assert not torch.equal(task.noise.images(0, 1), plain)
    assert torch.equal(task.noise.images(0, 1), plain)


# --- what tells one from another


def test_identities():
    def made(pipe=None, steps=STEPS, **options) -> dict:
        found = Task(pipe or dit_pipeline(), steps, **options).identity()
        assert json.loads(json.dumps(found)) == found
        return found

    usual = made()
    assert made() == made(call_kwargs={}) == usual
    scheduled = dit_pipeline()
    scheduled.scheduler = DDIMScheduler(clip_sample=False, beta_end=0.03)
    others = [
        made(dit_pipeline(seed=1)),
        made(ddim_pipeline()),
        made(scheduled),
        made(steps=5),
        made(seed=1),
        made(conditions=[3]),
        made(conditions=[4]),
        made(call_kwargs={"class_labels": torch.tensor([3])}),
        made(call_kwargs={"guidance_scale": 2.0}),
    ]
    texts = {json.dumps(found, sort_keys=True) for found in [usual, *others]}
    assert len(texts) == 1 + len(others)
    assert made(conditions=[3]) == made(call_kwargs={"class_labels": [3]}), "however they are given"


def test_call_arguments_as_json():
    assert comparable([1, "a", None, (2.5, True)]) == [1, "a", None, [2.5, True]]
    assert comparable({"scale": 0.5, "more": [1]}) == {"scale": 0.5, "more": [1]} != comparable({"scale": 0.6})
    ones, twos = torch.ones(2, 3), torch.full((2, 3), 2.0)
    assert comparable(ones) == comparable(ones.clone()) != comparable(twos)
    assert comparable(ones) != comparable(ones.view(3, 2)) and comparable(ones.bfloat16()) != comparable(ones)
    assert comparable(object()) == "object"
    white, black = (Image.new("RGB", (4, 2), colour) for colour in ("white", "black"))
    assert comparable(white) == comparable(white.copy()) != comparable(black)


def test_weights():
    digest = weights_digest(denoiser_of(dit_pipeline()))
    assert digest == weights_digest(tiny_model("DiTTransformer2DModel"))
    assert digest != weights_digest(tiny_model("DiTTransformer2DModel", seed=1))
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    try:
        assert digest == weights_digest(tiny_model("DiTTransformer2DModel"))
    finally:
        torch.set_num_threads(threads)


def test_adapters_and_how_strong_they_are():
    from peft import LoraConfig, inject_adapter_in_model

    model = dit_pipeline().transformer
    plain = weights_digest(model)
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False), model)
    adapted = weights_digest(model)
    layer = next(module for module in model.modules() if isinstance(getattr(module, "scaling", None), dict))
    layer.scaling["default"] *= 2
    assert len({plain, adapted, weights_digest(model)}) == 3


def test_a_scheduler_is_told_as_its_run_leaves_it():
    """DPM++ 2S configures itself anew when a run is set."""
    task = Task(dit_pipeline_with(DPMSolverSinglestepScheduler()), 4)
    told = task.scheduler
    assert told["config"]["lower_order_final"] and not DPMSolverSinglestepScheduler().config.lower_order_final
    fresh = dit_pipeline_with(DPMSolverSinglestepScheduler())
    start_run(fresh.scheduler, 4)
    check_scheduler(told, fresh.scheduler, "mask")


def dit_pipeline_with(scheduler):
    pipe = dit_pipeline()
    pipe.scheduler = scheduler
    return pipe
