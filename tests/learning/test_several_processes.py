"""Processes that learn together come to the mask of one process, and none waits for one that has gone."""

import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open

import several
from several import SEARCH, STEPS, TARGET, Started
from stepmask import StepMask, StepMaskError, TargetError, UnsupportedModelError, fit_gains, learn, schedules
from stepmask.cli.common import models
from stepmask.learning import refusals
from stepmask.learning.processes import LostProcessError, Processes
from tiny import dit_pipeline


@pytest.fixture(scope="module")
def alone():
    """What one process comes to."""
    return several.search()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def facts(mask: StepMask) -> dict:
    return {name: value for name, value in mask.provenance.items() if name != "seconds"}


@pytest.mark.shows("several processes (`accelerate launch`, `torchrun`)", learn="verified; they share the images out")
def test_the_mask_is_that_of_one_process(alone):
    """And takes as many calls in all, for none is made twice."""
    first, second = Started(2, several.search).results()
    assert first == alone and second == alone and alone.gains is not None
    assert first.provenance == second.provenance and facts(first) == facts(alone)
    assert 10 < alone.provenance["psnr"]["mean"] < 70, "the numbers decide"


def test_time_is_up_for_all_by_the_clock_of_the_first(tmp_path):
    first, second = Started(2, several.search_in_time, str(tmp_path / "state")).results()
    assert first == second and first.provenance["cut_by_max_minutes"] and first.provenance["macs"] <= TARGET


@pytest.mark.parametrize("who", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_what_was_measured_is_there_when_one_has_died(who, alone, tmp_path):
    path = str(tmp_path / "state")
    results = Started(2, several.search_and_die, who, path).results()
    assert results[who] is None and isinstance(results[1 - who], LostProcessError)
    assert "the file that resume names" in str(results[1 - who]) and "any number of processes" in str(results[1 - who])
    with safe_open(path, framework="np") as file:
        assert any(name.startswith("probe.") for name in file.keys())
    again = several.search(resume=path) if who else Started(2, several.search_on, path).results()[1]
    assert again == alone


def test_an_error_in_one_ends_all():
    bug = "process 1 of the 2 that learn together ended with ValueError: a bug"
    first, second = Started(2, several.fail_in_turns).results()
    assert first == ["StepMaskError: mend it", f"StepMaskError: {bug}", "KeyboardInterrupt: "]
    assert second == ["StepMaskError: mend it", "ValueError: a bug", "KeyboardInterrupt: "]


def test_what_one_cannot_do_all_may_go_on_from():
    """As where no gradient comes back, and there is another way."""
    assert Started(2, several.fail_and_go_on).results() == [("no 0", [0, 10, 20])] * 2


def test_what_is_refused_is_refused_in_all():
    first, second = Started(2, several.refused_in_turns).results()
    assert [type(one) for one in first] == [TargetError, StepMaskError]
    assert "goals and seed differ: start all of them with the same arguments" in str(first[1])
    assert [*map(repr, first)] == [*map(repr, second)]


@pytest.mark.parametrize(("work", "says"), [
    (several.one_hangs, "one of the 2 processes that learn together has ended or hangs"),
    (several.one_comes, "not all of the 2 processes"),
])  # fmt: skip
def test_none_waits_for_ever(work, says):
    started = Started(2, work, 1.0)
    found = started.result(0)
    started.kill()
    assert isinstance(found, LostProcessError) and str(found).startswith(says)


@pytest.mark.slow
def test_in_a_group_of_the_users_own():
    """Learning by methods that do not share, gains alone, and by latencies; in one call after the other."""
    first, second = Started(2, several.in_a_group_of_their_own, free_port()).results()
    assert isinstance(first, list), first
    papers, fitted, fast, reports, words, total = first
    quick = {"num_inference_steps": STEPS, "target_macs": TARGET, "progress": False}
    assert papers == learn(dit_pipeline(), method="paper", num_trajectories=2, batch_size=1, **quick)
    schedule = schedules.key_steps(dit_pipeline(), 4, 2, forecast="linear")
    assert fitted.actions.tolist() == fit_gains(dit_pipeline(), schedule, iterations=2).actions.tolist()
    assert [papers, fitted, fast] == second[:3] and total == 2
    assert reports > 2 and second[3] == 0, "the first one alone tells how it goes"
    assert "learns in the first of the 2 processes" in words[0] and not second[4]


@pytest.mark.shows("a denoiser spread over processes (context and tensor parallelism)", learn="refused")
def test_a_denoiser_that_is_spread_over_processes_is_refused(monkeypatch):
    monkeypatch.setattr(refusals, "launched", lambda: (0, 2))
    pipe = dit_pipeline()
    pipe.transformer._parallel_config = SimpleNamespace(context_parallel_config=SimpleNamespace(_flattened_mesh=[2]))
    with pytest.raises(UnsupportedModelError, match="spread over the processes"):
        refusals.check_learnable(pipe)


def test_alone_nothing_is_exchanged():
    processes = Processes()
    assert processes.share("squares", lambda part: part**2, range(4)) == [0, 1, 4, 9]
    assert processes.gather(3) == [3] and processes.of_first(lambda: 5) == 5


# --- the command line


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    """Of a search like the others."""
    from tiny import ddim_pipeline

    folder = tmp_path_factory.mktemp("model")
    ddim_pipeline().save_pretrained(folder)
    words = ["learn", str(folder), "--steps", STEPS, "--target-macs", TARGET]
    for name, value in SEARCH.items():
        option = name.replace("_", "-")
        words += [f"--no-{option}"] if value is False and name != "progress" else []
        words += [f"--{option}", value] if value is not False else []
    return [str(word) for word in words]


def assert_same_but_for_rounding(found: StepMask, alone: StepMask) -> None:
    """Of a model from a file, whose weights lie elsewhere in memory: kernels may round otherwise."""
    assert np.array_equal(found.actions, alone.actions) and np.allclose(found.gains, alone.gains, atol=1e-3)


@pytest.mark.slow
def test_the_first_one_speaks(arguments, alone, tmp_path):
    path = tmp_path / "mask.json"
    first, second = Started(2, several.command, *arguments, "-o", str(path)).results()
    assert first[0] == 0 and second == (0, "", "") and "reached" in first[1]
    assert_same_but_for_rounding(StepMask.load(path), alone)
    first, second = Started(2, several.command, "learn", str(tmp_path / "nowhere")).results()
    assert first[0] == 2 and second == (2, "", "") and first[2].count("error:") == 1


@pytest.mark.slow
def test_when_the_first_has_died_one_other_says_how_to_go_on(arguments, tmp_path):
    paths = "-o", str(tmp_path / "mask.json"), "--resume", str(tmp_path / "state")
    first, *others = Started(3, several.command_and_die, *arguments, *paths).results()
    codes, errors = zip(*(one[::2] for one in others), strict=True)
    assert first is None and codes == (2, 2)
    assert sorted(text.count("the same call goes on from there") for text in errors) == [0, 1]


@pytest.mark.parametrize(("given", "cpu_alone", "expected"), [
    (None, "", "cuda:1"), ("cuda", "", "cuda:1"), ("cuda:0", "", "cuda:0"), ("cpu", "", "cpu"), (None, "True", "cpu"),
])  # fmt: skip
def test_each_has_an_accelerator_of_its_own(given, cpu_alone, expected, monkeypatch):
    accelerator = SimpleNamespace(
        is_available=lambda: True, current_accelerator=lambda: torch.device("cuda"), device_count=lambda: 2
    )
    monkeypatch.setattr(torch, "accelerator", accelerator)
    monkeypatch.setattr(models, "current", lambda: Processes(1, 2))
    monkeypatch.setenv("ACCELERATE_USE_CPU", cpu_alone)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    pipe = SimpleNamespace(to=lambda device: device)
    assert models._to(pipe, given) == expected
    accelerator.device_count = lambda: 1
    if expected == "cuda:1":
        with pytest.raises(StepMaskError, match="process 1 has no accelerator of its own among the 1"):
            models._to(pipe, given)


ACCELERATE = ["-m", "accelerate.commands.launch", "--num_processes", "2"]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [
    ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", "-m", "stepmask"],
    [*ACCELERATE, "--multi_gpu", "--main_process_port", "0", "-m", "stepmask"],
    [*ACCELERATE, "--cpu", str(Path(sys.executable).parent / "stepmask")],
], ids=["torchrun", "accelerate", "accelerate on the CPU"])  # fmt: skip
def test_launchers(launcher, arguments, alone, tmp_path):
    """The last one starts a single process, where there is no MPI."""
    path = tmp_path / "mask.json"
    command = [sys.executable, *launcher, *arguments, "-o", str(path), "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("reached") == 1
    assert_same_but_for_rounding(StepMask.load(path), alone)
