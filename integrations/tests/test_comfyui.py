"""Masks on ComfyUI's own models and samplers."""

import asyncio
from contextlib import contextmanager
from functools import cache, partial
from typing import ClassVar
from unittest.mock import MagicMock

import comfy.samplers
import comfy.utils
import execution
import folder_paths
import nodes
import numpy as np
import pytest
import torch
from comfy.controlnet import ControlBase
from diffusers import EulerDiscreteScheduler, UNet2DConditionModel
from stepmask_comfyui import NODE_CLASS_MAPPINGS
from stepmask_comfyui.masked_sampling import ONCE_A_STEP, under_mask
from torch.utils.flop_counter import FlopCounterMode

import stepmask
from stepmask import StepMask, StepMaskError, schedules
from stepmask.family import Member
from tiny_models import CONFIGURATIONS, LATENTS, conditions, sample, tiny_model

STEPS, KEYS = 6, [0, 1, 3]
LAST = {
    "SD15": "output_blocks.3.1",
    "SDXL": "output_blocks.3.0",
    "Flux": "single_blocks.1",
    "WAN21_T2V": "blocks.1",
}
"""What the output is made of."""
INNERMOST = {"SD15": 17, "SDXL": 14, "Flux": 16, "WAN21_T2V": 6}

model_of = cache(tiny_model)


def whole(keys=KEYS, steps=STEPS, forecast=False, sites=("all",), timesteps=None) -> StepMask:
    """A mask of whole steps for sites that no model of ComfyUI has."""
    compute = np.repeat(np.isin(np.arange(steps), keys)[:, None], len(sites), axis=1)
    timesteps = range(steps) if timesteps is None else timesteps
    nominal = {"timesteps": "nominal"}
    return StepMask(compute=compute, forecast=~compute & forecast, sites=sites, timesteps=timesteps, provenance=nominal)


@cache
def graph_of(name: str):
    """What a first sampling has found out."""
    sample(under_mask(model_of(name), whole(steps=1, keys=[0])), name, steps=1)
    return stepmask.describe(model_of(name).model.diffusion_model)


def resting(name: str, site: str) -> StepMask:
    """One site rests between the key steps, all others compute."""
    graph = graph_of(name)
    compute = np.ones((STEPS, len(graph)), bool)
    compute[np.setdiff1d(range(STEPS), KEYS), graph.names.index(site)] = False
    return StepMask(compute=compute, sites=graph.names, timesteps=range(STEPS), provenance={"timesteps": "nominal"})


@contextmanager
def held(name: str, site: str, keys):
    """ComfyUI without stepmask, in which one module hands out its latest value at all steps but these."""
    module, calls, kept = model_of(name).model.diffusion_model.get_submodule(site), [], []
    forward = module.forward

    def instead(*args, **kwargs):
        calls.append(None)
        if len(calls) - 1 in keys:
            kept[:] = [forward(*args, **kwargs).clone()]
        return kept[0].clone()

    module.forward = instead
    try:
        yield
    finally:
        del module.forward


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_all_ones_is_the_plain_run(name):
    plain, graph = sample(model_of(name), name), graph_of(name)
    assert len(graph.innermost) == INNERMOST[name]
    ones = schedules.fora(graph, range(STEPS), 1)
    with pytest.warns(UserWarning, match="timesteps differ"):
        assert torch.equal(sample(under_mask(model_of(name), ones), name), plain)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_between_key_steps_the_last_value_is_held(name):
    masked = under_mask(model_of(name), whole())
    with held(name, LAST[name], KEYS):
        expected = sample(model_of(name), name)
    with FlopCounterMode(display=False) as count:
        assert torch.equal(sample(masked, name), expected)
    with FlopCounterMode(display=False) as full:
        assert not torch.equal(sample(model_of(name), name), expected)
    assert count.get_total_flops() < 0.7 * full.get_total_flops()
    assert not any("forward" in vars(module) for module in model_of(name).model.diffusion_model.modules())


@pytest.mark.parametrize("batch", [1, 2])
def test_sites_rest_one_by_one_though_patches_write_into_their_values(batch):
    name, site = "SD15", "output_blocks.2.1"
    patched = model_of(name).clone()
    patched.set_model_output_block_patch(lambda h, skip, options: (h.mul_(1.05), skip))
    mask = resting(name, site)
    with held(name, site, KEYS):
        expected = sample(patched, name, batch=batch)
    assert torch.equal(sample(under_mask(patched, mask), name, batch=batch), expected)


class Adds(ControlBase):
    """Adds to the value in the middle from a step on, in the way of a ControlNet: into that value."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.left = first

    def get_control(self, noisy, *_):
        self.left -= 1
        return None if self.left >= 0 else {"middle": [torch.full((len(noisy), 64, 4, 4), 0.5)]}


def test_a_controlnet_acts_from_the_first_step_on():
    name, site = "SD15", "middle_block.2"
    mask = resting(name, site)
    with held(name, site, KEYS):
        expected = sample(model_of(name), name, control=Adds(0))
        without = sample(model_of(name), name)
    masked = under_mask(model_of(name), mask)
    assert torch.equal(sample(masked, name, control=Adds(0)), expected) and not torch.equal(expected, without)
    with pytest.raises(StepMaskError, match="a ControlNet sets in while the mask runs"):
        sample(masked, name, control=Adds(2))


@pytest.mark.parametrize("sampler", ONCE_A_STEP.replace(" or ", ", ").split(", "))
def test_samplers_that_evaluate_once_a_step(sampler):
    name = "WAN21_T2V"
    torch.manual_seed(0)
    plain = sample(model_of(name), name, sampler=sampler)
    torch.manual_seed(0)
    assert torch.equal(sample(under_mask(model_of(name), whole(range(STEPS))), name, sampler=sampler), plain)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sampler": "heun"}, "more than once a step or between steps"),
        ({"sampler": "dpm_2"}, "more than once a step or between steps"),
        ({"steps": 5}, "the mask has 6 rows, the sampler makes 5 steps"),
        ({"start_step": 2}, "they are not a part of those"),
    ],
)
def test_what_a_mask_cannot_follow_is_refused(options, says):
    name = "WAN21_T2V"
    before = sample(model_of(name), name)
    with pytest.raises(StepMaskError, match=says):
        sample(under_mask(model_of(name), whole()), name, **options)
    assert torch.equal(sample(model_of(name), name), before), "nothing is left applied"


def test_a_mask_of_another_model_is_refused():
    mask = StepMask(compute=[[1, 1], [1, 0]] + [[1, 1]] * 4, sites=["a", "b"], timesteps=range(STEPS))
    with pytest.raises(StepMaskError, match="the mask names 2 of 2 sites that the model lacks"):
        sample(under_mask(model_of("WAN21_T2V"), mask), "WAN21_T2V")


@pytest.mark.parametrize("keys", [[0, 2, 3, 4, 5], [0, 2, 4]])
def test_a_run_that_starts_late_is_at_later_rows(keys):
    name = "SD15"
    sampling = model_of(name).get_model_object("model_sampling")
    sigmas = comfy.samplers.KSampler(model_of(name), STEPS, torch.device("cpu"), "euler", "normal").sigmas
    mask = whole(keys, timesteps=sampling.timestep(sigmas[:-1]).tolist())
    with held(name, LAST[name], [key - 2 for key in keys]):
        expected = sample(model_of(name), name, start_step=2)
    assert torch.equal(sample(under_mask(model_of(name), mask), name, start_step=2), expected)


def key_steps(graph, timesteps, forecast=None) -> StepMask:
    return schedules.key_steps(graph, timesteps, KEYS, forecast=forecast)


def some_cells(graph, timesteps) -> StepMask:
    """Single blocks rest here and there."""
    compute = np.random.default_rng(0).random((len(timesteps), len(graph.innermost))) < 0.6
    compute[0] = True
    return StepMask(compute=compute, sites=graph.innermost.names, timesteps=timesteps.tolist(), graph=graph.fingerprint)


@pytest.mark.parametrize("make", [key_steps, partial(key_steps, forecast="linear"), some_cells])
def test_diffusers_makes_the_same_latents_under_the_same_mask(make):
    name, steps, cfg = "SD15", 5, 3.0
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=16, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
    ).eval()  # fmt: skip
    theirs = model_of(name).model.diffusion_model.state_dict()
    names = comfy.utils.unet_to_diffusers(dict(CONFIGURATIONS[name]))
    unet.load_state_dict({ours: theirs[names[ours]] for ours in unet.state_dict()})
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    scheduler = EulerDiscreteScheduler(timestep_spacing="trailing", **betas)
    scheduler.set_timesteps(steps)
    mask = make(stepmask.describe(unet), scheduler.timesteps)
    positive, negative = (part[0][0] for part in conditions(name))
    noise = comfy.sample.prepare_noise(torch.zeros(1, *LATENTS[name]), 0)
    latents = noise * (scheduler.sigmas[0] ** 2 + 1) ** 0.5
    with torch.no_grad(), stepmask.apply(unet, mask, scheduler=scheduler):
        for timestep in scheduler.timesteps:
            both = scheduler.scale_model_input(torch.cat([latents, latents]), timestep)
            text = torch.cat([negative, positive])
            without, prompted = unet(both, timestep, encoder_hidden_states=text, return_dict=False)[0].chunk(2)
            latents = scheduler.step(without + cfg * (prompted - without), timestep, latents, return_dict=False)[0]
    expected = latents / 0.18215
    made = sample(under_mask(model_of(name), mask), name, steps=steps, cfg=cfg, scheduler="simple")
    assert (made - expected).abs().max() < 1e-4 * expected.abs().max()
    plain = sample(model_of(name), name, steps=steps, cfg=cfg, scheduler="simple")
    assert (plain - expected).abs().max() > 1e-2 * expected.abs().max()


def node(name: str, *args, **kwargs):
    """What a node gives, called as ComfyUI calls it."""
    class_ = NODE_CLASS_MAPPINGS[name]
    asked = class_.INPUT_TYPES()
    assert set(kwargs) <= {*asked["required"], *asked.get("optional", {})}
    return getattr(class_(), class_.FUNCTION)(*args, **kwargs)


def test_nodes_learn_save_load_apply_and_show(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
    name = "WAN21_T2V"
    positive, negative = conditions(name)
    run = {"seed": 0, "steps": STEPS, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal"}
    task = {"model": model_of(name), "positive": positive, "negative": negative}
    latent = {"latent_image": {"samples": torch.zeros(1, *LATENTS[name])}}
    (first,) = node("LearnKeySteps", **task, **latent, **run, key_steps=3, runs=1)
    (mask,) = node("LearnKeySteps", **task, **latent, **run, key_steps=3, runs=8)
    assert first.provenance["runs"] == 2 and 2 < mask.provenance["runs"] <= 9
    _, second, third = mask.provenance["steps"]
    nearby = {(second + i, third + j) for i, j in ((-1, 0), (1, 0), (0, -1), (0, 1))}
    nearby = [[0, *keys] for keys in nearby if 0 < keys[0] < keys[1] < STEPS]
    full = sample(model_of(name), name).double()

    def error(mask: StepMask) -> float:
        return float((sample(under_mask(model_of(name), mask), name).double() - full).square().mean())

    assert mask.provenance["latent_mse"] <= min(error(whole(keys, forecast=True)) for keys in (*nearby, [0, 2, 4]))
    node("SaveStepMask", mask=mask, file="learned/mask.json")
    (loaded,) = node("LoadStepMask", source="learned/mask.json")
    assert loaded == mask and loaded.compute.sum() == 3
    (masked,) = node("ApplyStepMask", model=model_of(name), mask=loaded)
    made = (sample(masked, name).double() - full).square().mean()
    assert float(made) == loaded.provenance["latent_mse"] == error(mask), "the very run that was judged"
    (image,) = node("ShowStepMask", mask=loaded)
    assert image.dim() == 4 and image.shape[-1] == 3 and 0 <= image.min() < image.max() <= 1


class TinyModel:
    """A node in place of a loader of checkpoints."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("MODEL", "CONDITIONING", "CONDITIONING")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"name": (list(CONFIGURATIONS),)}}

    def make(self, name):
        return model_of(name), *conditions(name)


class Keep:
    """A node at the end of a workflow."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "tests", "keep", (), True
    kept: ClassVar = []

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"latent": ("LATENT",), "image": ("IMAGE",)}}

    def keep(self, latent, image):
        self.kept[:] = [latent["samples"], image]
        return {}


def run_headless(prompt) -> execution.PromptExecutor:
    """Run a workflow in the format of ComfyUI's API, as its server does."""
    valid, error, outputs, of_nodes = asyncio.run(execution.validate_prompt("run", prompt, None))
    assert valid, (error, of_nodes)
    executor = execution.PromptExecutor(MagicMock(client_id=None), cache_args={"ram": 0, "ram_inactive": 0})
    executor.execute(prompt, "run", execute_outputs=outputs)
    return executor


@pytest.mark.parametrize("steps", [STEPS, STEPS - 1])
def test_a_workflow_runs_headless(steps, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
    for class_ in (TinyModel, Keep, *NODE_CLASS_MAPPINGS.values()):
        monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, class_.__name__, class_)
    whole().save(tmp_path / "mask.json")
    sampling = {
        "positive": ["model", 1], "negative": ["model", 2], "latent_image": ["empty", 0], "seed": 0, "cfg": 3.0,
        "sampler_name": "euler", "scheduler": "simple",
    }  # fmt: skip
    source = str(tmp_path / "mask.json")
    workflow = {
        "model": {"class_type": "TinyModel", "inputs": {"name": "SD15"}},
        "empty": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 2}},
        "mask": {"class_type": "LoadStepMask", "inputs": {"source": source, "share": 0.0}},
        "apply": {"class_type": "ApplyStepMask", "inputs": {"model": ["model", 0], "mask": ["mask", 0]}},
        "sampler": {
            "class_type": "KSampler",
            "inputs": {"model": ["apply", 0], **sampling, "steps": steps, "denoise": 1.0},
        },
        "map": {"class_type": "ShowStepMask", "inputs": {"mask": ["mask", 0]}},
        "end": {"class_type": "Keep", "inputs": {"latent": ["sampler", 0], "image": ["map", 0]}},
    }
    executor = run_headless(workflow)
    said = dict(executor.status_messages)
    if steps != STEPS:
        assert "the mask has 6 rows, the sampler makes 5 steps" in said["execution_error"]["exception_message"]
        return
    assert executor.success, said
    expected = sample(under_mask(model_of("SD15"), whole()), "SD15", batch=2, scheduler="simple")
    assert torch.equal(Keep.kept[0], expected) and Keep.kept[1].shape[-1] == 3


def test_a_family_needs_a_share_and_a_mask_has_none(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
    (tmp_path / "stepmask").mkdir()
    members = [Member(share, 40.0, whole()) for share in (0.5, 0.9)]
    stepmask.MaskFamily(tuple(members)).save(tmp_path / "stepmask" / "family.json")
    whole().save(tmp_path / "stepmask" / "mask.json")
    assert node("LoadStepMask", source="family.json", share=0.6)[0] == whole()
    with pytest.raises(StepMaskError, match=r"MaskFamily\.load"):
        node("LoadStepMask", source="family.json")
    with pytest.raises(StepMaskError, match="set share to 0"):
        node("LoadStepMask", source="mask.json", share=0.6)
