"""How long learning takes is known before; within a time that is given, it gives the best mask it finds."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from fakes import assert_unchanged, snapshot
from jobs import Stop, job_for, stop_after
from stepmask import StepMaskError, TargetError, learn, learn_family, make_plan
from stepmask.inspection.registry import denoiser_of
from stepmask.learning import EndToEnd, clock
from stepmask.learning.budget import Budget
from stepmask.learning.checkpoint import Checkpoint
from stepmask.learning.effort import Effort
from stepmask.learning.end_to_end import learner
from stepmask.learning.end_to_end.efforts import changes, efforts
from stepmask.learning.end_to_end.judge import Judge
from stepmask.learning.end_to_end.learner import EndToEndLearning
from stepmask.learning.end_to_end.memory import Memory
from stepmask.learning.end_to_end.tables import Table
from stepmask.learning.end_to_end.times import Times, measured_pace
from stepmask.liveness import State
from stepmask.runtime.task import Task
from stepmask.schedules import fora
from tiny import FEW, ddim_pipeline, dit_pipeline

STEPS, TARGET = 6, 0.6
OPTIONS = {**FEW, "gains": 2, "rounds": 2, "progress": False, "coarse": False}


def computed_images(pipe, name: str) -> list[int]:
    """A list that gets the batch of every computation of a site: of the first layer within it that runs."""
    made, layers = [], []

    def count(layer, args, output):
        layers.append(layer)
        if layer is layers[0]:
            made.append(len(output))

    for module in denoiser_of(pipe).get_submodule(name).modules():
        if not list(module.children()):
            module.register_forward_hook(count)
    return made


@pytest.mark.parametrize("graph_bytes", [0, pytest.param(2**30, marks=pytest.mark.slow)])
@pytest.mark.parametrize("make", [ddim_pipeline, dit_pipeline])
def test_measurements_take_as_many_runs_as_are_counted(make, graph_bytes):
    """Of a site that computes at every second step; a second is a run of the denoiser on one image."""
    config = EndToEnd(num_probes=4, gains=8, graph_bytes=graph_bytes)
    pipe = make()
    task = Task(pipe, STEPS).innermost
    graph = Memory.of(task).graph.plain
    schedule = fora(task.graph, task.timesteps, 2, forecast="linear")
    plan, cost = make_plan(schedule, task.graph), 0.5
    columns = zip(task.graph.names, plan.called.T, plan.states.T, strict=True)
    site = next(name for name, runs, states in columns if runs.mean() == cost and State.dead not in states)
    times = Times(config, STEPS, (0.0, 1.0), graph=graph)
    judge = Judge(task, Budget(task.graph, task.costs), config, Checkpoint(None, {}, Effort()))
    table, made, forwards = Table.of(schedule, task.graph), computed_images(pipe, site), task.costs.forwards_per_image
    for measure, expected in (
        (lambda: judge.psnrs(table), times.run(8, 1 + cost)),
        (lambda: judge.probe(table, 0), times.probe(cost)),
        (lambda: judge.with_gains(table, 8, 1), times.gains(cost, 8) - times.run(8, cost) + 3 * times.run(4, 1)),
    ):
        made.clear()
        measure()
        assert sum(made) / forwards == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    "way", [{"coarse": True}, {"gradients": False}, pytest.param({"coarse": False}, marks=pytest.mark.slow)], ids=str
)
def test_the_count_of_a_search_is_what_it_measures(way):
    """A second is a run of the denoiser on one image; what counts is asked for before it is measured."""
    asked = []
    options = EndToEnd(**{**FEW, "gains": 8, "rounds": 2, "num_probes": 4, "num_validation": 8, "num_moves": 4})
    learning = EndToEndLearning(job_for(dit_pipeline(), 8, replace(options, **way), target_macs=TARGET))
    counted = Times(learning.config, 8, (0.0, 1.0), (0.0, 1.0))
    learning.judge._times = counted
    learning.judge._clock = SimpleNamespace(ask=lambda seconds, **_: asked.append(seconds), save=lambda: None)
    learning.run(lambda report: None)
    learning.mask()
    expected = learning.search.seconds(counted, [TARGET]) - counted.references(2) + counted.held_back([TARGET])
    assert sum(asked) == pytest.approx(expected, rel=0.4)


@pytest.fixture
def timed(monkeypatch):
    """Pipelines whose every call takes two seconds, of which the search knows one for each image."""
    now = [0.0]
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(learner, "measured_pace", lambda *_: {"forth": [1.0, 0.0], "back": [1.0, 0.0]})

    def make():
        pipe = dit_pipeline()
        denoiser_of(pipe).register_forward_pre_hook(lambda *_: now.__setitem__(0, now[0] + 2.0))
        return pipe, now

    return make


def learned(pipe, **options):
    return learn(pipe, STEPS, TARGET, **{**OPTIONS, **options})


@pytest.mark.slow
def test_with_time_enough_nothing_changes(timed):
    mask = learned(timed()[0], max_minutes=1000)
    assert mask.provenance.pop("asked") == {"target_macs": TARGET, "max_minutes": 1000}
    usual = learned(dit_pipeline())
    assert usual.provenance.pop("asked") == {"target_macs": TARGET} and mask == usual


@pytest.mark.slow
def test_a_search_of_less_time_makes_less_effort_and_is_cut(timed, tmp_path):
    whole, now = timed()
    usual = learned(whole)
    needed, state = now[0], tmp_path / "state"
    pipe, now = timed()
    began, minutes = now[0], needed / 60 / 2.3
    with pytest.warns(UserWarning, match="minutes of max_minutes were over before the search ended"):
        cut = learned(pipe, max_minutes=minutes, resume=state)
    record = cut.provenance
    assert record["cut_by_max_minutes"] and record["with_less"] and record["macs"] <= TARGET
    assert now[0] - began <= 60 * minutes
    assert any(part is not None for part in cut.forecasting().values()), "gains were learned"
    passed = now[0]
    with pytest.warns(UserWarning, match="minutes of max_minutes were over before the search ended"):
        assert learned(pipe, max_minutes=minutes, resume=state) == cut
    assert now[0] == passed
    further = learned(pipe, max_minutes=1000, resume=state)
    assert np.array_equal(further.actions, usual.actions) and "cut_by_max_minutes" not in further.provenance
    assert now[0] - passed < needed, "much was known"


@pytest.mark.filterwarnings("ignore:.*were over before")
def test_an_interrupted_search_goes_on_with_what_is_left_of_its_time(timed, tmp_path):
    pipe, now = timed()
    with pytest.raises(Stop):
        learned(pipe, max_minutes=3, resume=tmp_path / "state", callback=stop_after(1))
    first = now[0]
    now[0] += 10**6
    mask = learned(pipe, max_minutes=3, resume=tmp_path / "state")
    assert 60 < first < now[0] - 10**6 < 3 * 60 and mask.provenance["with_less"] == {"rounds": 1}


def test_a_family_has_all_its_targets_when_time_is_up(timed):
    with pytest.warns(UserWarning, match="were over before"):
        family = learn_family(timed()[0], STEPS, (0.8, 0.6, 0.5), max_minutes=5, **OPTIONS)
    for target in (0.8, 0.6, 0.5):
        assert family.at(target).provenance["cut_by_max_minutes"]


@pytest.mark.parametrize(("minutes", "says"), [
    (0.01, "max_minutes=0.01 is too short: the least that makes sense.*takes about .* here"),
    (0, "max_minutes must be a positive number of minutes, got 0"),
    ("long", "max_minutes must be a positive number of minutes, got 'long'"),
])  # fmt: skip
def test_too_little_time_is_refused_before_anything_runs(minutes, says, timed):
    pipe, now = timed()
    with pytest.raises(TargetError, match=says):
        learned(pipe, max_minutes=minutes)
    assert now[0] == 0


def test_methods_without_a_clock_say_so():
    with pytest.raises(StepMaskError, match="method 'paper' does not know max_minutes; end-to-end does"):
        learn(dit_pipeline(), STEPS, TARGET, method="paper", max_minutes=1)


def test_efforts_get_smaller():
    times = [Times(config, 20, (0.0, 1.0), (0.0, 1.0)) for config in efforts(EndToEnd())]
    assert changes(times[0].config, EndToEnd()) == {} and changes(times[-1].config, EndToEnd())["num_moves"] == 0
    learning = EndToEndLearning(job_for(dit_pipeline(), 8, EndToEnd(coarse=True), target_macs=TARGET))
    taken = [learning.search.seconds(one, [0.5]) for one in times]
    assert taken == sorted(taken, reverse=True) and taken[-1] < taken[0] / 4
    assert all(config.coarse is False for config in efforts(EndToEnd(coarse=False)))


@pytest.mark.parametrize("make", [ddim_pipeline, dit_pipeline])
def test_calls_are_timed_and_nothing_is_left_behind(make):
    pipe = make()
    before = snapshot(denoiser_of(pipe))
    for gradients, images in ((True, None), (False, 1)):
        found = measured_pace(Task(pipe, STEPS), EndToEnd(gradients=gradients, images_per_call=images))
        assert sum(found["forth"]) > 0 and (sum(found["back"]) > 0) == gradients
        assert "beside" in found and ("learning" in found) == gradients
        assert images is None or found["forth"][0] == 0, "of one size alone nothing is known of the call itself"
    assert_unchanged(denoiser_of(pipe), before)


def test_what_runs_take_beside_the_denoiser_is_timed():
    """Gains are learned on latents, without the decoder."""
    pipe, now, nothing = dit_pipeline(), [0.0], (0.0, 0.0)
    pipe.vae.decoder.conv_in.register_forward_pre_hook(lambda *_: now.__setitem__(0, now[0] + 5.0))
    found = measured_pace(Task(pipe, STEPS), EndToEnd(), lambda: now[0])
    assert found == {"forth": nothing, "back": nothing, "beside": (5.0, 0.0), "learning": nothing}
    times = Times(EndToEnd(), STEPS, **found)
    assert (times.run(8, 0.5), times.gains(0.5, 3), times.held_back([0.5])) == (5.0, 5.0, 5.0)


def test_what_cannot_be_called_by_itself_has_no_forecast(monkeypatch, capsys):
    monkeypatch.setattr(learner, "measured_pace", lambda *_: None)
    learned(dit_pipeline(), max_minutes=1, progress=True, rounds=0)
    said = capsys.readouterr().err
    assert "learning takes about" in said and "minutes," not in said and "on cpu with the model" in said


def test_the_forecast_is_said_before_learning(timed, capsys):
    learned(timed()[0], progress=True)
    learned(timed()[0], progress=True, max_minutes=3)
    said = capsys.readouterr().err
    assert "on cpu with the model; max_minutes (--max-minutes) makes it shorter" in said
    assert "learning takes about" in said and "to be over in time" in said
    learned(timed()[0])
    assert not capsys.readouterr().err
