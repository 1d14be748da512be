"""What an accelerator could make otherwise: dtypes, where caches lie, offload, streams, CUDA graphs, learning.

Each check runs on the CPU too, so that it works the first time elsewhere; ``make gpu`` runs them on the accelerator.
"""

import subprocess
import sys

import pytest
import torch
from diffusers.hooks import apply_group_offloading

import stepmask
from gate import in_gate
from stepmask import schedules
from stepmask.inspection.registry import denoiser_of
from stepmask.runtime.apply import is_applied
from tiny import FEW, ddim_pipeline, dit_pipeline, reference

STEPS = 6
HERE = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
PIPELINES = {"unet": ddim_pipeline, "transformer": dit_pipeline}


@pytest.fixture(params=["cpu", pytest.param("accelerator", marks=pytest.mark.gpu)])
def device(request):
    if request.param == "cpu":
        return torch.device("cpu")
    if HERE is None:
        pytest.skip("there is no accelerator here")
    return HERE


@pytest.fixture(params=PIPELINES)
def make(request, device):
    def made(dtype=torch.float32, device=device):
        return PIPELINES[request.param]().to(device, dtype)

    return made


def latents(pipe, seed=0, batch=2):
    """Final latents or images, on the host."""
    more = {"class_labels": [1] * batch} if hasattr(pipe, "transformer") else {"batch_size": batch}
    generator = torch.Generator().manual_seed(seed)
    found = pipe(num_inference_steps=STEPS, generator=generator, output_type="pt", **more).images
    return torch.as_tensor(found).cpu()


def held(device):
    """Bytes that are allocated on the device; 0 on the CPU, which does not count them."""
    if device.type == "cpu":
        return 0
    torch.accelerator.synchronize(device)
    return torch.accelerator.memory_allocated(device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_all_ones_is_the_plain_pipeline(make, dtype):
    pipe = make(dtype)
    full = latents(pipe)
    with stepmask.apply(pipe, schedules.fora(pipe, STEPS, 1)):
        assert torch.equal(latents(pipe), full)


@pytest.mark.parametrize("forecast", [None, "linear"])
@pytest.mark.parametrize("level", ["branch", "stack"])
def test_a_plan_is_its_mask(make, level, forecast):
    """The masked run equals hooks that swap values in, where everything computes."""
    pipe = make()
    mask = schedules.fora(pipe, STEPS, 2, forecast, level)
    model = denoiser_of(pipe)
    with stepmask.apply(pipe, mask):
        masked = latents(pipe)
    with reference(model, mask) as running:
        step, stepped = pipe.scheduler.step, []

        def next_row(*args, **kwargs):
            stepped.append(1)
            running.row = len(stepped) % STEPS
            return step(*args, **kwargs)

        pipe.scheduler.step = next_row
        try:
            expected = latents(pipe)
        finally:
            del pipe.scheduler.step
    assert torch.equal(masked, expected) and len(stepped) == STEPS


def test_nothing_is_left_on_the_device(make, device):
    pipe = make()
    latents(pipe)
    before = held(device)
    with stepmask.apply(pipe, schedules.fora(pipe, STEPS, 3, "linear")) as run:
        latents(pipe, batch=4)
        assert run.peak_cache_bytes > 0
        assert all(value.device.type == device.type for value in _cached(run))
    assert held(device) - before < 2**20


def _cached(run):
    """Tensors that a run holds."""
    return [
        value
        for executor in run._executors.values()
        for cache in getattr(executor, "_caches", {}).values()
        for value in torch.utils._pytree.tree_leaves(vars(cache))
        if isinstance(value, torch.Tensor)
    ]


def offloaded(how, pipe, device):
    if how == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif how == "layers":
        pipe.enable_sequential_cpu_offload(device=device)
    else:
        options = {"offload_device": torch.device("cpu"), "offload_type": "leaf_level", "use_stream": how == "streams"}
        apply_group_offloading(denoiser_of(pipe), onload_device=device, **options)
        if hasattr(pipe, "vae"):
            pipe.vae.to(device)
    return pipe


@pytest.mark.parametrize("how", ["model", "layers", "groups", "streams"])
def test_masks_run_on_offloaded_models(make, device, how):
    if how in ("layers", "streams") and device.type == "cpu":
        pytest.skip("accelerate and diffusers do it on accelerators alone")
    plain = make()
    mask = schedules.fora(plain, STEPS, 2, "linear")
    with stepmask.apply(plain, mask):
        expected = latents(plain)
    pipe = offloaded(how, make(device="cpu"), device)
    for _ in range(2):
        with stepmask.apply(pipe, mask):
            found = latents(pipe)
        assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("offload", in_gate([None, True], True))
def test_learning(make, device, offload, tmp_path):
    if offload and device.type == "cpu":
        pytest.skip("values wait on the host anyway")
    options = {**FEW, "rounds": 0, "coarse": True, "gains": 1, "offload": offload}
    pipe = make()
    mask = stepmask.learn(pipe, STEPS, 0.6, progress=False, **options)
    mask.save(tmp_path / "mask.json")
    loaded = stepmask.StepMask.load(tmp_path / "mask.json")
    assert loaded == mask and mask.provenance["cost"] <= 0.6
    assert not is_applied(denoiser_of(pipe))
    result = stepmask.evaluate(pipe, loaded, seeds=2, batch_size=2, speed=True)
    assert result.psnr.mean > 5 and result.speed.denoiser.median > 0
    on_host = make(device="cpu")
    with stepmask.apply(on_host, loaded):
        assert latents(on_host).isfinite().all(), "what was learned there runs here"


@pytest.mark.gpu
@pytest.mark.skipif(HERE is None, reason="there is no accelerator here")
def test_a_speed_up_is_learned_by_latencies_of_the_device():
    make = PIPELINES["transformer"]
    options = {"speed_batch_size": 2, "rounds": 0, **FEW}
    mask = stepmask.learn(make().to(HERE), STEPS, target_speedup=1.1, progress=False, **options)
    assert mask.provenance["latency"]["share"] <= 1 / 1.1


@pytest.mark.gpu
@pytest.mark.skipif(HERE is None, reason="there is no accelerator here")
def test_importing_starts_no_accelerator():
    """Another process, for this one may have."""
    code = "import stepmask, torch; print(torch.cuda.is_initialized())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
