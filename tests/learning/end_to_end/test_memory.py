"""Learning fits into the memory that is free: what it needs at most, and which options it then runs with."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from fakes import snapshot
from stepmask import UnsupportedModelError, learn, make_plan
from stepmask.inspection.graph_bytes import GraphBytes
from stepmask.learning import EndToEnd
from stepmask.learning.end_to_end import memory
from stepmask.learning.end_to_end.gradients.chain import Chain
from stepmask.learning.end_to_end.memory import ROOM, Memory, Needs, fitted, free_bytes, model_bytes
from stepmask.learning.interception import frozen
from stepmask.runtime.task import Task
from stepmask.schedules import fora
from tiny import FEW, ddim_pipeline, dit_pipeline, tiny_model

GIB = 2**30
LARGE = Memory(28, GraphBytes(36 * GIB, 4 * GIB), 4 * GIB, 2**20, on_host=False)
"""About as flux-dev at 1024 pixels."""


def needs(**options) -> Needs:
    return LARGE.needs(replace(EndToEnd(offload=False, gradient_checkpointing=False, graph_bytes=0), **options))


def chosen(device: float, host: float, of=LARGE, **options) -> tuple:
    config = of.choose(EndToEnd(**options), Needs(int(device * GIB / ROOM), int(host * GIB / ROOM)))
    return config.images_per_call, config.offload, config.gradient_checkpointing


def test_each_option_takes_from_what_it_is_for():
    plain, checkpointed, away, one = (
        needs(),
        needs(gradient_checkpointing=True),
        needs(offload=True),
        needs(images_per_call=1),
    )
    assert plain.device - checkpointed.device == 8 * 32 * GIB and checkpointed.host == 0
    assert away.host == 8 * 28 * (4 * GIB + 2**20) == plain.device - away.device
    assert 8 * one.device == plain.device
    assert needs(graph_bytes=GIB).device - plain.device == GIB
    assert needs(graph_bytes=2**49).device - plain.device == 27 * 8 * 36 * GIB, "no more than there is to keep"


@pytest.mark.parametrize(
    ("device", "host", "expected"),
    [
        (1700, 0, (None, False, False)),
        (1450, 0, (None, False, True)),
        (810, 900, (None, True, False)),
        (550, 900, (None, True, True)),
        (550, 500, (4, True, False)),
        (80, 500, (1, True, True)),
        (1, 1, (1, True, True)),
    ],
)
def test_the_first_choice_that_fits(device, host, expected):
    assert chosen(device, host) == expected


def test_what_is_given_stays():
    assert chosen(80, 500, offload=False) == (1, False, True)
    assert chosen(550, 500, images_per_call=8, gradient_checkpointing=False) == (8, True, False)
    assert chosen(1, 1, of=replace(LARGE, on_host=True)) == (1, False, True), "a host has nowhere else to put it"
    assert chosen(1, 1, of=replace(LARGE, graph=GraphBytes(GIB, None)))[2] is False


def test_graphs_are_kept_within_what_is_left():
    room = needs().device + GIB // 4
    config = LARGE.choose(EndToEnd(), Needs(int(room / ROOM)))
    assert GIB // 5 < config.graph_bytes < GIB // 3
    assert LARGE.choose(EndToEnd(), Needs(1)).graph_bytes == 0


@pytest.mark.parametrize("make", [ddim_pipeline, dit_pipeline])
@pytest.mark.parametrize("interval", [1, 2])
def test_what_waits_is_within_the_bound(make, interval):
    task = Task(make(), 6)
    plan = make_plan(fora(task.graph, task.timesteps, interval), task.graph)
    chain = Chain(task.pipe, plan, 3, 2, EndToEnd(graph_bytes=0), probing=True)
    with frozen(task.denoiser), chain.intercepting():
        task.noise.latents(0, 3, copies=2)
    bound = 3 * 6 * Memory.of(task).value_bytes
    assert bound * np.mean(plan.compute) * 0.6 < chain.history.waiting_bytes <= bound
    assert (chain.history.waiting_bytes == bound) == (interval == 1)


def test_a_search_that_does_not_fit_takes_what_takes_less_and_finds_the_same(monkeypatch):
    options = {"rounds": 1, "progress": False, **FEW}
    pipe = dit_pipeline()
    expected, before = learn(pipe, 4, 0.7, **options), snapshot(pipe.transformer)[2]
    monkeypatch.setattr(memory, "free_bytes", lambda device: Needs(0, 0))
    config, found = fitted(EndToEnd(), Task(pipe, 4))
    assert (config.images_per_call, config.offload, config.gradient_checkpointing) == (1, False, True)
    assert found.needs(config).device < LARGE.needs(config).device and config.graph_bytes == 0
    found = learn(pipe, 4, 0.7, **options)
    assert np.array_equal(found.actions, expected.actions)
    assert snapshot(pipe.transformer)[2] == before


def test_where_nothing_is_known_everything_runs_at_once(monkeypatch):
    monkeypatch.setattr(memory, "graph_bytes", lambda *_: 1 / 0)
    config, found = fitted(EndToEnd(), Task(dit_pipeline(), 4))
    assert (config.images_per_call, config.offload, config.gradient_checkpointing, found) == (None, False, False, None)


def test_checkpointing_that_a_denoiser_does_not_have_is_refused():
    task = Task(tiny_model("HunyuanDiT2DModel"), 4, scheduler=DDIMScheduler())
    with pytest.raises(UnsupportedModelError, match="HunyuanDiT2DModel has no gradient checkpointing: leave"):
        fitted(EndToEnd(gradient_checkpointing=True), task)


def test_free_memory_and_weights_are_counted():
    found = free_bytes(torch.device("cpu"))
    assert found is None or (found.host == 0 and 2**20 < found.device < 2**50)
    assert free_bytes(torch.device("meta")) is None
    pipe = dit_pipeline()
    size = sum(4 * w.numel() for part in (pipe.vae, pipe.transformer) for w in part.parameters())
    assert model_bytes(Task(pipe, 4)) == size
