"""Ways to learn by name or by configuration: what is found, what is refused, and what each can be asked for."""

from dataclasses import dataclass

import pytest

from refusal import check_refused
from stepmask import StepMaskError, TargetError, learn, learn_family
from stepmask.learning import Configuration, EndToEnd, Goals, Learner, Paper, learner_of, learners, option, register
from stepmask.learning.registry import DEFAULT, configured
from stepmask.schedules import fora
from tiny import dit_pipeline


@dataclass(frozen=True, kw_only=True)
class Mine(Configuration):
    """A configuration that nobody registered."""

    count: int = option(2, "How many.", low=1, high=9)


@pytest.fixture
def mine(monkeypatch):
    """A registered way to learn that remembers its jobs and finds nothing."""
    jobs = []
    monkeypatch.setattr("stepmask.learning.registry._learners", dict(learners()))
    register(Learner(name="mine", configuration=Mine, learn=lambda job: jobs.append(job) or 1 / 0, summary="is mine."))
    return jobs


def test_the_default_comes_first():
    assert next(iter(learners())) == DEFAULT == "end-to-end" and "paper" in learners()
    learners().clear()
    assert learners(), "a copy was handed out"


def test_by_name_and_by_configuration():
    for method, kind in (("end-to-end", EndToEnd), ("paper", Paper)):
        assert learner_of(method) is learner_of(kind()) is learners()[method]
        assert configured(method, {}) == configured(kind(), {})
    assert configured("paper", {"batch_size": 2})[1] == Paper(batch_size=2)
    given = EndToEnd(rounds=7)
    assert configured(given, {})[1] is given


@pytest.mark.parametrize(("method", "options", "says"), [
    ("best", {}, "method must be one of end-to-end, paper, .*or a configuration, got 'best'"),
    ("per-step", {}, "method must be one of end-to-end, paper"),
    (3, {}, r"method takes a name or a configuration, such as EndToEnd\(\) \(EndToEnd, Paper.*\), got int"),
    (Mine(), {}, r"method takes a name or a configuration, such as EndToEnd\(\) \(EndToEnd, Paper.*\), got Mine"),
    (EndToEnd, {}, "got the class EndToEnd"),
    (EndToEnd(), {"rounds": 2}, r"give a configuration or single options, not both \(rounds\)"),
    ("end-to-end", {"num_trajectories": 3}, "'end-to-end' has no option 'num_trajectories'; there are rounds, "),
    ("paper", {"batchsize": 2}, "no option 'batchsize'; there are .*; did you mean batch_size?"),
    ("end-to-end", {"max_minute": 2}, "no option 'max_minute'; there are .*; did you mean max_minutes?"),
    ("end-to-end", {"rounds": -1}, "rounds must be a number between"),
    ("paper", {"sampling": "coin"}, "sampling must be one of random, gumbel, interpolation, got 'coin'"),
])  # fmt: skip
def test_what_is_no_method_and_no_option(method, options, says):
    for door in (learn, learn_family):
        check_refused(says, door, None, 4, method=method, **options)


@pytest.mark.parametrize(("goals", "says"), [
    ({"min_psnr": 40}, "method 'paper' does not know min_psnr; end-to-end does"),
    ({"target_speedup": 2.0, "max_cache_bytes": 10**6}, "know target_speedup, max_cache_bytes; end-to-end"),
    ({"target_macs": 0.5, "target_speedup": 2.0}, "method 'paper' does not know target_speedup; end-to-end does"),
    ({"targets": (0.5,)}, "method 'paper' does not know targets; "),
])  # fmt: skip
def test_what_a_method_cannot_be_asked_for(goals, says):
    with pytest.raises(StepMaskError, match=says):
        learners()["paper"].check(Goals(**goals))
    learners()["end-to-end"].check(Goals(**goals))
    learners()["paper"].check(Goals(target_macs=0.5))


def test_refusals_come_before_the_pipeline_is_looked_at():
    for options in ({"min_psnr": 40}, {"max_cache_bytes": 10**6}):
        check_refused("method 'paper' does not know", learn, None, 4, method=Paper(), **options)
    check_refused("method 'paper' does not know targets; ", learn_family, None, 4, method="paper")


def test_one_that_knows_no_targets_is_asked_for_shares_alone(mine):
    for goals, says in (({"targets": (0.5, 0.4)}, "targets"), ({"min_psnr": 30}, "min_psnr")):
        with pytest.raises(StepMaskError, match=f"method 'mine' does not know {says}; "):
            learner_of(Mine()).check(Goals(**goals))
    check_refused("got none", learn, dit_pipeline(), 3, None, method="mine", error=TargetError)
    with pytest.raises(StepMaskError, match="method 'mine' does not know start"):
        learn(dit_pipeline(), 3, 0.5, method="mine", start=fora(dit_pipeline(), 3))
    with pytest.raises(ZeroDivisionError):
        learn(dit_pipeline(), 3, method="mine", count=4, seed=5, progress=False)
    (job,) = mine
    assert (job.method, job.config, job.goals.target_macs, job.task.seed) == ("mine", Mine(count=4), 0.6, 5)
    assert job.resume is None and job.checkpoint().arrays == {} and not job.progress


def test_what_nobody_can_be_asked_for(mine):
    start = Goals(target_macs=0.5, start=("any",))
    only = {"mine": learners()["mine"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stepmask.learning.registry._learners", only)
        check_refused("method 'mine' does not know start; ask for less", only["mine"].check, start)


def test_a_function_is_imported_when_it_is_needed():
    late = Learner(name="late", configuration=Mine, learn="json:loads", summary="reads.")
    assert late("[1]") == [1]
    with pytest.raises(ModuleNotFoundError):
        Learner(name="none", configuration=Mine, learn="no.such:thing", summary="is not.")("x")
