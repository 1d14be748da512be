"""The whole run under gates: gates of 0 and 1 are a mask, and gradients are derivatives of the final image."""

import pytest
import torch
from diffusers import DDIMScheduler

from fakes import GUIDED, assert_unchanged, snapshot
from stepmask import apply, describe
from stepmask.inspection.registry import denoiser_of
from stepmask.inspection.sampler_loop import SamplerLoop
from stepmask.learning.interception import frozen
from stepmask.runtime.noise import Noise
from stepmask_lab.rivals.dip_go.losses import consistency_loss, ssim
from stepmask_lab.rivals.dip_go.supernet import SuperNet
from tiny import generator, random_mask, tiny_model

STEPS, IMAGES = 4, 2


def bare_unet():
    return SamplerLoop(tiny_model("UNet2DModel"), DDIMScheduler(clip_sample=False)), {}  # nothing is clipped


PIPELINES = {"U-Net": bare_unet, **GUIDED}


def run(pipe, kwargs, gates, checkpointing=True, backward=None):
    noise = Noise(pipe, STEPS, 0, kwargs)
    net = SuperNet(pipe, describe(pipe).innermost, gates, checkpointing)
    with frozen(denoiser_of(pipe)), net.intercepting():
        images = noise.latents(0, IMAGES)
        if backward is not None:
            (images * backward).sum().backward()
    return images.detach()


@pytest.mark.parametrize("name", PIPELINES)
def test_gates_of_0_and_1_are_a_mask(name):
    pipe, kwargs = PIPELINES[name]()
    noise, before = Noise(pipe, STEPS, 0, kwargs), snapshot(denoiser_of(pipe))
    mask = random_mask(denoiser_of(pipe), pipe.scheduler, STEPS, seed=1, only_blocks=True, nested=False)
    with apply(pipe, mask):
        expected = noise.latents(0, IMAGES)
    found = run(pipe, kwargs, torch.tensor(mask.compute, dtype=torch.float32))
    assert torch.equal(found, expected)
    assert torch.equal(run(pipe, kwargs, torch.ones(mask.compute.shape)), noise.latents(0, IMAGES))
    assert_unchanged(denoiser_of(pipe), before)


@pytest.mark.parametrize("name", PIPELINES)
def test_gradients_are_differences(name):
    pipe, kwargs = PIPELINES[name]()
    for model in (denoiser_of(pipe), getattr(pipe, "vae", None)):
        if model is not None:
            model.double()
    graph = describe(pipe).innermost
    gates = torch.rand(STEPS, len(graph), generator=generator(0), dtype=torch.float64).requires_grad_()
    shape = run(pipe, kwargs, gates.detach()).shape
    weights = torch.randn(shape, generator=generator(1))
    run(pipe, kwargs, gates, backward=weights)
    kept = gates.grad.clone()
    assert (kept[0] == 0).all() and kept[1:].abs().max() > 0
    cells = [divmod(int(i), len(graph)) for i in kept.abs().flatten().argsort(descending=True)[:3]]
    for row, site in cells:
        moved = []
        for change in (0.02, -0.02):
            other = gates.detach().clone()
            other[row, site] += change
            moved.append((run(pipe, kwargs, other) * weights).sum().item())
        assert kept[row, site].item() == pytest.approx((moved[0] - moved[1]) / 0.04, rel=0.03)
    gates.grad = None
    run(pipe, kwargs, gates, checkpointing=False, backward=weights)
    assert torch.allclose(gates.grad, kept, rtol=1e-6, atol=1e-12), "checkpointing changes nothing but memory"


def test_checkpointing_runs_each_step_again():
    pipe, kwargs = PIPELINES["U-Net"]()
    denoiser = denoiser_of(pipe)
    calls, plain = [], denoiser.forward
    denoiser.forward = lambda *args, **more: calls.append(1) or plain(*args, **more)
    for checkpointing, expected in ((False, STEPS), (True, 2 * STEPS - 1)):
        calls.clear()
        gates = torch.full((STEPS, len(describe(pipe).innermost)), 0.5, requires_grad=True)
        run(pipe, kwargs, gates, checkpointing, backward=1.0)
        assert len(calls) == expected


def test_structural_similarity():
    images = torch.rand(2, 3, 16, 16, generator=generator(0))
    assert ssim(images, images).item() == pytest.approx(1)
    noise = torch.rand(2, 3, 16, 16, generator=generator(1))
    near, far = images + 0.1 * noise, images + noise
    assert ssim(noise, images) < ssim(far, images) < ssim(near, images) < 1
    reference = torch.tensor([0.0, 1.0]).repeat(8)[None, None, None].expand(1, 1, 16, 16)
    low, high = reference.unfold(3, 7, 1).mean(-1).min(), reference.unfold(3, 7, 1).mean(-1).max()
    shifted = (ssim(reference + 0.5, reference)).item()
    bounds = [(2 * m * (m + 0.5) + 1e-4) / (m**2 + (m + 0.5) ** 2 + 1e-4) for m in (low.item(), high.item())]
    assert min(bounds) <= shifted <= max(bounds), "the same structure: the term of the means is left"


def test_consistency_is_0_for_the_same_image_and_grows():
    images = torch.rand(2, 3, 8, 8, generator=generator(0)) + 0.5
    for kind in ("ssim", "squared"):
        assert consistency_loss(images, images, kind).item() == pytest.approx(0, abs=1e-6)
    assert consistency_loss(2 * images, images, "squared").item() == pytest.approx(1)
