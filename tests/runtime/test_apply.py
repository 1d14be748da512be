"""Masks inside real pipelines: bit for bit what a plain loop gives on a twin whose sites are swapped by hooks."""

import gc
import weakref

import pytest
import torch
from diffusers import DDIMScheduler
from loops import PIPELINES, STEPS, Setup, full

import stepmask
from stepmask.runtime.apply import is_applied
from tiny import ddim_pipeline, generator, random_mask


@pytest.fixture(
    params=[*((name, 0.0) for name in PIPELINES), ("DDIMPipeline", 0.6), ("DiTPipeline", 0.6)],
    ids=lambda param: param[0] + (", forecasts" if param[1] else ""),
)
def setup(request) -> Setup:
    return Setup(*request.param)


def test_masked_pipelines(setup):
    """Also by further calls with other batch sizes and seeds, under inference mode, and without elimination."""
    plain = setup.call()
    assert torch.equal(setup.wanted(full(setup.mask)), plain), "else no other comparison here would say anything"
    assert not torch.equal(setup.wanted(), plain)
    with stepmask.apply(setup.pipe, setup.mask):
        for batch, seed in ((2, 0), (2, 1), (1, 0), (2, 0)):
            assert torch.equal(setup.call(batch, seed), setup.wanted(batch=batch, seed=seed))
        with torch.inference_mode():
            assert torch.equal(setup.call(), setup.wanted())
    with stepmask.apply(setup.pipe, setup.mask, eliminate_dead=False):
        assert torch.equal(setup.call(), setup.wanted())
    with stepmask.apply(setup.pipe, full(setup.mask)):
        assert torch.equal(setup.call(), plain)
    assert torch.equal(setup.call(), plain)


def test_bfloat16(setup):
    with stepmask.apply(setup.pipe, setup.mask):
        setup.call()
        setup.pipe.to(torch.bfloat16)
        found = setup.call()
        assert found.dtype == torch.bfloat16 and torch.equal(found, setup.wanted(dtype=torch.bfloat16))


@pytest.mark.parametrize("row", [0, 3, STEPS - 1])
def test_a_call_that_dies_between_two_steps_leaves_nothing_behind(setup, row, monkeypatch):
    with stepmask.apply(setup.pipe, setup.mask):
        rows = iter(range(STEPS))
        step = setup.pipe.scheduler.step

        def die(*args, **kwargs):
            result = step(*args, **kwargs)
            if next(rows) == row:
                raise KeyboardInterrupt
            return result

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(setup.pipe.scheduler, "step", die)
            setup.call(seed=5)
        assert torch.equal(setup.call(), setup.wanted())


def test_a_mask_whose_handle_is_lost_can_be_removed():
    pipe = ddim_pipeline()
    stepmask.apply(pipe, random_mask(pipe, DDIMScheduler(), STEPS))
    assert is_applied(pipe.unet)
    stepmask.remove(pipe)
    assert not is_applied(pipe.unet) and not pipe.unet._forward_pre_hooks
    stepmask.remove(pipe)


def test_a_call_that_fails_lets_the_caches_go():
    """It may have failed for want of memory."""
    pipe = ddim_pipeline()
    mask = random_mask(pipe, DDIMScheduler(), STEPS)
    calls = []

    def fail(*args):
        calls.append(1)
        if len(calls) == 3:
            raise torch.OutOfMemoryError

    def run():
        return pipe(2, generator(), num_inference_steps=STEPS, output_type="pt").images

    with stepmask.apply(pipe, mask) as handle:
        wanted = run()
        hook = pipe.unet.conv_out.register_forward_pre_hook(fail)
        with pytest.raises(torch.OutOfMemoryError):
            run()
        (executor,) = handle._executors.values()
        assert executor.meter.held == 0 < executor.meter.peak
        hook.remove()
        assert torch.equal(run(), wanted)


def test_a_pipeline_is_freed_with_its_last_name():
    """No circle of references is left that only the garbage collector finds."""
    gc.collect()
    gc.disable()
    try:
        pipe = ddim_pipeline()
        with stepmask.apply(pipe, random_mask(pipe, DDIMScheduler(), STEPS)) as handle:
            pipe(2, generator(), num_inference_steps=STEPS, output_type="np")
            assert handle.summary().computes
        model = weakref.ref(pipe.unet)
        del pipe, handle
        assert model() is None
    finally:
        gc.enable()
