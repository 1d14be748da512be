"""Cached values that wait on another device: here on the same one, as if it were another."""

import pytest
import torch
from cases import BY_NAME
from runs import all_ones, random_actions

import stepmask
from stepmask import StepMaskError, schedules
from stepmask.inspection.registry import denoiser_of
from stepmask.runtime import elsewhere
from stepmask.values import num_bytes
from tiny import with_channel_gains, with_weights

CASES = [BY_NAME[name] for name in ("Stable Diffusion", "Flux", "Qwen-Image")]


@pytest.fixture
def log(monkeypatch):
    """Every value waits; what happens to the parts of values, in order, and how many copies are there at once."""
    log = []
    bring, brought = elsewhere._Part.bring, elsewhere._Part.brought

    def logged_bring(part):
        if part._coming is None:
            log.append(("bring", id(part)))
        bring(part)

    def logged_brought(part):
        log.append(("read", id(part), part._coming is not None))
        return brought(part)

    monkeypatch.setattr(elsewhere, "moves", lambda tensor, device: True)
    monkeypatch.setattr(elsewhere._Part, "bring", logged_bring)
    monkeypatch.setattr(elsewhere._Part, "brought", logged_brought)
    return log


def masked(case, pipe, mask, **options):
    with stepmask.apply(pipe, mask, **options) as handle:
        return case.run(pipe), handle.peak_cache_bytes


def masks_of(case, pipe):
    case.run(pipe)
    denoiser = denoiser_of(pipe)
    mask = random_actions(pipe, 3, forecasts=0.6)
    yield all_ones(pipe)
    yield mask
    yield with_channel_gains(mask, denoiser, lambda: case.run(pipe))
    yield with_weights(mask, denoiser, lambda: case.run(pipe), mask.sites)


@pytest.mark.shows("caches on the host (`cache_device`)", apply="bitwise, on a CPU that plays an accelerator")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_images_are_the_same(case, log):
    pipe = case.build()
    for mask in masks_of(case, pipe):
        log.clear()
        here = masked(case, pipe, mask)
        assert not log
        there = masked(case, pipe, mask, cache_device="cpu")
        assert torch.equal(there[0], here[0]) and there[1] == here[1]
        assert bool(log) is not mask.compute.all()


def test_what_is_read_next_is_on_its_way_before(log):
    """And no more than that: two values at once, each as many tensors as the forecast reads."""
    case = BY_NAME["Flux"]
    pipe = case.build()
    case.run(pipe)
    masked(case, pipe, schedules.fora(pipe, case.steps, 3, forecast="linear"), cache_device="cpu")
    reads = [entry for entry in log if entry[0] == "read"]
    assert reads and all(on_its_way for _, _, on_its_way in reads)
    there, most = set(), 0
    for what, part, *_ in log:
        (there.add if what == "bring" else there.discard)(part)
        most = max(most, len(there))
    assert not there, "nothing is brought in vain"
    assert most <= 2 * 2 * 2, "values, of two tensors, two of each for a line"


@pytest.mark.shows("caches on the host (`cache_device`)", compile="compiled blocks")
@pytest.mark.slow
def test_compiled_blocks(log):
    case = BY_NAME["Flux"]
    pipe = case.build()
    case.run(pipe)
    mask = random_actions(pipe, 3, forecasts=0.6)
    wanted, _ = masked(case, pipe, mask)
    pipe.transformer.compile_repeated_blocks(fullgraph=True, backend="eager")
    made, _ = masked(case, pipe, mask, cache_device="cpu")
    assert log and torch.allclose(made, wanted, atol=1e-5)
    torch.compiler.reset()


@pytest.mark.parametrize("device", ["nowhere", "meta", 3.5])
def test_devices_that_keep_nothing(device):
    case = BY_NAME["Flux"]
    pipe = case.build()
    case.run(pipe)
    with pytest.raises(StepMaskError, match=r"cache_device=.*take 'cpu' for the host"):
        stepmask.apply(pipe, all_ones(pipe), cache_device=device)


@pytest.mark.gpu
def test_on_an_accelerator():
    """Of long masks and wide values almost nothing is left on it between steps."""
    case, device = BY_NAME["Flux"], torch.accelerator.current_accelerator()
    pipe = case.build().to(device)
    case.run(pipe)
    for mask in masks_of(case, pipe):
        here, there = (masked(case, pipe, mask, cache_device=where) for where in (None, "cpu"))
        assert torch.equal(here[0], there[0]) and here[1] == there[1]
    seen = []
    with stepmask.apply(pipe, schedules.fora(pipe, case.steps, 3), cache_device="cpu") as handle:
        hook = pipe.transformer.register_forward_hook(lambda *_: seen.append(cached_on(handle, device)))
        case.run(pipe)
        hook.remove()
    assert handle.peak_cache_bytes > 0 and max(seen) == 0


def cached_on(handle, device) -> int:
    """Bytes of values that a mask keeps on a device."""
    caches = [stream.cache for executor in handle._executors.values() for stream in executor._streams.values()]
    kept = [value for cache in caches for values in cache._values.values() for _, value in values]
    return sum(num_bytes(value) for value in kept if not isinstance(value, elsewhere.Away))
