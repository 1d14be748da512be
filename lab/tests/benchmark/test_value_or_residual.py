"""Values and residuals of what rests: values are the product's, residuals what plain hooks make of them."""

import pytest
import torch

import stepmask
import tiny
from stepmask.runtime.task import Task
from stepmask_lab.benchmark import value_or_residual
from stepmask_lab.benchmark.value_or_residual import measured, restings


@pytest.fixture(scope="module")
def task():
    return Task(tiny.dit_pipeline(), 6, call_kwargs={"guidance_scale": 2.5})


def _by_hooks(task, resting, mask):
    """Latents of two images where every block runs, and hooks swap what the last of those that rest has made."""
    model, rests, computed, now = task.denoiser, ~mask.compute.all(1), [], {"row": -1}

    def begin(module, args):
        now["row"] += 1

    def enter(module, args):
        now["entered"] = args[0] if resting.keeps == "residual" else torch.zeros_like(args[0])

    def leave(module, args, output):
        if not rests[now["row"]]:
            computed.insert(0, (now["row"], output - now["entered"]))
        (row, newest), (before, second) = (*computed, *computed)[:2]
        distance = (now["row"] - row) / (row - before) if mask.forecast.any() and row > before else 0.0
        return newest + distance * (newest - second) + now["entered"]

    hooks = [
        model.register_forward_pre_hook(begin),
        model.get_submodule(resting.begins).register_forward_pre_hook(enter),
        tiny.module_of(model, resting.kept).register_forward_hook(leave),
    ]
    try:
        return task.noise.latents(0, 2)
    finally:
        for hook in hooks:
            hook.remove()


def _apart(some, others):
    return ((some - others).norm() / others.norm()).item()


@pytest.mark.parametrize("forecast", [None, "linear"])
def test_what_is_kept_is_what_plain_hooks_keep(task, forecast):
    found = {}
    for resting in restings(task):
        mask = resting.mask(3, forecast)
        with resting.running(stepmask.make_plan(mask, task.graph)) as plan, task.apply(plan):
            made = found[resting.rests, resting.keeps] = task.noise.latents(0, 2)
        assert _apart(made, _by_hooks(task, resting, mask)) < 1e-5
        if resting.keeps == "value":
            with stepmask.apply(task.pipe, mask):
                assert torch.equal(made, task.noise.latents(0, 2))
    for rests in ("all blocks", "first half"):
        assert _apart(found[rests, "residual"], found[rests, "value"]) > 1e-3


def test_values_are_as_the_product_has_them_and_factors_are_learned_for_both(monkeypatch):
    monkeypatch.setattr(value_or_residual, "LEARNED_ON", 1)
    pipe, lines = tiny.dit_pipeline(), []
    found = measured(pipe, steps=5, counts=(3,), num_images=2, tell=lines.append)
    psnr = {(row["rests"], row["keeps"], row["forecast"]): row["mean"] for row in found["rows"]}
    assert len(psnr) == len(lines) == 10 and found["guidance_scale"] == 2.5 and found["seeds"] == [10000, 10001]
    for how, forecast in (("hold", None), ("line", "linear")):
        mask = stepmask.schedules.key_steps(pipe, 5, 3, forecast=forecast)
        judged = stepmask.evaluate(pipe, mask, seeds=2, call_kwargs={"guidance_scale": 2.5}, speed=False)
        assert psnr["all blocks", "value", how] == pytest.approx(judged.psnr.mean)
    for keeps in ("value", "residual"):
        assert psnr["all blocks", keeps, "line, learned"] != psnr["all blocks", keeps, "line"]
