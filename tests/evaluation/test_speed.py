"""The two clocks and their summary."""

import time

import pytest
import torch
from torch import nn

from stepmask.evaluation.speed import Speed, Times, timed, timed_denoiser
from tiny import ddim_pipeline


class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, fail=False):
        time.sleep(0.02)
        if fail:
            raise RuntimeError("on purpose")


def test_only_time_inside_the_denoiser_counts():
    model, began = Slow(), time.perf_counter()
    with timed_denoiser(model) as watch:
        model()
        time.sleep(0.05)
        model()
    assert 0.04 <= watch.seconds <= time.perf_counter() - began - 0.05
    before = watch.seconds
    model()
    assert watch.seconds == before and not model._forward_hooks and not model._forward_pre_hooks


def test_hooks_leave_after_an_exception():
    model = Slow()
    with pytest.raises(RuntimeError), timed_denoiser(model) as watch:
        model(fail=True)
    assert watch.seconds >= 0.02
    assert not model._forward_hooks and not model._forward_pre_hooks


def test_the_call_takes_longer_than_its_denoiser():
    pipe = ddim_pipeline()
    _, times = timed(pipe, lambda: pipe(num_inference_steps=2, output_type="np"))
    assert 0 < times.denoiser < times.call


def test_weights_that_are_elsewhere_between_calls():
    """As sequential offload leaves them: on the meta device."""
    with timed_denoiser(Slow().to("meta")) as watch:
        assert watch.now() <= watch.now()
    with timed_denoiser(Slow().to("meta"), device=torch.device("cpu")) as watch:
        assert watch.now() <= watch.now()


def test_summary_is_the_median_of_paired_ratios():
    pairs = [(Times(2, 4), Times(1, 2)), (Times(6, 9), Times(2, 3)), (Times(10, 10), Times(1, 5))]
    speed = Speed.of(pairs, batch_size=16)
    assert (speed.denoiser.median, speed.denoiser.min, speed.denoiser.max) == (3, 2, 10)
    assert (speed.call.median, speed.call.min, speed.call.max) == (2, 2, 3)
    assert speed.to_dict()["full_s"] == {"denoiser": 6, "call": 9} and speed.pairs == 3
