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
from gate import in_gate
from stepmask import State, StepMask, describe, make_plan, register_sites
from stepmask.inspection.overrides import without_decoder
from stepmask.inspection.registry import denoiser_of
from stepmask.inspection.sampler_loop import SamplerLoop
from stepmask.learning import EndToEnd
from stepmask.learning.end_to_end.gradients.adjoints import inner
from stepmask.learning.end_to_end.gradients.chain import Chain
from stepmask.learning.end_to_end.gradients.effects import ActionEffects, ForecastEffects
from stepmask.learning.end_to_end.tables import settle
from stepmask.learning.interception import frozen
from stepmask.mask import Action
from stepmask.runtime.sampling import seeded
from tiny import (
    ddim_pipeline,
    ddpm_pipeline,
    dit_pipeline,
    generator,
    random_mask,
    tiny_model,
    with_channel_gains,
    with_weights,
)

COPIES, STEPS = 2, 6
LABELS = [3, 7]
UNET, DIT = "UNet2DModel", "DiTTransformer2DModel"
LEAN = EndToEnd(graph_bytes=0)
SLOW_UNET = pytest.param("DDIM", marks=pytest.mark.slow)
"""Where transformers show the same, and U-Nets have their turn in the tests of effects, gains and kept graphs."""


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


def settled(
    pipe, call: dict, seed: int = 2, share: float = 0.45, *, flat: bool = False, channels: bool = False, values: int = 0
) -> StepMask:
    """A random table of all actions, as learning hands them to the chain.

    Where it is flat, what contains others computes always; with a number of values, what contains others has weights.
    """
    graph, model = describe(pipe), denoiser_of(pipe)
    outer = list(graph.within)
    mask = random_mask(model, pipe.scheduler, call["num_inference_steps"], seed, share, only_blocks=True, forecasts=0.5)
    if flat:
        actions = mask.actions
        actions[:, outer] = Action.compute
        mask = mask.with_actions(actions, **mask.forecasting())
    if channels:
        mask = with_channel_gains(mask, model, lambda: final(pipe, call), seed)
    if values:
        mask = with_weights(mask, model, lambda: final(pipe, call), [graph.names[i] for i in outer], values, seed)
    return settle(mask, graph)


def cotangents(pipe, call: dict, copies: int = COPIES) -> Tensor:
    """(copies, IMAGES, ...)."""
    shape = final(pipe, {**call, "num_inference_steps": 2}).shape
    return torch.randn(copies, *shape, generator=generator(7), dtype=torch.float64)


def prepared(name: str, copies: int = COPIES, **options):
    """A pipeline, its call, a plan of all actions and (copies, IMAGES, ...) cotangents."""
    pipe, call = make(name)
    plan = make_plan(settled(pipe, call, **options), describe(pipe))
    return pipe, call, plan, cotangents(pipe, call, copies)


def run_chain(
    pipe, call, plan, along: Tensor, config: EndToEnd = LEAN, probing: bool = True, checkpointing=False
) -> tuple[ActionEffects | ForecastEffects, Tensor]:
    """The effects that a chain finds along (copies, IMAGES, ...) cotangents, and the images that it made."""
    chain = Chain(pipe, plan, IMAGES, len(along), config, probing=probing)
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
    """(T, B, actions) bool, what has an effect of its own: in cells that run or are read; forecasts need two values.

    What runs for what lies within it alone makes a value too, which another table may read.
    """
    found = np.arange(len(Action)) != plan.mask.actions[..., None]
    found &= (plan.called | (plan.states != State.dead))[..., None]
    found[..., Action.linear] &= known_before(plan.called) >= 2
    found[0] = False
    return found


PAIRS = [(before, after) for before in Action for after in Action if before != after]


# --- effects


def switched_between(possible: np.ndarray, actions: np.ndarray, sites: list[int]) -> set[tuple[Action, Action]]:
    """Which pairs of actions there are switches between among these sites."""
    return {(a, b) for a, b in PAIRS if (possible[:, sites, b] & (actions[:, sites] == a)).any()}


FURTHER = ("DDPM", "U-Net, DPM-Solver++", "no guidance", "DiT, Heun", "one by one")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in FURTHER else []) for name in PIPELINES]
)
def test_effects_are_derivatives_of_the_final_images(name):
    """Of a table in which everything that contains other sites computes; and of others.

    Where a site rests, so does all within it, and later rows find older values of that too. Where one computes that
    rested, all within it does; that later rows would find newer values of that, if they do not compute it, is left out:
    by the chain as by what it is held to.
    """
    pipe, call = make(name)
    graph, along, is_unet = describe(pipe), cotangents(pipe, call), hasattr(denoiser_of(pipe), "up_blocks")
    outer, inner = list(graph.within), [site for site in range(len(graph)) if site not in graph.within]
    for flat, seed in ((True, 0), (False, 14 if is_unet else 18)):
        plan = make_plan(settled(pipe, call, seed, flat=flat, channels=flat), graph)
        assert (plan.mask.channel_gains is not None) == flat
        possible = open_switches(plan)
        found, _ = run_chain(pipe, call, plan, along)
        expected = derivatives(pipe, call, plan.mask, along)
        assert not found.by_action[~possible].any()
        assert_close(found.by_action[possible], expected[possible])
        sites = inner if flat or not outer else outer
        assert switched_between(possible, plan.mask.actions, sites) == set(PAIRS)


@pytest.mark.parametrize("name", [SLOW_UNET, "guidance"])
def test_the_derivatives_are_those_of_finite_differences(name):
    """What the test above compares with, without autograd."""
    pipe, call, plan, along = prepared(name, seed=3)
    mask = plan.mask
    found, _ = run_chain(pipe, call, plan, along)
    possible = open_switches(plan)
    for before, after in PAIRS:
        cells = np.argwhere(possible[..., after] & (mask.actions == before))
        row, site = (int(i) for i in cells[np.random.default_rng(before).integers(len(cells))])
        images = [blended(pipe, call, mask, {(row, site, after): step}) for step in (1e-4, -1e-4)]
        expected = slope_along(along, images, 2e-4)
        assert_close(found.by_action[row, site, after], expected)


def known_before(compute: np.ndarray) -> np.ndarray:
    """(T, B) number of values that were computed before each row."""
    return np.cumsum(compute, axis=0) - compute


def slopes_by(pipe, call, mask: StepMask, along: Tensor, part: str, key, index: tuple, by: float) -> np.ndarray:
    """(copies, IMAGES) slopes along each cotangent by a number of a mask's forecasts, from two plain runs.

    Args:
        part: As `StepMask.forecasting` calls it.
        key: The name of a site, where the part has a table for each.
        index: Where the number is in the table.
        by: How far it is moved. Images are nearly linear in it, and masks keep a few decimals.
    """
    images = []
    for step in (by, -by):
        tables = mask.forecasting()
        moved = np.array(tables[part] if key is None else tables[part][key])
        moved[index] += step
        tables[part] = moved if key is None else {**tables[part], key: moved}
        images.append(blended(pipe, call, replace(mask, **tables), {}))
    return slope_along(along, images, 2 * by)


def assert_slopes_are_close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=2e-2, atol=2e-3 * np.abs(expected).max())


FORECASTING = {"DDIM": (15, 0.7), "guidance": (14, 0.45), "two calls": (14, 0.45)}
"""Seeds and shares of tables in which innermost sites, blocks and lists of them forecast, some from three values."""


@pytest.mark.parametrize("values", [0, 3], ids=["lines", "weights beside them"])
@pytest.mark.parametrize("name", FORECASTING)
def test_slopes_are_derivatives_by_the_gains(name, values):
    pipe, call, plan, along = prepared(name, seed=FORECASTING[name][0], share=FORECASTING[name][1], values=values)
    found, _ = run_chain(pipe, call, plan, along, probing=False)
    weighted = [site in plan.weights for site in range(len(plan.sites))]
    forecasts = (plan.states == State.forecast) & ~np.array(weighted)
    assert (known_before(plan.compute)[forecasts] >= 2).all() and bool(found.by_weight) == bool(values)
    assert not found.by_gain[~forecasts].any()
    moving = forecasts & found.by_gain.any((-1, -2))  # others draw lines through a value that was computed twice
    assert moving.any()
    for row, site in np.random.default_rng(0).permutation(np.argwhere(moving))[:3].tolist():
        expected = slopes_by(pipe, call, plan.mask, along, "gains", None, (row, site), 1e-2)
        assert_slopes_are_close(found.by_gain[row, site], expected)


@pytest.mark.parametrize("name", [SLOW_UNET, "guidance", "two calls"])
def test_slopes_of_channels_are_derivatives_by_their_gains(name):
    pipe, call, plan, along = prepared(name, seed=FORECASTING[name][0], share=FORECASTING[name][1], channels=True)
    without = EndToEnd(graph_bytes=0, channel_gains=False)
    assert not run_chain(pipe, call, plan, along, without, probing=False)[0].by_channel_gain
    chain, _ = run_chain(pipe, call, plan, along, probing=False)
    found = {plan.sites[site]: slopes for site, slopes in chain.by_channel_gain.items()}
    assert found.keys() <= plan.mask.channel_gains.keys() and len(found) > 2
    for site in np.random.default_rng(0).permutation(sorted(found))[:3]:
        assert found[site].shape[2:] == plan.mask.channel_gains[site].shape
        channel = int(np.abs(found[site]).sum((0, 1)).argmax())
        expected = slopes_by(pipe, call, plan.mask, along, "channel_gains", site, (channel,), 1e-2)
        assert_slopes_are_close(found[site][..., channel], expected)


@pytest.mark.parametrize(("name", "values"), [
    pytest.param("DDIM", 3, marks=pytest.mark.slow), ("guidance", 4), ("guidance", 2), ("two calls", 3),
])  # fmt: skip
def test_slopes_of_weights_are_derivatives_by_them(name, values):
    pipe, call, plan, along = prepared(name, seed=FORECASTING[name][0], share=FORECASTING[name][1], values=values)
    chain, _ = run_chain(pipe, call, plan, along, probing=False)
    assert chain.by_weight.keys() == plan.weights.keys() and len(plan.weights) > 1
    known, orders = known_before(plan.compute), set()
    for site, slopes in chain.by_weight.items():
        assert slopes.shape == (*plan.weights[site].shape[:2], COPIES, IMAGES, plan.weights[site].shape[2])
        (rows,) = np.nonzero(plan.states[:, site] == State.forecast)
        assert not np.delete(slopes, rows, axis=0).any()
        for row in rows.tolist():
            assert not slopes[row, known[row, site] :].any(), "terms that need more values than there are"
            for order in range(min(values, known[row, site])):
                channel = int(np.abs(slopes[row, order]).sum((0, 1)).argmax())
                index = row, order, channel
                expected = slopes_by(pipe, call, plan.mask, along, "weights", plan.sites[site], index, 1e-2)
                assert_slopes_are_close(slopes[row, order, ..., channel], expected)
                orders.add(order)
    assert {0, 1} <= orders and (values == 2 or 2 in orders)


@pytest.mark.parametrize("name", [SLOW_UNET, "guidance", "two calls"])
def test_other_sites_are_accounted_for_beside_those_with_weights(name):
    """All but those that contain some, whose later reads are left out if they rest."""
    pipe, call, plan, along = prepared(name, seed=FORECASTING[name][0], share=FORECASTING[name][1], values=3)
    found, _ = run_chain(pipe, call, plan, along)
    weighted = list(plan.weights)
    assert weighted and not found.by_action[:, weighted].any()
    expected = derivatives(pipe, call, plan.mask, along)
    possible = open_switches(plan)
    containing = [outer for outer, inside in plan.graph.within.items() if any(inside >> site & 1 for site in weighted)]
    possible[:, weighted + containing] = False
    assert possible.any((0, 2)).sum() > 3
    assert_close(found.by_action[possible], expected[possible])


def test_values_may_wait_elsewhere():
    pipe, call, plan, along = prepared("guidance", seed=14, values=3)
    for probing, parts in ((True, ["by_action"]), (False, ["by_gain", "by_weight", "by_channel_gain"])):
        here, elsewhere = (
            run_chain(pipe, call, plan, along, EndToEnd(graph_bytes=0, offload=offload), probing)[0]
            for offload in (False, True)
        )
        for part in parts:
            assert_same(getattr(here, part), getattr(elsewhere, part))


def assert_same(one, other) -> None:
    """Numbers, or tables of them by site."""
    if not isinstance(one, dict):
        one, other = {0: one}, {0: other}
    assert one.keys() == other.keys() and any(numbers.any() for numbers in one.values())
    for site, numbers in one.items():
        assert np.array_equal(numbers, other[site])


@pytest.mark.parametrize("probing", [True, False])
@pytest.mark.parametrize("name", in_gate(["DDIM", "guidance", "two calls", "DiT, Heun"], "DDIM", "two calls"))
def test_steps_whose_graph_is_kept_are_not_run_again(name, probing):
    pipe, call, plan, along = prepared(name, seed=0, share=0.6, flat=True)
    calls, some_bytes = [], 1_200_000 if name == "DDIM" else 400_000
    first = next(module for module in denoiser_of(pipe).modules() if isinstance(module, torch.nn.Conv2d))
    first.register_forward_pre_hook(lambda module, args: calls.append(module))

    def with_graphs(graph_bytes):
        calls.clear()
        effects, images = run_chain(pipe, call, plan, along, EndToEnd(graph_bytes=graph_bytes), probing)
        return effects, images, len(calls)

    (none, images, twice), (some, same, between), (all_of_them, also, once) = map(with_graphs, (0, some_bytes, 2**30))
    assert once < between < twice and twice - once == once - once // plan.num_rows  # the first step has no way back
    assert torch.equal(images, same) and torch.equal(images, also)
    for found in (some, all_of_them):
        for part in ["by_action"] if probing else ["by_gain", "by_channel_gain"]:
            assert_same(getattr(found, part), getattr(none, part))


@pytest.mark.parametrize("name", [SLOW_UNET, "guidance", "two calls"])
def test_several_cotangents_are_as_many_runs(name):
    pipe, call, plan, along = prepared(name, 3)
    together, _ = run_chain(pipe, call, plan, along)
    for copy, one in enumerate(along):
        alone, _ = run_chain(pipe, call, plan, one[None])
        assert_close(together.by_action[:, :, :, copy], alone.by_action[:, :, :, 0])
    assert not np.allclose(together.by_action[:, :, :, 0], together.by_action[:, :, :, 1])


@pytest.mark.parametrize("probing", [True, False])
@pytest.mark.parametrize("graph_bytes", [0, pytest.param(2**30, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["DDIM", "guidance", "two calls", "one by one", "blocks as sites"])
def test_blocks_that_are_checkpointed_run_again_and_change_nothing(name, graph_bytes, probing):
    """Bitwise: the gates hand out again what they did, to each cotangent."""
    pipe, call = make("guidance" if name == "blocks as sites" else name)
    if name == "blocks as sites":
        register_sites(denoiser_of(pipe), ["transformer_blocks.*"])
    plan = make_plan(settled(pipe, call, seed=0, share=0.6, flat=True, channels=True), describe(pipe))
    along, calls = cotangents(pipe, call), []
    for module in denoiser_of(pipe).modules():
        if isinstance(module, GELU | ResnetBlock2D):
            module.register_forward_pre_hook(lambda module, args: calls.append(module))

    def with_checkpointing(on):
        calls.clear()
        effects, images = run_chain(pipe, call, plan, along, EndToEnd(graph_bytes=graph_bytes), probing, on)
        return effects, images, len(calls)

    (plain, images, before), (again, same, after) = map(with_checkpointing, (False, True))
    assert after > before > 0 and torch.equal(images, same)
    for part in ["by_action"] if probing else ["by_gain", "by_channel_gain"]:
        assert_same(getattr(again, part), getattr(plain, part))


# --- the run itself


@pytest.mark.parametrize(("probing", "values"), [(True, 0), (False, 3)])
@pytest.mark.parametrize("name", PIPELINES)
def test_the_images_are_those_of_the_plan_bitwise_in_every_copy(name, probing, values):
    pipe, call = make(name)
    plan = make_plan(settled(pipe, call, values=values), describe(pipe))
    with stepmask.apply(pipe, plan):
        expected = final(pipe, call)
    chain = Chain(pipe, plan, IMAGES, 3, LEAN, probing=probing)
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
