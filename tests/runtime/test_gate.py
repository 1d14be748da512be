"""Gates, and the cache behind them."""

import numpy as np
import pytest
import torch
from torch import nn

from stepmask import BlockGraph, Site, StepMask, make_plan
from stepmask.errors import MaskMismatchError, UnsupportedModelError
from stepmask.gate import Gate, Gates, Occasional, Passage, gated
from stepmask.runtime.cache import Cache, Meter, poison_like
from stepmask.runtime.channels import ChannelGains
from stepmask.runtime.policies import RunPlan
from stepmask.values import num_bytes


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))


def doubled(compute, args, kwargs):
    return 2 * compute()


def test_a_gate_decides_what_a_module_returns():
    net, x = model(), torch.ones(1, 2)
    plain = net[0](x)
    gate = Gate("0", net[0], doubled)
    assert torch.equal(net[0](x), 2 * plain)
    gate.remove()
    assert torch.equal(net[0](x), plain) and "forward" not in vars(net[0])


def test_a_gate_sees_the_arguments_and_need_not_compute():
    net, seen = model(), []
    gate = Gate("0", net[0], lambda compute, args, kwargs: seen.append((args, kwargs)))
    x = torch.ones(1, 2)
    assert net[0](input=x) is None and net[0](x) is None
    assert [(len(args), list(kwargs)) for args, kwargs in seen] == [(0, ["input"]), (1, [])]
    gate.remove()


def test_a_module_can_be_run_on_other_arguments():
    net, x = model(), torch.ones(1, 2)
    plain, other = net[0](x), net[0](3 * x)
    seen = []

    def both(compute, args, kwargs):
        seen.append((compute(), compute((3 * args[0],), {}), compute((), {"input": args[0]}), compute(k={})))
        return seen[-1][1]

    gate = Gate("0", net[0], both)
    assert torch.equal(net[0](x), other)
    gate.remove()
    assert all(torch.equal(*pair) for pair in zip(seen[0], (plain, other, plain, plain), strict=True))


def test_a_gate_with_nothing_to_do_notes_the_call_and_lets_it_through():
    net, x, passage = model(), torch.ones(1, 2), Passage([False, False])
    plain = net[1](x)
    gate = Gate("1", net[1], Occasional(doubled, passage, number=1, bit=2))
    assert torch.equal(net[1](x), plain) and passage.passed == 2
    passage.asks[:], passage.passed = [False, True], 0
    assert torch.equal(net[1](input=x), 2 * plain) and passage.passed == 0, "who is asked notes it by itself"
    gate.remove()
    assert "forward" not in vars(net[1])


def test_a_wrapper_from_before_comes_back():
    net = model()
    original = net[0].forward
    net[0].forward = before = lambda x: original(x) + 1
    x = torch.ones(1, 2)
    gate = Gate("0", net[0], doubled)
    assert torch.equal(net[0](x), 2 * (original(x) + 1))
    gate.remove()
    assert net[0].forward is before


def test_a_wrapper_from_after_is_left_and_reported():
    net = model()
    gates = Gates([("first", net[0], doubled), ("second", net[1], doubled)])
    inner = net[1].forward
    net[1].forward = wrapper = lambda x: inner(x)
    with pytest.raises(UnsupportedModelError, match=r"second was wrapped .* enable offload first"):
        gates.remove()
    assert net[1].forward is wrapper
    assert "forward" not in vars(net[0]), "the others are restored all the same"
    net[1].forward = inner
    gates.remove()
    assert "forward" not in vars(net[1])
    gates.remove()


def test_gates_that_cannot_all_be_installed_leave_none():
    net = model()

    class Stubborn(nn.Linear):
        def __setattr__(self, name, value):
            if name == "forward":
                raise RuntimeError("no")
            super().__setattr__(name, value)

    with pytest.raises(RuntimeError):
        Gates([("0", net[0], doubled), ("stubborn", Stubborn(2, 2), doubled)])
    assert "forward" not in vars(net[0])


def test_nested_gates_come_off_in_reverse():
    net, x = model(), torch.ones(1, 2)
    plain = net[0](x)
    gates = Gates([("0", net[0], doubled), ("0 again", net[0], doubled)])
    assert torch.equal(net[0](x), 4 * plain)
    gates.remove()
    assert "forward" not in vars(net[0])


def test_gated_restores_after_an_exception_too():
    net, x = model(), torch.ones(1, 2)
    plain = net[0](x)
    with pytest.raises(KeyError), gated([("0", net[0], doubled), ("1", net[1], doubled)]):
        assert torch.equal(net[0](x), 2 * plain)
        raise KeyError
    assert "forward" not in vars(net[0]) and "forward" not in vars(net[1])


def test_meter_knows_the_bytes_of_all_streams():
    meter = Meter()
    one, two = Cache(meter), Cache(meter)
    one.put(0, torch.zeros(4))
    two.put(0, (torch.zeros(2, dtype=torch.bfloat16), torch.zeros(1)))
    assert meter.held == meter.peak == 16 + 4 + 4
    one.put(0, torch.zeros(2))  # takes the place of the old value
    assert (meter.held, meter.peak) == (16, 24)
    two.clear()
    one.trim(0, 0)
    one.trim(0, 0)
    assert (meter.held, meter.peak) == (0, 24)
    with pytest.raises(KeyError):
        one.get(0)


def running_plan(**forecasting) -> RunPlan:
    """A plan of one site, whose forecasts extrapolate so."""
    forecast = np.array([[False]] + [[True]] * 5)
    mask = StepMask(compute=~forecast, forecast=forecast, sites=["both"], timesteps=range(6), **forecasting)
    return RunPlan(make_plan(mask, BlockGraph.chain([Site("both", "mlp")])))


def test_the_cache_hands_out_the_line_through_the_two_newest_values():
    cache, running = Cache(Meter()), running_plan()
    cache.put(0, (torch.tensor([0.0, 8.0]), torch.tensor([1.0])), step=0, keep=2)
    assert torch.equal(running.forecast(1, 0, cache)[0], torch.tensor([0.0, 8.0])), "with one value yet, that"
    cache.put(0, (torch.tensor([2.0, 4.0]), torch.tensor([2.0])), step=2, keep=2)
    newest, other = running.forecast(5, 0, cache)
    assert torch.equal(newest, torch.tensor([5.0, -2.0])) and torch.equal(other, torch.tensor([3.5]))
    assert torch.equal(cache.get(0)[0], torch.tensor([2.0, 4.0])), "what is kept stays as it is"
    cache.put(0, (torch.tensor([3.0, 4.0]), torch.tensor([2.0])), step=3, keep=2)
    assert torch.equal(running.forecast(4, 0, cache)[0], torch.tensor([4.0, 4.0])), "the oldest of three is gone"


def test_the_meter_counts_every_value_that_is_kept():
    meter = Meter()
    cache = Cache(meter)
    for step, held in ((0, 8), (1, 16), (2, 16)):
        cache.put(0, torch.zeros(2), step, keep=2)
        assert meter.held == meter.peak == held
    cache.trim(0, 1)
    cache.trim(0, 2)
    assert (meter.held, meter.peak) == (8, 16)
    cache.clear()
    assert meter.held == 0


def test_poison_is_nan_of_the_same_shape_without_memory():
    feature = (torch.zeros(3, 5), torch.zeros(2, dtype=torch.bfloat16))
    poison = poison_like(feature)
    for value, twin in zip(feature, poison, strict=True):
        assert twin.shape == value.shape and twin.dtype == value.dtype and twin.isnan().all()
        assert twin.untyped_storage().nbytes() == value.element_size()
    assert num_bytes(feature) == 64


def test_channels_have_gains_of_their_own_in_tokens_and_images():
    tokens, images = torch.randn(2, 3, 4), torch.randn(2, 5, 3, 3)
    gains = ChannelGains(["a", "both"], {1: np.arange(9) / 4})
    assert gains.of(0, [tokens]) is None
    first, second = gains.of(1, [tokens, images])
    assert torch.equal(first, torch.arange(4) / 4) and torch.equal(second.flatten(), torch.arange(4, 9) / 4)
    assert (tokens * first).shape == tokens.shape and (images * second).shape == images.shape
    assert gains.of(1, [tokens, images])[0] is first, "made once"
    half = gains.of(1, [tokens.half(), images.half()])[0]
    assert half.dtype == torch.float16
    cache = Cache(Meter())
    cache.put(0, (tokens, images), 0, keep=2)
    cache.put(0, (2 * tokens, 3 * images), 1, keep=2)
    running = running_plan(gains=np.full((6, 1), 0.5), channel_gains={"both": np.arange(9) / 4})
    newest, other = running.forecast(3, 0, cache)
    torch.testing.assert_close(newest, 2 * tokens + first * tokens)
    torch.testing.assert_close(other, 3 * images + 2 * second * images)


def test_gains_for_other_channels_are_refused_in_words():
    with pytest.raises(MaskMismatchError, match="gains for 9 channels of both, whose values have 8"):
        ChannelGains(["a", "both"], {1: np.ones(9)}).of(1, [torch.randn(2, 3, 8)])
