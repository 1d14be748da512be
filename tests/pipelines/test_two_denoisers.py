"""Wan 2.2: a second transformer takes over in mid-run. The table of pipelines holds masked runs to the reference."""

import pytest
import torch
from cases import BY_NAME, WAN_2_2, wan_2_2
from runs import all_ones, by_reference, calls_of, interrupted, marks, random_actions

import stepmask
from stepmask import TargetError, UnsupportedModelError, describe, make_plan, schedules
from stepmask.inspection.registry import denoisers_of
from stepmask.mask import Action
from stepmask.runtime.apply import is_applied
from tiny import FEW, count_computes, modules_of, quiet, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:timesteps differ")

CASE = BY_NAME[WAN_2_2]
TAKES_OVER = 3
"""Row at which the second transformer begins, of 6."""


@pytest.fixture(scope="module")
def pipe():
    pipe = CASE.build()
    CASE.run(pipe)
    return pipe


def rows_of_calls(pipe) -> list[list[int]]:
    """Rows at which each transformer is called, once for each guidance call."""
    found = [[], []]
    hooks = [
        denoiser.register_forward_pre_hook(lambda *_, rows=rows: rows.append(pipe.scheduler.step_index or 0))
        for denoiser, rows in zip((pipe.transformer, pipe.transformer_2), found, strict=True)
    ]
    CASE.run(pipe)
    for hook in hooks:
        hook.remove()
    return found


def test_both_run_in_turn(pipe):
    assert rows_of_calls(pipe) == [[0, 0, 1, 1, 2, 2], [3, 3, 4, 4, 5, 5]]


@pytest.mark.shows("two denoisers in turns (Wan 2.2)", apply="bitwise; the second starts from a full row")
def test_the_second_begins_with_a_full_row_and_follows_its_own(pipe):
    mask = random_actions(pipe, 5, share=0.3, forecasts=0.5)
    graph, first, second = describe(pipe), pipe.transformer, pipe.transformer_2
    late = mask.actions[TAKES_OVER:]
    late[0] = Action.compute
    plans = make_plan(mask, graph), make_plan(mask.with_actions(late, timesteps=mask.timesteps[TAKES_OVER:]), graph)
    with (
        count_computes(first, modules_of(graph)) as of_first,
        count_computes(second, modules_of(graph)) as of_second,
        stepmask.apply(pipe, mask) as run,
    ):
        CASE.run(pipe)
    modules = [site.kind != "stack" for site in graph.sites]
    runs = plans[0].called[:TAKES_OVER, modules].sum(), plans[1].called[:, modules].sum()
    assert (len(of_first), len(of_second)) == (2 * runs[0], 2 * runs[1]), "two guidance calls each"
    computes = plans[0].compute[:TAKES_OVER].sum(), plans[1].compute.sum()
    summary = run.summary()
    assert summary.rows == 6 and summary.computes == sum(computes)
    assert summary.computes > make_plan(mask, graph).compute.sum()


def test_the_first_lets_go_when_the_second_begins(pipe):
    held = []

    def note(*_):
        held.append(executors[0].meter.held)

    hold = schedules.fora(pipe, 6, interval=6)
    with stepmask.apply(pipe, hold) as run:
        executors = list(run._executors.values())
        hooks = [denoiser.register_forward_hook(note) for denoiser in denoisers_of(pipe)]
        CASE.run(pipe)
        for hook in hooks:
            hook.remove()
        assert min(held[:6]) > 0 and held[6:] == [0] * 6
        assert run.peak_cache_bytes == max(held), "both hold as much, not at once"


def test_another_run_and_an_interrupted_one(pipe):
    """Whichever transformer a run ends in, the next begins anew in both."""

    mask = random_actions(pipe, 3)
    wanted = by_reference(pipe, mask, calls_of(CASE, 6), lambda: CASE.run(pipe))
    with stepmask.apply(pipe, mask):
        for last in (1, TAKES_OVER - 1, TAKES_OVER):
            interrupted(CASE, last).run(pipe, seed=7)
            assert torch.equal(CASE.run(pipe), wanted)


@pytest.mark.parametrize(("ratio", "called"), [(0.0, [12, 0]), (None, [12, 0])], ids=["never", "no boundary"])
def test_a_second_one_that_is_not_called(ratio, called):
    pipe = quiet(wan_2_2(ratio))
    assert [len(rows) for rows in rows_of_calls(pipe)] == called
    assert denoisers_of(pipe)[1:] == (() if ratio is None else (pipe.transformer_2,))
    mask = random_actions(pipe, 3)
    wanted = by_reference(pipe, mask, calls_of(CASE, 6), lambda: CASE.run(pipe))
    with stepmask.apply(pipe, mask) as run:
        assert torch.equal(CASE.run(pipe), wanted)
        assert run.summary().computes == make_plan(mask, describe(pipe)).compute.sum()


def test_applying_again_replaces_in_both(pipe):
    before, mask = marks(pipe), random_actions(pipe, 3)
    old = stepmask.apply(pipe, all_ones(pipe))
    with stepmask.apply(pipe, mask):
        old.remove()
        assert all(map(is_applied, denoisers_of(pipe)))
        assert torch.equal(CASE.run(pipe), by_reference(pipe, mask, calls_of(CASE, 6), lambda: CASE.run(pipe)))
    assert marks(pipe) == before and not any(map(is_applied, denoisers_of(pipe)))


def test_evaluation_counts_the_full_row(pipe):
    mask = schedules.fora(pipe, 6, interval=6)
    result = stepmask.evaluate(pipe, mask, seeds=1, call_kwargs=CASE.arguments(1), speed_pairs=1, batch_size=1)
    cost = stepmask.measure_cost(pipe, call_kwargs=CASE.arguments(1))
    assert result.macs_fraction == pytest.approx(1 - cost.coverage * 4 / 6)
    assert result.rows == 6 and result.speed.full_s.denoiser < result.speed.full_s.call


# --- what is refused


@pytest.mark.parametrize("other", ["more blocks", "another class"])
@pytest.mark.shows("two denoisers of different structure", apply="refused")
def test_two_of_different_structure_are_refused(pipe, other):
    family = type(pipe.transformer)
    model = (
        family(**{**pipe.transformer.config, "num_layers": 3}) if other == "more blocks" else tiny_model("UNet2DModel")
    )
    pair = quiet(wan_2_2())
    pair.transformer_2 = model
    before = marks(pair)
    with pytest.raises(UnsupportedModelError, match="two denoisers of WanPipeline differ in their blocks"):
        stepmask.apply(pair, random_actions(pipe))
    assert marks(pair) == before


@pytest.mark.filterwarnings("ignore:.* is compiled as a whole")
@pytest.mark.shows("two denoisers in turns (Wan 2.2)", compile="either of them, as a denoiser that is compiled")
@pytest.mark.slow
def test_a_compiled_second_one():
    pipe = CASE.build()
    CASE.run(pipe)
    mask = random_actions(pipe)
    with stepmask.apply(pipe, mask):
        wanted = CASE.run(pipe)
    pipe.transformer_2.compile(backend="eager")
    with stepmask.apply(pipe, mask):
        assert torch.equal(CASE.run(pipe), wanted)


def test_the_papers_learner_refuses_them(pipe):
    with pytest.raises(UnsupportedModelError, match=r"rows of a run of WanPipeline begin anew at row 3.*end-to-end"):
        stepmask.learn(pipe, 6, 0.5, method="paper", call_kwargs=CASE.arguments(2))


# --- learning


@pytest.mark.shows("two denoisers in turns (Wan 2.2)", learn="by runs alone, with a warning")
def test_learning_counts_the_full_row_of_the_second(pipe):
    """The mask costs what is claimed, and beats the rule that it begins from."""
    before, options = marks(pipe), {**FEW, "gains": 2, "num_probes": 4, "progress": False}
    with pytest.warns(UserWarning, match="WanPipeline runs two denoisers or more.*by runs alone"):
        mask = stepmask.learn(pipe, 6, 0.63, call_kwargs=CASE.arguments(2), **options)
    assert marks(pipe) == before and mask.compute[[0, TAKES_OVER]].all()
    with stepmask.apply(pipe, mask) as run:
        CASE.run(pipe)
        assert run.summary().macs_fraction == pytest.approx(mask.provenance["macs"], abs=1e-6)
    assert mask.provenance["macs"] <= 0.63 and mask.provenance["denoiser_calls"] > 0
    rule = schedules.key_steps(pipe, 6, [0, 1, TAKES_OVER])
    learned, ruled = (
        stepmask.evaluate(pipe, one, seeds=4, num_inference_steps=6, call_kwargs=CASE.arguments(4), speed=False)
        for one in (mask, rule)
    )
    assert learned.macs_fraction == pytest.approx(mask.provenance["macs"], abs=1e-6)
    assert learned.macs_fraction <= ruled.macs_fraction and learned.psnr.mean > ruled.psnr.mean


def test_a_budget_below_that_of_the_full_rows(pipe):
    """One computed row of six is not to be had: the second transformer begins with another."""
    with (
        pytest.warns(UserWarning),
        pytest.raises(TargetError, match=r"first of 6 steps, and those that begin anew \(3\)"),
    ):
        stepmask.learn(pipe, 6, 0.3, call_kwargs=CASE.arguments(2), progress=False, **FEW)
