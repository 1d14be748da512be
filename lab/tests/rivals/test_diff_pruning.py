"""Diff-Pruning: channels go in equal shares, what is left runs, and weights alone bring a pruned model back."""

import json
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler

from refusal import check_refused
from small import ldm_pipeline
from stepmask import StepMaskError
from stepmask.inspection.registry import architecture_of
from stepmask_lab import reference
from stepmask_lab.reference.conditioning import trainable
from stepmask_lab.reference.half_precision import write_weights
from stepmask_lab.rivals.diff_pruning import pruned, train
from stepmask_lab.rivals.diff_pruning.prune import add_gradients, prune
from tiny import ddim_pipeline, dit_pipeline, quiet

PIPES = {"ddim": ddim_pipeline, "ldm": ldm_pipeline}


@pytest.fixture(params=PIPES)
def pipe(request):
    return PIPES[request.param]()


def prune_half(pipe):
    """Take half of the channels by gradients on noise; the pruned U-Net and the widths before."""
    unet, model = pipe.unet, trainable(pipe)
    before = {
        name: module.num_channels for name, module in unet.named_modules() if isinstance(module, torch.nn.GroupNorm)
    }
    size, count = unet.config.sample_size, unet.config.in_channels
    scheduler = DDIMScheduler(num_train_timesteps=3)
    add_gradients(model, scheduler, torch.randn(2, count, size, size), torch.zeros(2, dtype=torch.long))
    prune(unet, architecture_of(unet).example_inputs(unet), 0.5)
    return unet, before


def test_each_group_of_a_norm_loses_half(pipe):
    unet, before = prune_half(pipe)
    groups = unet.config.norm_num_groups
    for name, width in before.items():
        assert unet.get_submodule(name).num_channels == groups * (width // groups - width // groups // 2)
    assert unet.conv_out.out_channels == unet.config.out_channels, "the output keeps its shape"
    inputs = architecture_of(unet).example_inputs(unet)
    assert unet(**inputs).sample.shape == inputs["sample"].shape


def test_those_go_whose_weights_times_gradients_are_least():
    unet = ddim_pipeline().unet
    layer = unet.down_blocks[0].resnets[0].conv1
    for weight in unet.parameters():
        weight.grad = torch.ones_like(weight)
    gone = torch.arange(0, layer.out_channels, 2)
    before = layer.weight.detach().clone()
    with torch.no_grad():  # every second channel, whichever group it is of, does next to nothing
        for part in (layer, unet.down_blocks[0].resnets[0].norm2, unet.down_blocks[0].resnets[0].time_emb_proj):
            part.weight[gone] *= 1e-6
            part.bias[gone] *= 1e-6
        unet.down_blocks[0].resnets[0].conv2.weight[:, gone] *= 1e-6
    prune(unet, architecture_of(unet).example_inputs(unet), 0.5)
    kept = unet.down_blocks[0].resnets[0].conv1.weight
    assert len(kept) == len(gone)
    of_inputs = [
        i for i in range(before.shape[1]) if any(torch.equal(kept[0, j], before[1, i]) for j in range(kept.shape[1]))
    ]
    assert len(of_inputs) == kept.shape[1]
    assert torch.equal(kept, before[1::2][:, of_inputs])


def test_timesteps_of_small_losses_do_not_count():
    seen = []

    def model(noisy, timesteps, labels):
        seen.append(timesteps[0].item())
        return noisy * weight

    weight = torch.zeros(1, requires_grad=True)
    scheduler = SimpleNamespace(
        config=SimpleNamespace(num_train_timesteps=10),
        # the noise's share falls, so that what a model of nothing misses falls too
        add_noise=lambda samples, noise, timesteps: samples + noise,
    )
    scales = iter([1.0, 2.0, 1.0, 0.3, 0.01, 1.0])
    samples = torch.randn(2, 3, 4, 4)
    noise = torch.randn_like(samples)
    patched = pytest.MonkeyPatch()
    with patched.context() as patch:
        patch.setattr(torch, "randn_like", lambda like: noise)
        patch.setattr(
            "stepmask_lab.rivals.diff_pruning.prune.mse_loss",
            lambda found, wanted: next(scales) * ((found - wanted) ** 2).mean(),
        )
        assert add_gradients(model, scheduler, samples, torch.zeros(2)) == 5
    assert seen == [0, 1, 2, 3, 4] and weight.grad is not None


def test_weights_alone_bring_a_pruned_model_back(pipe, tmp_path):
    unet, _ = prune_half(pipe)
    path = tmp_path / "model.safetensors"
    write_weights(trainable(pipe), path)
    again = PIPES["ddim" if pipe.unet.config.in_channels == 3 else "ldm"]()
    pruned.read(trainable(again), path)
    inputs = architecture_of(unet).example_inputs(unet)
    with torch.no_grad():
        for weight in unet.parameters():
            weight.copy_(weight.half())
        torch.testing.assert_close(again.unet(**inputs).sample, unet(**inputs).sample)  # fused attention, and plain


def test_it_wants_gradients():
    unet = ddim_pipeline().unet
    with pytest.raises(StepMaskError, match="no gradients, by which channels are chosen: call add_gradients"):
        prune(unet, architecture_of(unet).example_inputs(unet))


def test_the_script_goes_on_and_ends_with_weights_that_load(data, tmp_path, monkeypatch):
    def few_timesteps(name):
        pipe = quiet(ddim_pipeline())
        pipe.scheduler = DDIMScheduler(num_train_timesteps=4)
        return pipe

    monkeypatch.setattr(reference, "load", few_timesteps)
    options = {"ratio": 0.5, "batch_size": 16}
    train.main("tiny", data, tmp_path, images=16, **options)
    start = (tmp_path / "pruned.safetensors").read_bytes()
    train.main("tiny", data, tmp_path, images=32, **options)
    assert (tmp_path / "pruned.safetensors").read_bytes() == start, "what was pruned is not pruned again"
    record = json.loads((tmp_path / "tiny.json").read_text())
    assert record["images_seen"] == 32 and record["parameters"] < record["parameters_before"]
    pipe = pruned.load_pruned("tiny", tmp_path)
    images = pipe(2, num_inference_steps=2, output_type="pt").images
    assert images.shape == (2, 3, 16, 16) and images.isfinite().all()
    monkeypatch.setattr(reference, "load", lambda name: dit_pipeline())
    check_refused("dit has no U-Net", train.main, "dit", data, tmp_path, images=16)
