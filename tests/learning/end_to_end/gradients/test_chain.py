"""The whole run as one differentiable map: its effects are derivatives of the final images, and nothing else changes.

`blend.Blend` is the obvious implementation that effects are held to.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, HeunDiscreteScheduler
from diffusers.models.activations import GELU
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

import stepmask
from blend import IMAGES, Blend
from fakes import OneByOne, TwoCalls, assert_unchanged, snapshot
from stepmask import State, StepMask, describe, make_plan, register_sites
from stepmask.inspection.overrides import without_decoder
from stepmask.inspection.registry import denoiser_of
from stepmask.inspection.sampler_loop import SamplerLoop
from stepmask.learning import EndToEnd
from stepmask.learning.end_to_end.gradients.adjoints import inner
from stepmask.learning.end_to_end.gradients.chain import Chain
from stepmask.learning.end_to_end.gradients.effects import Effects
from stepmask.learning.end_to_end.tables import settle
from stepmask.learning.interception import frozen
from stepmask.mask import Action
from stepmask.runtime.sampling import seeded
from tiny import ddim_pipeline, ddpm_pipeline, dit_pipeline, generator, random_mask, tiny_model, with_channel_gains

COPIES, STEPS = 2, 6
LABELS = [3, 7]
UNET, DIT = "UNet2DModel", "DiTTransformer2DModel"
LEAN = EndToEnd(graph_bytes=0)


def unclipped(pipe):
    """Where samples are clipped, the derivative jumps."""
    pipe.scheduler.register_to_config(clip_sample=False)
    return pipe


class Conditioned(nn.Module):
    """What its first two sites make depends on the timestep alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        sizes = {"embed": 1, "refine": 8, "shift": 8, "first": 8, "second": 8}
        self.layers = nn.ModuleDict({name: nn.Linear(size, 8) for name, size in sizes.items()})

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        run = self.layers
        embedded = run.embed(t[:, None].to(x) / 1000)[:, None]
        x = x + run.first(x + run.refine(embedded.sin()))
        return x + run.second(x).tanh() * run.shift(embedded.cos())


def conditioned() -> SamplerLoop:
    model = Conditioned().eval()
    sites = [f"layers.{name}" for name in ("refine", "shift", "first", "second")]
    register_sites(model, sites, example_inputs={"x": torch.zeros(1, 5, 8), "t": torch.zeros(1)})
    return SamplerLoop(model, DDIMScheduler(clip_sample=False))


PIPELINES = {  # pipeline, and what its call needs for one copy of the images
    "DDIM": lambda: (unclipped(ddim_pipeline()), {}),
    "DDPM": lambda: (unclipped(ddpm_pipeline()), {}),
    "guidance": lambda: (dit_pipeline(), {"class_labels": LABELS, "guidance_scale": 3.0}),
    "no guidance": lambda: (dit_pipeline(), {"class_labels": LABELS, "guidance_scale": 1.0}),
    "two calls": lambda: (TwoCalls(tiny_model(DIT), DDIMScheduler(clip_sample=False)), {"class_labels": LABELS}),
    "U-Net, DPM-Solver++": lambda: (SamplerLoop(tiny_model(UNET), DPMSolverMultistepScheduler()), {}),
    "DiT, Heun": lambda: (
        SamplerLoop(tiny_model(DIT), HeunDiscreteScheduler()),
        {"class_labels": torch.tensor(LABELS)},
    ),
    "one by one": lambda: (OneByOne(tiny_model(DIT), DDIMScheduler(clip_sample=False)), {"class_labels": LABELS}),
    "timestep alone": lambda: (conditioned(), {}),
}


def make(name: str):
    pipe, call = PIPELINES[name]()
    denoiser_of(pipe).double().requires_grad_(False)
    if hasattr(pipe, "vae"):
        pipe.vae.double()
    return pipe, {"num_inference_steps": 4 if name.endswith("Heun") else STEPS, **call}


def final(pipe, call: dict, copies: int = 1) -> Tensor:
    """Final latents (copies * IMAGES, ...), or images where the pipeline has no decoder."""
    call = {name: _repeated(value, copies) for name, value in call.items()}
    if not isinstance(pipe, SamplerLoop | TwoCalls):
        call["output_type"] = "pt"
    if "class_labels" not in call or isinstance(pipe, SamplerLoop):
        call["batch_size"] = copies * IMAGES
    generators = [one for _ in range(copies) for one in seeded(range(IMAGES))]
    with without_decoder(pipe) as latents:
        images = pipe(generator=generators, **call).images
    return latents[0] if latents else images


def _repeated(value, copies: int):
    return torch.cat([value] * copies) if isinstance(value, Tensor) else value * copies if value == LABELS else value


def settled(pipe, call: dict, seed: int = 0, share: float = 0.45, channels: bool = False) -> StepMask:
    """A random table of all actions, as learning hands them to the chain."""
    steps = call["num_inference_steps"]
    model = denoiser_of(pipe)
    mask = random_mask(model, pipe.scheduler, steps, seed, share, only_blocks=True, forecasts=0.5)
    if channels:
        mask = with_channel_gains(mask, model, lambda: final(pipe, call), seed)
    return settle(mask, describe(pipe))


def cotangents(pipe, call: dict, copies: int = COPIES) -> Tensor:
    """(copies, IMAGES, ...)."""
    shape = final(pipe, {**call, "num_inference_steps": 2}).shape
    return torch.randn(copies, *shape, generator=generator(7), dtype=torch.float64)


def prepared(name: str, copies: int = COPIES, channels: bool = False):
    """A pipeline, its call, a plan of all actions and (copies, IMAGES, ...) cotangents."""
    pipe, call = make(name)
    plan = make_plan(settled(pipe, call, channels=channels), describe(pipe))
    return pipe, call, plan, cotangents(pipe, call, copies)


def run_chain(
    pipe, call, plan, along: Tensor, config: EndToEnd = LEAN, fresh: bool = True, checkpointing=False, **options
) -> tuple[Effects, Tensor]:
    """The effects that a chain finds along (copies, IMAGES, ...) cotangents, and the images that it made."""
    chain = Chain(pipe, plan, IMAGES, len(along), config, probing=fresh, **options)
    with frozen(denoiser_of(pipe), checkpointing), chain.intercepting():
        images = final(pipe, call, len(along))
        images.backward(along.flatten(0, 1).to(images))
    return chain.effects, images.detach()


def blended(pipe, call, mask: StepMask, amounts, gradient: bool = False) -> Tensor:
    """Final images (IMAGES, ...) of a run under a blend."""
    model = denoiser_of(pipe)
    blend = Blend(model, mask, amounts)
    calls = [0]

    def place(module, args, kwargs):
        streams = 2 if type(pipe) is TwoCalls else 1
        blend.row, blend.stream = divmod(calls[0], streams)
        calls[0] += 1
        torch.set_grad_enabled(gradient)  # until the pipeline's own no_grad ends

    hook = model.register_forward_pre_hook(place, with_kwargs=True)
    try:
        return final(pipe, call)
    finally:
        hook.remove()
        blend.remove()


def derivatives(pipe, call, mask: StepMask, along: Tensor) -> np.ndarray:
    """(T, B, actions, copies, IMAGES): what `Effects.by_action` promises, by one graph of the whole run."""
    amounts = torch.zeros(*mask.actions.shape, len(Action), IMAGES, dtype=torch.float64, requires_grad=True)
    images = blended(pipe, call, mask, amounts, gradient=True)
    found = [torch.autograd.grad(images, amounts, one.to(images), retain_graph=True)[0] for one in along]
    return torch.stack(found, dim=-2).numpy()


def slope_along(along: Tensor, images: list[Tensor], apart: float) -> np.ndarray:
    """(copies, IMAGES) central difference of two runs, along each cotangent."""
    return (along * (images[0] - images[1]).double() / apart).flatten(2).sum(2).numpy()


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    """Inner products are taken in single precision."""
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6 * np.abs(expected).max())


def open_switches(plan) -> np.ndarray:
    """(T, B, actions) bool, what has an effect of its own: in cells that are read; forecasts need two values."""
    actions = plan.mask.actions
    earlier = np.cumsum(actions == Action.compute, axis=0) - (actions == Action.compute)
    found = (np.arange(len(Action)) != actions[..., None]) & (plan.states != State.dead)[..., None]
    found[..., Action.linear] &= earlier >= 2
    found[0] = False
    return found


PAIRS = [(before, after) for before in Action for after in Action if before != after]


# --- effects


@pytest.mark.parametrize("name", PIPELINES)
def test_effects_are_derivatives_of_the_final_images(name):
    pipe, call = make(name)
    for seed in (0, 1):
        mask = settled(pipe, call, seed, channels=seed == 1)
        assert (mask.channel_gains is not None) == (seed == 1)
        plan = make_plan(mask, describe(pipe))
        assert {State.compute, State.reuse, State.forecast} <= set(plan.states.flatten().tolist())
        along = cotangents(pipe, call)
        found, _ = run_chain(pipe, call, plan, along)
        expected = derivatives(pipe, call, mask, along)
        possible = open_switches(plan)
        for before, after in PAIRS:
            assert (possible[..., after] & (mask.actions == before)).any()
        assert not found.by_action[~possible].any()
        assert_close(found.by_action[possible], expected[possible])


@pytest.mark.parametrize("name", ["DDIM", "guidance"])
def test_the_derivatives_are_those_of_finite_differences(name):
    """What the test above compares with, without autograd."""
    pipe, call, plan, along = prepared(name)
    mask = plan.mask
    found, _ = run_chain(pipe, call, plan, along)
    possible = open_switches(plan)
    for before, after in PAIRS:
        cells = np.argwhere(possible[..., after] & (mask.actions == before))
        row, site = (int(i) for i in cells[np.random.default_rng(before).integers(len(cells))])
        images = [blended(pipe, call, mask, {(row, site, after): step}) for step in (1e-4, -1e-4)]
        expected = slope_along(along, images, 2e-4)
        assert_close(found.by_action[row, site, after], expected)


@pytest.mark.parametrize("name", ["DDIM", "guidance", "two calls"])
def test_slopes_are_derivatives_by_the_gains(name):
    pipe, call, plan, along = prepared(name)
    mask = plan.mask
    found, _ = run_chain(pipe, call, plan, along, fresh=False)
    earlier = np.cumsum(mask.compute, axis=0) - mask.compute
    read = (plan.states == State.forecast) | (plan.states == State.reuse)
    assert not found.by_gain[~(read & (earlier >= 2))].any()
    cells = np.argwhere((plan.states == State.forecast) & (earlier >= 2))
    for row, site in cells[np.random.default_rng(0).permutation(len(cells))[:3]]:
        images = []
        for step in (1e-4, -1e-4):
            gains = mask.gains.copy()
            gains[row, site] += 100 * step  # kept to four decimals
            moved = mask.with_actions(mask.actions, gains=gains)
            images.append(blended(pipe, call, moved, {}))
        expected = slope_along(along, images, 2e-2)
        np.testing.assert_allclose(found.by_gain[row, site], expected, rtol=2e-2, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["DDIM", "guidance", "two calls"])
def test_slopes_of_channels_are_derivatives_by_their_gains(name):
    """Nearly linear, so that a large step shows more than what rounding to three decimals leaves."""
    pipe, call, plan, along = prepared(name, channels=True)
    mask = plan.mask
    assert not run_chain(pipe, call, plan, along, fresh=False)[0].by_channel_gain, "only where they are asked for"
    chain, _ = run_chain(pipe, call, plan, along, fresh=False, by_channel=True)
    found = {plan.sites[site]: slopes for site, slopes in chain.by_channel_gain.items()}
    assert found.keys() <= mask.channel_gains.keys() and len(found) > 2
    for site in np.random.default_rng(0).permutation(sorted(found))[:3]:
        channel = int(np.abs(found[site]).sum((0, 1)).argmax())
        images = []
        for step in (1e-2, -1e-2):
            moved = mask.channel_gains[site].copy()
            moved[channel] += step
            channels = {**mask.channel_gains, site: moved}
            images.append(blended(pipe, call, replace(mask, channel_gains=channels), {}))
        expected = slope_along(along, images, 2e-2)
        assert found[site].shape[2:] == moved.shape
        tolerance = 3e-2 * np.abs(expected).max()
        np.testing.assert_allclose(found[site][..., channel], expected, rtol=2e-2, atol=tolerance)


def test_without_fresh_values_only_computing_is_left_out_and_values_may_wait_elsewhere():
    pipe, call, plan, along = prepared("guidance")
    cases = ({"fresh": True}, {"config": EndToEnd(graph_bytes=0, offload=True)}, {"fresh": False})
    fresh, elsewhere, lean = (run_chain(pipe, call, plan, along, **case)[0].by_action for case in cases)
    assert np.array_equal(fresh, elsewhere)
    assert fresh[:, :, Action.compute].any() and not lean[:, :, Action.compute].any()
    others = [Action.hold, Action.linear]
    assert np.array_equal(fresh[:, :, others], lean[:, :, others]) and lean.any()


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("name", ["DDIM", "guidance", "two calls", "DiT, Heun"])
def test_steps_whose_graph_is_kept_are_not_run_again(name, fresh):
    pipe, call, plan, along = prepared(name)
    calls = []
    first = next(module for module in denoiser_of(pipe).modules() if isinstance(module, torch.nn.Conv2d))
    first.register_forward_pre_hook(lambda module, args: calls.append(module))

    def with_graphs(graph_bytes):
        calls.clear()
        effects, images = run_chain(pipe, call, plan, along, EndToEnd(graph_bytes=graph_bytes), fresh)
        return effects, images, len(calls)

    (none, images, twice), (some, same, between), (all_of_them, also, once) = map(with_graphs, (0, 400_000, 2**30))
    assert once < between < twice and twice - once == once - once // plan.num_rows  # the first step has no way back
    assert torch.equal(images, same) and torch.equal(images, also)
    for found in (some, all_of_them):
        assert np.array_equal(found.by_action, none.by_action) and np.array_equal(found.by_gain, none.by_gain)


@pytest.mark.parametrize("name", ["DDIM", "guidance", "two calls"])
def test_several_cotangents_are_as_many_runs(name):
    pipe, call, plan, along = prepared(name, 3)
    together, _ = run_chain(pipe, call, plan, along)
    for copy, one in enumerate(along):
        alone, _ = run_chain(pipe, call, plan, one[None])
        assert_close(together.by_action[:, :, :, copy], alone.by_action[:, :, :, 0])
    assert not np.allclose(together.by_action[:, :, :, 0], together.by_action[:, :, :, 1])


@pytest.mark.parametrize("graph_bytes", [0, 2**30])
@pytest.mark.parametrize("name", ["DDIM", "guidance", "two calls", "one by one", "blocks as sites"])
def test_blocks_that_are_checkpointed_run_again_and_change_nothing(name, graph_bytes):
    """Bitwise: the gates hand out again what they did, to each cotangent."""
    pipe, call = make("guidance" if name == "blocks as sites" else name)
    if name == "blocks as sites":
        register_sites(denoiser_of(pipe), ["transformer_blocks.*"])
    plan, along = make_plan(settled(pipe, call, channels=True), describe(pipe)), cotangents(pipe, call)
    calls = []
    for module in denoiser_of(pipe).modules():
        if isinstance(module, GELU | ResnetBlock2D):
            module.register_forward_pre_hook(lambda module, args: calls.append(module))

    def with_checkpointing(on):
        calls.clear()
        effects, images = run_chain(pipe, call, plan, along, EndToEnd(graph_bytes=graph_bytes), checkpointing=on)
        return effects, images, len(calls)

    (plain, images, before), (again, same, after) = map(with_checkpointing, (False, True))
    assert after > before > 0 and torch.equal(images, same)
    assert np.array_equal(again.by_action, plain.by_action) and np.array_equal(again.by_gain, plain.by_gain)


# --- the run itself


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("name", PIPELINES)
def test_the_images_are_those_of_the_plan_bitwise_in_every_copy(name, fresh):
    pipe, call = make(name)
    plan = make_plan(settled(pipe, call), describe(pipe))
    with stepmask.apply(pipe, plan):
        expected = final(pipe, call)
    chain = Chain(pipe, plan, IMAGES, 3, LEAN, probing=fresh)
    with frozen(denoiser_of(pipe)), chain.intercepting():
        images = final(pipe, call, 3)
    assert images.requires_grad and not torch.equal(expected, final(pipe, call))
    for copy in images.detach().unflatten(0, (3, IMAGES)):
        assert torch.equal(copy, expected)


@pytest.mark.parametrize("how", ["finished", "forwards", "backwards"])
@pytest.mark.parametrize("name", ["DDIM", "guidance"])
def test_everything_is_restored(name, how):
    pipe, call = make(name)
    model = denoiser_of(pipe).train().requires_grad_(True)
    plan, along = make_plan(settled(pipe, call), describe(pipe)), cotangents(pipe, call)
    before, calls = snapshot(model), []

    def fail(module, args):
        calls.append(1)
        if len(calls) == {"forwards": 4, "backwards": STEPS + 3}.get(how):
            raise KeyboardInterrupt

    hook = next(model.children()).register_forward_pre_hook(fail)
    if how == "finished":
        run_chain(pipe, call, plan, along)
    else:
        with pytest.raises(KeyboardInterrupt):
            run_chain(pipe, call, plan, along)
        assert len(calls) == {"forwards": 4, "backwards": STEPS + 3}[how]
    hook.remove()
    assert_unchanged(model, before)
    assert torch.is_grad_enabled()


# --- inner products


@pytest.mark.parametrize("groups", [1, 2])
def test_inner_products_by_copy_and_image(groups):
    copies, shapes = 3, [(4, 2), (5,)]
    cotangent = [torch.randn(copies, groups * IMAGES, *shape, generator=generator(1)) for shape in shapes]
    change = [torch.randn(groups * IMAGES, *shape, generator=generator(2)) for shape in shapes]
    expected = np.zeros((copies, IMAGES))
    for copy in range(copies):
        for entry in range(groups * IMAGES):
            for g, d in zip(cotangent, change, strict=True):
                expected[copy, entry % IMAGES] += float((g[copy, entry] * d[entry]).sum())
    np.testing.assert_allclose(inner(cotangent, change, groups, IMAGES), expected, rtol=1e-5)
