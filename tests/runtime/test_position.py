"""Rows and streams under real schedulers. The expected rows come from the loop's own enumerate."""

import warnings

import diffusers
import pytest
import torch

from refusal import check_refused
from stepmask.errors import PositionError
from stepmask.runtime import position
from stepmask.runtime.position import PositionTracker, match_row

FLOW, PNDM = "FlowMatchEulerDiscreteScheduler", "PNDMScheduler"
SCHEDULERS = {
    "ddim": ("DDIMScheduler", {}, 20),
    "ddpm": ("DDPMScheduler", {}, 20),
    "dpm++ karras": (
        "DPMSolverMultistepScheduler", {"use_karras_sigmas": True, "algorithm_type": "dpmsolver++"}, 100,
    ),
    "heun": ("HeunDiscreteScheduler", {}, 20),
    "pndm": (PNDM, {"skip_prk_steps": True}, 50),
    "pndm with runge-kutta": (PNDM, {}, 20),
    "euler": ("EulerDiscreteScheduler", {}, 20),
    "euler ancestral": ("EulerAncestralDiscreteScheduler", {}, 20),
    "lcm": ("LCMScheduler", {}, 4),
    "unipc": ("UniPCMultistepScheduler", {}, 20),
    "flow-match euler": (FLOW, {}, 20),
    "flow-match euler, shifted": (FLOW, {"shift": 3.0}, 20),
    "flow-match heun": ("FlowMatchHeunDiscreteScheduler", {}, 20),
}  # fmt: skip
SCALES = pytest.mark.parametrize(
    "scale", [lambda t: t / 1000, lambda t: 1 - t / 1000], ids=["t / 1000", "1 - t / 1000"]
)
AFTER_STEP = pytest.mark.parametrize("after_step", [False, True], ids=["in the denoiser", "in a callback"])
NO_INDEX = ["ddim", "ddpm"]
INDEXED = ["dpm++ karras", "heun", "euler", "unipc", "flow-match euler"]


class FakeDenoiser:
    """Predicts nothing and logs where it was called."""

    def __init__(self, scheduler) -> None:
        self.scheduler, self.tracker, self.log = scheduler, PositionTracker(), []

    def __call__(self, sample, timestep):
        self.log.append(tuple(self.tracker.locate(self.scheduler, timestep)))
        return torch.zeros_like(sample)


class Abort(Exception):
    pass


def make(name: str):
    class_, config, steps = SCHEDULERS[name]
    return getattr(diffusers, class_)(**config), steps


def begun(name: str, steps: int | None = None):
    """A denoiser that follows a scheduler whose timesteps are set, the scheduler, and its number of steps."""
    scheduler, usual = make(name)
    scheduler.set_timesteps(steps or usual)
    return FakeDenoiser(scheduler), scheduler, steps or usual


def loop(denoiser, scheduler, *, start=0, stop=None, streams=1, form=lambda t: t, abort_after_step=False):
    """The plain sampling loop; returns the (row, stream, new_run) that the denoiser should have logged."""
    sample = torch.zeros(2, 1, 4, 4)
    if start and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(start)
    expected = []
    for row, timestep in enumerate(scheduler.timesteps):
        if row < start:
            continue
        scaled = scheduler.scale_model_input(sample, timestep) if hasattr(scheduler, "scale_model_input") else sample
        for stream in range(streams):
            output = denoiser(scaled, form(timestep))
            expected.append((row, stream, row == start and stream == 0))
        if row == stop and not abort_after_step:
            return expected
        sample = scheduler.step(output, timestep, sample, return_dict=False)[0]
        if row == stop:
            return expected
    return expected


FORMS = {
    "scalar tensor": lambda t: t,
    "expanded": lambda t: t.expand(4),
    "expanded from one": lambda t: t[None].expand(4),
    "copied batch": lambda t: t * torch.ones(4, dtype=t.dtype),
    "number": lambda t: t.item(),
}


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("streams", [1, 2])
def test_every_row_and_stream(name, streams):
    denoiser, scheduler, _ = begun(name)
    expected = loop(denoiser, scheduler, streams=streams)
    assert denoiser.log == expected
    assert len(expected) == streams * len(scheduler.timesteps)


def test_these_schedulers_are_the_hard_cases():
    """What makes rows differ from steps, and values from rows; if diffusers changes it, look at the tests again."""
    rows = {}
    for name in SCHEDULERS:
        _, scheduler, steps = begun(name)
        rows[name] = len(scheduler.timesteps), len(set(scheduler.timesteps.tolist())), steps
    assert rows["heun"] == (39, 20, 20)
    assert rows["pndm"] == (51, 50, 50)
    assert rows["dpm++ karras"] == (100, 99, 100)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["ddim", "pndm", "dpm++ karras", "flow-match euler"])
def test_every_form_of_the_argument(name, form):
    denoiser, scheduler, _ = begun(name)
    assert loop(denoiser, scheduler, form=FORMS[form]) == denoiser.log


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("start", [1, 6])
def test_late_start(name, start):
    scheduler, steps = make(name)
    if start >= steps or "runge-kutta" in name:
        pytest.skip("this run cannot start so late")
    if "heun" in name:
        start *= scheduler.order
    denoiser = FakeDenoiser(scheduler)
    scheduler.set_timesteps(steps)
    assert loop(denoiser, scheduler, start=start) == denoiser.log


@AFTER_STEP
@pytest.mark.parametrize("stop", [0, 3])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_aborted_run_followed_by_a_new_one(name, stop, after_step):
    denoiser, scheduler, steps = begun(name)
    expected = loop(denoiser, scheduler, stop=stop, abort_after_step=after_step)
    scheduler.set_timesteps(steps)
    expected += loop(denoiser, scheduler)
    assert denoiser.log == expected


@pytest.mark.parametrize("name", SCHEDULERS)
def test_three_runs_of_different_lengths(name):
    scheduler, steps = make(name)
    denoiser = FakeDenoiser(scheduler)
    expected = []
    for count in (steps, steps, max(4, steps // 2)):
        scheduler.set_timesteps(count)
        expected += loop(denoiser, scheduler)
    assert denoiser.log == expected


@pytest.mark.parametrize("stop", [None, 7])
@pytest.mark.parametrize("name", NO_INDEX)
def test_a_second_run_without_set_timesteps(name, stop):
    denoiser, scheduler, _ = begun(name)
    expected = loop(denoiser, scheduler, stop=stop)
    expected += loop(denoiser, scheduler)
    assert denoiser.log == expected


@pytest.mark.parametrize("name", ["ddim", "euler"])
def test_a_call_before_the_run_is_noticed(name):
    """It looks like a first of two calls at row 0, as guidance makes them; two at each step are just that."""
    denoiser, scheduler, steps = begun(name)
    denoiser(torch.zeros(2, 1, 4, 4), scheduler.timesteps[0])
    with pytest.warns(UserWarning, match="called 2 times at row 0 of a run, 1 at row 1: .* set_timesteps"):
        loop(denoiser, scheduler)
    scheduler.set_timesteps(steps)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loop(denoiser, scheduler, streams=2)


@pytest.mark.parametrize("name", INDEXED)
def test_a_second_run_without_set_timesteps_is_refused_where_the_scheduler_cannot_either(name):
    denoiser, scheduler, _ = begun(name)
    loop(denoiser, scheduler)
    with pytest.raises(PositionError, match=r"after the end of the run.*set_timesteps"):
        denoiser(torch.zeros(2, 1, 4, 4), scheduler.timesteps[0])


def test_a_scheduler_without_a_run_is_refused():
    for name in SCHEDULERS:
        scheduler, _ = make(name)
        denoiser = FakeDenoiser(scheduler)
        with pytest.raises(PositionError, match=r"set_timesteps|another pipeline"):
            denoiser(torch.zeros(2, 1, 4, 4), torch.tensor(0.3))


# --- a second pipeline that shares the denoiser: the mask follows `mine`, the run is `other`'s


@pytest.mark.parametrize("name", SCHEDULERS)
def test_another_pipeline_before_any_run(name):
    mine, steps = make(name)
    with pytest.raises(PositionError):
        loop(FakeDenoiser(mine), begun("ddim", min(steps, 20))[1])


@pytest.mark.parametrize("stop", [None, 0, 7])
@AFTER_STEP
@pytest.mark.parametrize("name", SCHEDULERS)
def test_another_pipeline_after_a_run(name, after_step, stop):
    """Wherever the first run ended, what the other pipeline asks for is refused before it can be wrong."""
    steps = make(name)[1]
    if stop is not None and stop >= steps - 1:
        pytest.skip("the run is over by then")
    for other_name in ("ddim", "ddpm", "euler", "flow-match euler", "dpm++ karras"):
        for other_steps in (20, 10, 25):
            mine, _ = make(name)
            other, _ = make(other_name)
            denoiser = FakeDenoiser(mine)
            mine.set_timesteps(steps)
            count = len(loop(denoiser, mine, stop=stop, abort_after_step=after_step))
            other.set_timesteps(other_steps)
            check_refused("another pipeline", loop, denoiser, other, error=PositionError)
            assert len(denoiser.log) == count, "not even the first call may pass"


@SCALES
@pytest.mark.parametrize("streams", [1, 2])
@AFTER_STEP
@pytest.mark.parametrize("stop", [0, 7])
def test_another_pipeline_that_rescales_as_mine_does(stop, after_step, streams, scale):
    """Its first step may look like more of the row at which the first run was interrupted; its second cannot."""
    (denoiser, mine, steps), (_, other, _) = begun("flow-match euler"), begun("flow-match euler")
    for scheduler in (mine, other):
        scheduler.set_begin_index(0)
    count = len(loop(denoiser, mine, form=scale, stop=stop, streams=streams, abort_after_step=after_step))
    with pytest.raises(PositionError, match=r"another timestep than before, still at row .* another pipeline"):
        loop(denoiser, other, form=scale, streams=streams)
    assert len(denoiser.log) <= count + streams
    mine.set_timesteps(steps)
    mine.set_begin_index(0)
    assert loop(denoiser, mine, form=scale, streams=streams) == denoiser.log[-steps * streams :]


def test_values_are_read_only_where_a_row_has_more_calls_than_those_before(monkeypatch):
    """Reading one waits for an accelerator."""
    read = []
    monkeypatch.setattr(position, "_value", lambda timestep: read.append(timestep))
    denoiser, scheduler, _ = begun("flow-match euler")
    loop(denoiser, scheduler, streams=2)
    assert len(read) == 2, "the two calls of the first row"


@pytest.mark.parametrize("name", ["ddim", "dpm++ karras", "euler", "flow-match euler", "heun"])
def test_another_pipeline_with_the_same_timesteps_while_mine_has_not_begun(name):
    """Both have set their timesteps; the first call may look right, a later one cannot."""
    (denoiser, _, _), (_, other, _) = begun(name), begun(name)
    if name == "ddim":  # keeps no state at all: the rows are right, whoever asks
        assert loop(denoiser, other) == denoiser.log
        return
    check_refused("another pipeline", loop, denoiser, other, error=PositionError)
    assert denoiser.log == [(0, 0, True)]


# --- matching by value


def test_match_row_needs_exactly_one_row():
    _, scheduler, _ = begun("ddim", 4)
    assert scheduler.timesteps.tolist() == [750, 500, 250, 0]
    assert match_row(scheduler, torch.tensor([250, 250])) == 2
    assert match_row(scheduler, 0) == 3
    with pytest.raises(PositionError, match="no row of the DDIMScheduler's run has timestep 600"):
        match_row(scheduler, torch.tensor(600))
    scheduler.timesteps = torch.tensor([750, 500, 500, 0])
    check_refused("2 rows of the DDIMScheduler's run", match_row, scheduler, torch.tensor(500), error=PositionError)


def test_a_call_without_a_timestep():
    scheduler, steps = make("euler")
    scheduler.set_timesteps(steps)
    with pytest.raises(PositionError, match=r"called without a timestep .* or as timestep or timesteps or t"):
        PositionTracker().locate(scheduler, None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("steps", [4, 20, 1000])
def test_a_thousandth_of_the_timestep_and_no_begin_index(steps, dtype):
    """As Flux with a ControlNet says it."""
    denoiser, scheduler, _ = begun("flow-match euler", steps)
    expected = loop(denoiser, scheduler, form=lambda t: t.expand(2).to(dtype) / 1000)
    assert denoiser.log == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["t / 1000", "sigma / (sigma + 1)"])
def test_rescaled_timesteps_in_two_calls_and_no_begin_index(name, dtype):
    """As LongCat and Cosmos Predict 2 say it, where guidance takes two calls."""
    scheduler, steps = make("flow-match euler")
    scheduler.set_timesteps(steps)
    denoiser = FakeDenoiser(scheduler)

    def form(timestep):
        sigma = scheduler.sigmas[scheduler.index_for_timestep(timestep)]
        said = sigma / (sigma + 1) if "sigma" in name else timestep / 1000
        return said.to(dtype).expand(2)

    expected = loop(denoiser, scheduler, streams=2, form=form)
    assert denoiser.log == expected


def test_match_row_of_a_view_needs_no_value():
    scheduler, _ = make("ddim")
    scheduler.timesteps = torch.tensor([750, 500, 500, 0])
    assert [match_row(scheduler, t) for t in scheduler.timesteps] == [0, 1, 2, 3]
    assert match_row(scheduler, scheduler.timesteps[2].expand(8)) == 2
    assert match_row(scheduler, scheduler.timesteps[2:3]) == 2
    scheduler.timesteps = scheduler.timesteps[1:]
    assert match_row(scheduler, scheduler.timesteps[1]) == 1


def test_a_timestep_that_was_cast_to_bfloat16():
    """It has 8 bits of precision: some timesteps are no longer told apart, none is taken for another."""
    for steps, most in ((50, 0), (500, 498)):
        _, scheduler, _ = begun("ddim", steps)
        refused = 0
        for row, timestep in enumerate(scheduler.timesteps):
            try:
                assert match_row(scheduler, timestep.to(torch.bfloat16).reshape(1), row - 1) == row
            except PositionError:
                refused += 1
        assert min(most, 1) <= refused <= most


def test_a_timestep_that_was_cut_to_a_whole_number():
    """Helios does so, and its distilled scheduler keeps no index."""
    scheduler = diffusers.HeliosDMDScheduler(stages=3)
    scheduler.set_timesteps(4, stage_index=1)
    assert all(float(timestep) % 1 for timestep in scheduler.timesteps)
    assert [match_row(scheduler, timestep.to(torch.int64)) for timestep in scheduler.timesteps] == [0, 1, 2, 3]


def test_a_last_timestep_of_1_is_not_the_first_in_thousandths():
    _, scheduler, _ = begun("flow-match euler", 6)
    assert scheduler.timesteps[[0, -1]].tolist() == [1000, 1]
    assert match_row(scheduler, torch.tensor([1.0]), near=4) == 5
    assert match_row(scheduler, torch.tensor([1.0])) == 0, "where a run begins"


# --- what else a timestep may be


def test_tokens_may_be_clean_and_samples_may_not_differ():
    """Wan 2.2 and LTX give a timestep for every token: of a given image 0, or less noise than the others."""
    denoiser, scheduler, _ = begun("flow-match euler", 4)
    clean = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.5, 1.0]])
    expected = loop(denoiser, scheduler, form=lambda t: t * clean, streams=2)
    assert denoiser.log == expected
    denoiser, scheduler, _ = begun("flow-match euler", 4)
    for other in (torch.tensor([1.0, 0.5]), torch.tensor([[1.0, 0.0], [0.5, 0.5]])):
        with pytest.raises(PositionError, match="the samples of one denoiser call stand at different steps"):
            denoiser(None, scheduler.timesteps[0] * other)


def test_frames_that_wait_for_others_are_refused():
    """As asynchronous diffusion forcing has it: the last frame stays where it is while the first goes on."""
    denoiser, scheduler, _ = begun("flow-match euler", 4)
    first, second = scheduler.timesteps[:2].tolist()
    denoiser(torch.zeros(1), torch.tensor([[first, first]]))
    with pytest.raises(PositionError, match="the frames of one denoiser call stand at different steps"):
        denoiser(torch.zeros(1), torch.tensor([[second, first]]))


@pytest.mark.parametrize("name", [
    "DDPMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "HeunDiscreteScheduler", "LCMScheduler",
])  # fmt: skip
def test_timesteps_that_were_given_one_by_one(name):
    """Not every scheduler counts them; a run it is all the same."""
    scheduler = getattr(diffusers, name)()
    scheduler.set_timesteps(timesteps=[900, 600, 300, 100])
    denoiser = FakeDenoiser(scheduler)
    assert loop(denoiser, scheduler) == denoiser.log
