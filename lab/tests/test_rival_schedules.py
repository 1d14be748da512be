"""Quad spacing and branches of DeepCache, Faster Diffusion, step skipping, random cells, PostDiff."""

import numpy as np
import pytest
from cases import pixart, pixart_texts
from hypothesis import given, settings
from hypothesis import strategies as st

from refusal import check_refused
from stepmask import BlockGraph, Site, StepMaskError, apply, describe, make_plan, measure_cost, presets, schedules
from stepmask.graph import OUT
from stepmask.schedules.deepcache import quad_steps
from stepmask_lab.schedules import postdiff_recipe
from stepmask_lab.schedules.faster_diffusion import scaled_key_steps
from tiny import ddim_pipeline, tiny_model

TRANSFORMER = BlockGraph.branches([Site("0.attn1", "attention"), Site("0.ff", "mlp")])
PIXART = BlockGraph.branches(
    [
        Site(f"{i}.{name}", kind)
        for i in range(2)
        for name, kind in (("attn1", "attention"), ("attn2", "cross_attention"))
    ]
)
STATES = [
    Site("down_blocks.0.resnets.0", "resnet", 0),
    Site("down_blocks.0.downsamplers.0", "sampler", 0),
    Site("down_blocks.1.resnets.0", "resnet", 1),
    Site("down_blocks.1.attentions.0", "attention", 1),
    Site("mid_block.resnets.0", "resnet", 1),
    Site("up_blocks.0.resnets.0", "resnet", 1),
    Site("up_blocks.0.attentions.0", "attention", 1),
    Site("up_blocks.0.resnets.1", "resnet", 1),
    Site("up_blocks.0.attentions.1", "attention", 1),
    Site("up_blocks.0.upsamplers.0", "sampler", 1),
    Site("up_blocks.1.resnets.0", "resnet", 0),
    Site("up_blocks.1.resnets.1", "resnet", 0),
]
SKIPS = {0: 10, 1: 7, 3: 5}
UNET = BlockGraph(
    tuple(STATES),
    tuple(
        (OUT,) if i == len(STATES) - 1 else (i + 1, *([SKIPS[i]] if SKIPS.get(i, i + 1) != i + 1 else []))
        for i in range(len(STATES))
    ),
    tuple(site.kind == "resnet" for site in STATES),
)


def words(mask) -> list[str]:
    return ["".join("01l"[action] for action in row) for row in mask.actions]


def held(mask, row: int = 1) -> set[str]:
    return {mask.sites[i] for i in np.flatnonzero(~mask.compute[row])}


# as the authors' own function says, run once under numpy 2
PUBLISHED = [
    (50, 10, 15, 1.4, [0, 5, 9, 13, 17, 21, 26, 31, 37, 43]),
    (50, 17, 15, 1.4, [0, 3, 6, 8, 11, 13, 15, 17, 20, 22, 25, 28, 32, 35, 38, 42, 46]),
    (50, 5, 15, 1.4, [0, 9, 17, 26, 37]),
    (50, 10, 15, 1.2, [0, 5, 10, 14, 18, 22, 27, 32, 38, 44]),
    (20, 4, 6, 1.2, [0, 5, 9, 14]),
    (100, 10, 80, 1.5, [0, 14, 28, 40, 51, 62, 71, 79, 86, 93]),
]


@pytest.mark.parametrize(("rows", "count", "center", "power", "steps"), PUBLISHED)
def test_quad_spacing_is_the_published_one(rows, count, center, power, steps):
    assert quad_steps(rows, count, center, power) == steps
    mask = schedules.deepcache(UNET, range(rows), -(-rows // count), spacing="quad", center=center, power=power)
    assert np.flatnonzero(mask.compute.all(1)).tolist() == steps
    assert {"spacing": "quad", "center": center, "power": power}.items() <= mask.provenance.items()


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_quad_spacing_of_any_run_begins_with_the_first_step(data):
    rows = data.draw(st.integers(1, 120))
    count = data.draw(st.integers(1, rows))
    center = data.draw(st.integers(0, rows - 1))
    steps = quad_steps(rows, count, center, data.draw(st.floats(1.05, 4)))
    assert steps[0] == 0 and steps == sorted(set(steps)) and steps[-1] < rows


@pytest.mark.parametrize(("options", "says"), [
    ({"spacing": "cubic"}, r"spacing must be one of uniform, quad, got 'cubic'"),
    ({"spacing": "quad", "center": 9}, r"center must be a step between 0 and 8, got 9"),
    ({"spacing": "quad", "power": 1}, r"power must be a number over 1 and at most 4, got 1"),
    ({"branch": 4}, r"branch must lie between 0 and 3 for this U-Net, got 4"),
    ({"branch": True}, r"branch must lie between 0 and 3 .* got True"),
])  # fmt: skip
def test_what_deepcache_refuses(options, says):
    check_refused(says, schedules.deepcache, UNET, range(9), **options)


def test_a_branch_is_the_border_by_layers():
    """What runs between key steps, upsamplers and all that feeds held layers left to elimination."""
    last, second = {"up_blocks.1.resnets.1"}, {"up_blocks.1.resnets.0", "down_blocks.0.resnets.0"}
    third = {
        "up_blocks.0.resnets.1", "up_blocks.0.attentions.1", "up_blocks.0.upsamplers.0",
        "down_blocks.0.downsamplers.0",
    }  # fmt: skip
    for branch, runs in enumerate((last, last | second, last | second | third)):
        plan = make_plan(schedules.deepcache(UNET, range(3), 3, branch=branch), UNET)
        assert {plan.sites[i] for i in np.flatnonzero(plan.compute[1])} == runs


def test_on_the_published_ddpm_branch_2_is_the_first_level():
    """The authors' setting for CIFAR-10; with elimination it costs 0.300 T at 1:5 over 100 steps."""
    model = presets.load("ddpm-cifar10-32")
    graph, cost = describe(model), measure_cost(model).conv_linear()
    plans = [make_plan(schedules.deepcache(graph, range(100), 5, **kw), graph) for kw in ({"branch": 2}, {"depth": 1})]
    assert [round(cost.total_macs(plan) / 1e12, 4) for plan in plans] == [0.3002, 0.3002]


def test_faster_diffusion_holds_encoder_and_middle():
    mask = schedules.faster_diffusion(UNET, range(50))
    assert (
        np.flatnonzero(mask.compute.all(1)).tolist() == [0, 1, 2, 3, 5, 10, 15, 25, 35] == mask.provenance["key_steps"]
    )
    encoder = {s.name for s in STATES if not s.name.startswith("up") and s.kind != "sampler"}
    assert held(mask, 4) == encoder
    plan = make_plan(mask, UNET)
    assert {UNET.names[i] for i in np.flatnonzero(plan.compute[4])} == {s.name for s in STATES if s.name[:2] == "up"}


def test_faster_diffusion_of_other_lengths():
    assert scaled_key_steps(100) == [0, 2, 4, 6, 10, 20, 30, 50, 70]
    assert scaled_key_steps(10) == [0, 1, 2, 3, 5, 7] and scaled_key_steps(1) == [0]
    mask = schedules.faster_diffusion(UNET, range(4), key_steps=[0, 2], forecast="linear")
    assert words(mask) == ["111111111111", "lllll1111111", "111111111111", "lllll1111111"]


@pytest.mark.parametrize("key_steps", [[1, 2], [0, 4], [0, -1], 3, "012", [0, 1.5], [0, True]])
def test_key_steps_that_are_none(key_steps):
    check_refused("key_steps", schedules.faster_diffusion, UNET, range(4), key_steps=key_steps)


@pytest.mark.parametrize("schedule", [schedules.faster_diffusion, lambda *a: schedules.deepcache(*a, branch=0)])
def test_u_nets_only(schedule):
    check_refused(r"needs a U-Net.*schedules\.fora", schedule, TRANSFORMER, range(3))


def test_step_skipping():
    assert words(schedules.step_skipping(TRANSFORMER, range(7))) == ["11", "11", "00", "11", "11", "00", "11"]
    assert words(schedules.step_skipping(TRANSFORMER, range(4), every=2, forecast="linear")) == ["11", "ll", "11", "ll"]
    mask = schedules.step_skipping(TRANSFORMER, range(5), steps=[3, 1])
    assert words(mask) == ["11", "00", "11", "00", "11"]
    assert mask.provenance == {"method": "step_skipping", "steps": [1, 3]}


def test_a_skipped_step_of_a_u_net_runs_no_block():
    graph = describe(ddim_pipeline())
    plan = make_plan(schedules.step_skipping(graph, range(3), steps=[1]), graph)
    assert not plan.compute[1].any()


@pytest.mark.parametrize(("options", "says"), [
    ({"every": 2, "steps": [1]}, "exclude each other"),
    ({"every": 1}, "every must be at least 2"),
    ({"every": 2.5}, "every must be a whole number of steps"),
    ({"steps": [0]}, "step 0 cannot be skipped"),
    ({"steps": [4]}, "steps must be steps between 0 and 3"),
    ({"steps": 2}, "steps must be steps between 0 and 3, got 2"),
])  # fmt: skip
def test_what_step_skipping_refuses(options, says):
    check_refused(says, schedules.step_skipping, TRANSFORMER, range(4), **options)


@settings(deadline=None, max_examples=30)
@given(density=st.floats(0, 1), seed=st.integers(0, 2**40), rows=st.integers(1, 30))
def test_random_has_the_density_to_the_nearest_cell(density, seed, rows):
    mask = schedules.random_schedule(UNET, range(rows), density, seed)
    cells = mask.compute[1:, list(UNET.blocks)]
    assert cells.sum() == round(density * cells.size)
    assert mask.compute[:, [i for i in range(len(UNET)) if i not in UNET.blocks]].all()
    assert mask == schedules.random_schedule(UNET, range(rows), density, seed)
    one, other = (schedules.random_schedule(UNET, range(20), 0.5, number).compute for number in (seed, seed + 1))
    assert (one != other).any(), "another seed, another mask"


@pytest.mark.parametrize(
    "options", [{"density": 1.1}, {"density": None}, {"density": True}, {"seed": -1}, {"seed": 0.5}]
)
def test_what_random_refuses(options):
    check_refused(f"{next(iter(options))} must be", schedules.random_schedule, UNET, range(3), **options)


def test_postdiff_of_a_transformer_holds_cross_attention():
    mask = schedules.postdiff(PIXART, range(4), cross_interval=3)
    assert words(mask) == ["1111", "1010", "1010", "1111"]
    assert mask.provenance == {"method": "postdiff", "cross_interval": 3}


def test_postdiff_of_a_u_net_is_deepcache_with_held_cross_attention_above():
    model = tiny_model("UNet2DConditionModel")
    patterns = ["**.resnets.*", "**.attn1", "**.attn2", "**.ff", "**.downsamplers.*", "**.upsamplers.*"]
    graph = describe(model, sites=patterns)
    mask = schedules.postdiff(graph, range(7), interval=2, depth=2, cross_interval=3)
    deep = held(schedules.deepcache(graph, range(7), interval=2, depth=2))
    cross = {site.name for site in graph.sites if site.kind == "cross_attention"}
    assert cross - deep and cross & deep and deep - cross
    assert [held(mask, row) for row in range(1, 7)] == [
        deep | cross, cross - deep, deep, cross - deep, deep | cross, set(),
    ]  # fmt: skip


def test_postdiff_holds_all_cross_attention_after_a_step():
    mask = schedules.postdiff(PIXART, range(5), after=2)
    assert words(mask) == ["1111", "1111", "1111", "1010", "1010"]
    assert mask.provenance == {"method": "postdiff", "after": 2}
    check_refused("after must be steps between 0 and 4", schedules.postdiff, PIXART, range(5), after=5)


def test_postdiff_as_a_recipe_keeps_the_cross_attention_of_the_conditional_half():
    pipe, steps, after, ran = pixart(), 6, 3, []
    recipe = postdiff_recipe(pipe, steps, after=after)
    assert (recipe.guidance, recipe.levers) == ("111000", ("mask", "guidance"))
    pipe.transformer.transformer_blocks[0].attn2.to_q.register_forward_hook(lambda *_: ran.append("cross"))
    pipe.transformer.transformer_blocks[0].attn1.to_q.register_forward_hook(lambda *_: ran.append("self"))
    with apply(pipe, recipe):
        pipe(**pixart_texts(1), num_inference_steps=steps, height=16, width=16, use_resolution_binning=False)
    with_guidance, at_its_end, later = ["self", "cross"] * 2, ["self", "cross"], ["self"]
    assert ran == with_guidance * after + at_its_end + later * (steps - after - 1)


def test_postdiff_says_how_to_make_cross_attention_a_site():
    with pytest.raises(StepMaskError, match=r"no site of this model is one.*\*\*\.attn2"):
        schedules.postdiff(describe(tiny_model("UNet2DConditionModel")), range(3))
