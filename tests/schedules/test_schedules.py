"""Rules: rows, inputs, errors."""

import copy

import numpy as np
import pytest

from refusal import check_refused
from stepmask import BlockGraph, Site, State, describe, make_plan, schedules
from stepmask.graph import OUT
from stepmask.mask import scheduler_identity
from stepmask.schedules.key_steps import shallow_step, spaced
from tiny import ddim_pipeline, ddpm_pipeline, dit_pipeline, tiny_model

# level 0 encoder, sampler down, level 1, sampler up, level 0 decoder
UNET = BlockGraph(
    (
        Site("down.0", "resnet", 0), Site("down.sampler", "sampler", 0), Site("mid.attention", "attention", 1),
        Site("up.sampler", "sampler", 1), Site("up.0", "resnet", 0),
    ),
    ((1, 4), (2,), (3,), (4,), (OUT,)),
    (True, False, False, False, True),
)  # fmt: skip
TRANSFORMER = BlockGraph.branches([Site("0.attn1", "attention"), Site("0.ff", "mlp")])
INTERVALS = [schedules.fora, schedules.deepcache]
SCHEDULES = [
    *INTERVALS, schedules.faster_diffusion, schedules.key_steps, schedules.step_skipping, schedules.random_schedule,
]  # fmt: skip


def words(mask) -> list[str]:
    return ["".join("01l"[action] for action in row) for row in mask.actions]


def test_fora_computes_blocks_at_every_kth_step_and_never_holds_samplers():
    assert words(schedules.fora(TRANSFORMER, range(5), interval=2)) == ["11", "00", "11", "00", "11"]
    assert words(schedules.fora(UNET, range(4), interval=3)) == ["11111", "01010", "01010", "11111"]
    assert words(schedules.fora(UNET, range(3), interval=1)) == ["11111"] * 3
    assert words(schedules.fora(UNET, range(3), interval=9)) == ["11111", "01010", "01010"]


def test_deepcache_always_runs_the_shallow_levels():
    mask = schedules.deepcache(UNET, range(4), interval=3)
    assert words(mask) == ["11111", "11011", "11011", "11111"]
    assert make_plan(mask, UNET).compute[1].tolist() == [1, 0, 0, 0, 1]


def test_forecasts_take_the_place_of_holds():
    wanted = ["11111", "l1l1l", "l1l1l", "11111", "l1l1l"]
    assert words(schedules.fora(UNET, range(5), interval=3, forecast="linear")) == wanted
    assert words(schedules.fora(TRANSFORMER, range(3), interval=2, forecast="linear")) == ["11", "ll", "11"]
    assert schedules.fora(UNET, range(3), interval=1, forecast="linear").is_binary


def test_deepcache_forecasts_deep_samplers_too():
    """They would run at every step on what is new at every step."""
    mask = schedules.deepcache(UNET, range(5), interval=2, forecast="linear")
    assert words(mask) == ["11111", "11ll1", "11111", "11ll1", "11111"]
    plan = make_plan(mask, UNET)
    assert [[State(state).name for state in plan.states[step, 1:4]] for step in (1, 3)] == [
        ["dead", "dead", "reuse"],
        ["dead", "dead", "forecast"],
    ]


def test_key_steps_are_given_or_spaced():
    assert words(schedules.key_steps(TRANSFORMER, range(5), [3, 0])) == ["11", "ll", "ll", "11", "ll"]
    branches = schedules.key_steps(UNET, range(3), [0], forecast=None, level="branch")
    assert words(branches) == ["11111", "01010", "01010"]
    assert schedules.key_steps(TRANSFORMER, range(7), 3).provenance["steps"] == [0, 2, 4]
    assert schedules.key_steps(TRANSFORMER, range(9)).compute.all(1).sum() == 5
    even = schedules.key_steps(TRANSFORMER, range(12), 4, power=1)
    assert words(even) == words(schedules.fora(TRANSFORMER, range(12), 3, forecast="linear"))


def test_a_shallow_step_computes_full_resolution_alone():
    branches = schedules.key_steps(UNET, range(5), [0, 3], level="branch", shallow=[1])
    assert words(branches)[:3] == ["11111", "11l11", "l1l1l"]
    graph = describe(tiny_model("UNet2DModel"))
    mask = schedules.key_steps(graph, range(6), [0, 3], shallow=[1])
    depth = {site.name: site.depth for site in graph.sites}
    computes = {name for name, does in zip(mask.sites, mask.compute[1], strict=True) if does}
    assert computes == {name for name in mask.sites if depth[name] == 0} and "up_blocks" in computes
    plain = schedules.key_steps(graph, range(6), [0, 3])
    assert set(mask.sites) - set(plain.sites) == {n for n in depth if n.count(".") == 1 and n[:3] == "up_" and depth[n]}
    assert mask.provenance["shallow"] == [1] and "shallow" not in plain.provenance
    ran, ran_before = (make_plan(one, graph).called[1] for one in (mask, plain))
    assert not ran_before.any() and {depth[graph.names[i]] for i in np.flatnonzero(ran)} == {0}
    assert (make_plan(mask, graph).called[[0, 3]] == make_plan(plain, graph).called[[0, 3]]).all()
    assert words(schedules.key_steps(graph, range(6), [0, 3], shallow=[3])) == words(plain), "a key step stays one"


def test_the_best_step_to_be_shallow_comes_soon():
    assert [shallow_step(steps) for steps in ([0, 7, 14], [0, 10], [0, 2, 4], [0, 1, 2], [0])] == [2, 3, 1, None, None]


@pytest.mark.parametrize("power", [1, 1.2, 2, 4])
def test_spaced_steps_are_so_many_and_denser_at_the_beginning(power):
    for rows in (1, 2, 7, 20, 50):
        for count in range(1, rows + 1):
            steps = spaced(rows, count, power)
            assert steps[0] == 0 and len(set(steps)) == count and steps == sorted(steps) and steps[-1] < rows
            late = spaced(rows, count, power, 0.5)
            assert len(set(late)) == count and late == sorted(late) and steps[-1] <= late[-1] < rows
    wide, narrow = np.diff(spaced(1000, 10, power)), np.diff(spaced(1000, 10, 1))
    assert (np.diff(wide) >= -1).all() and wide[0] <= narrow[0]


@pytest.mark.parametrize(("options", "message"), [
    ({"steps": 0}, "a number of steps from 1 to 6, .*got 0"),
    ({"steps": 7}, "a number of steps from 1 to 6, .*got 7"),
    ({"steps": True}, "got True"),
    ({"steps": [0, 6]}, "steps must be steps between 0 and 5"),
    ({"steps": [1, 3]}, "must include step 0"),
    ({"steps": 3, "power": 0.5}, "power must be a number from 1 to 4, got 0.5"),
    ({"steps": 3, "power": "2"}, "power must be a number from 1 to 4, got '2'"),
    ({"steps": 3, "shallow": [6]}, "shallow must be steps between 0 and 5"),
    ({"steps": 3, "shallow": [1]}, "needs a U-Net"),
])  # fmt: skip
def test_key_steps_that_make_no_sense(options, message):
    check_refused(message, schedules.key_steps, TRANSFORMER, range(6), **options)


@pytest.mark.parametrize("forecast", ["cubic", "", True])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_unknown_forecasts(schedule, forecast):
    check_refused(rf"None or one of linear, got {forecast!r}", schedule, UNET, range(3), forecast=forecast)


def test_depth_moves_the_border():
    deep = BlockGraph.chain([Site(f"{i}", "resnet", level) for i, level in enumerate((0, 1, 2, 1, 0))])
    assert words(schedules.deepcache(deep, range(2), interval=2, depth=1))[1] == "10001"
    assert words(schedules.deepcache(deep, range(2), interval=2, depth=2))[1] == "11011"


def test_the_real_u_net_holds_all_that_is_deep():
    nested = describe(ddim_pipeline())
    mask, graph = schedules.deepcache(nested, range(4), interval=2), nested.innermost
    assert words(mask) == words(schedules.deepcache(graph, range(4), interval=2)) and mask.sites == graph.names
    held = {graph.sites[i] for i in np.flatnonzero(~mask.compute[1])}
    assert held == {site for site in graph.sites if site.depth >= 1 and site.kind != "sampler"}
    plan = make_plan(mask, graph)
    runs = {graph.names[i] for i in np.flatnonzero(plan.compute[1])}
    assert {name.split(".")[0] + name.split(".")[1] for name in runs} == {"down_blocks0", "up_blocks2"}
    assert not any("downsamplers" in name for name in runs)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_pipeline_and_a_count_mean_its_graph_and_timesteps(schedule):
    pipe = ddpm_pipeline()
    run = copy.deepcopy(pipe.scheduler)
    run.set_timesteps(6)
    before = copy.deepcopy(vars(pipe.scheduler))
    short = schedule(pipe, 6)
    long = schedule(describe(pipe), run.timesteps)
    assert np.array_equal(short.compute, long.compute)
    assert (short.sites, short.timesteps, short.graph) == (long.sites, long.timesteps, long.graph)
    assert short.scheduler == scheduler_identity(run) and long.scheduler is None
    assert short.provenance == {**long.provenance, "num_inference_steps": 6, "pipeline": "DDPMPipeline"}
    assert pipe.scheduler.num_inference_steps == before["num_inference_steps"], "the pipeline's scheduler is left alone"
    short.check(graph=describe(pipe), scheduler=run)


def test_provenance_names_the_schedule():
    assert schedules.fora(UNET, range(3), interval=3).provenance == {"method": "fora", "interval": 3}
    provenance = schedules.deepcache(UNET, range(3), interval=2).provenance
    assert provenance == {"method": "deepcache", "interval": 2, "depth": 1}
    provenance = schedules.fora(UNET, range(3), interval=3, forecast="linear").provenance
    assert provenance == {"method": "fora", "interval": 3, "forecast": "linear"}


def test_deepcache_needs_a_u_net():
    for model, timesteps in ((TRANSFORMER, range(3)), (dit_pipeline(), 3)):
        check_refused(r"needs a U-Net.*schedules\.fora", schedules.deepcache, model, timesteps)


@pytest.mark.parametrize("depth", [0, 2, -1])
def test_depth_must_leave_a_level_below(depth):
    check_refused(f"depth must lie between 1 and 1 .* got {depth}", schedules.deepcache, UNET, range(3), depth=depth)


@pytest.mark.parametrize("interval", [0, -2, 1.5, "2", None])
@pytest.mark.parametrize("schedule", INTERVALS)
def test_bad_intervals(schedule, interval):
    check_refused(r"whole number of steps, at least 1, got", schedule, UNET, range(3), interval=interval)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_mixed_up_inputs(schedule):
    check_refused(r"with a graph give the timesteps", schedule, UNET, 10)
    check_refused(r"with a pipeline give the number", schedule, ddim_pipeline(), [3, 2, 1])
