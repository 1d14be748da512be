"""MACs of full-size published models, counted on the meta device: nothing is computed, nothing takes memory."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from nests import WIDTH, Nest
from stepmask import StepMaskError, describe, make_plan, measure_cost, presets, schedules
from tiny import ddim_pipeline, dit_pipeline, tiny_model

T = 1e12


@pytest.fixture(scope="module")
def ddpm_cifar10():
    return presets.load("ddpm-cifar10-32")


def attention_products(name: str) -> float:
    """MACs of QK^T and of the weighted sum in one attention: 2 N^2 C at 16 x 16, in the middle at 4 x 4."""
    tokens = 16 if name.startswith("mid_block") else 256
    return 2 * tokens**2 * 256


def test_ddpm_cifar10(ddpm_cifar10):
    graph, cost = describe(ddpm_cifar10), measure_cost(ddpm_cifar10)
    assert [site.kind for site in graph.sites].count("sampler") == 6
    products = [attention_products(site.name) if site.kind == "attention" else 0 for site in graph.sites]
    assert cost.product_macs.tolist() == products and cost.always_product_macs == 0
    blocks = sum(cost.macs[i] for i in graph.blocks)
    assert blocks / cost.step_macs < cost.coverage < 1, "samplers are sites too"


@pytest.mark.parametrize(
    ("skip_unchanged", "conv_and_linear", "full"), [(False, 0.3485, 0.35188), (True, 0.3002, 0.30357)]
)
def test_deepcache_at_every_fifth_of_100_steps(ddpm_cifar10, skip_unchanged, conv_and_linear, full):
    """The figure that DeepCache reports as 0.35 T, which counts no attention products."""
    graph, cost = describe(ddpm_cifar10), measure_cost(ddpm_cifar10)
    mask = schedules.deepcache(graph, range(100), interval=5)
    plan = make_plan(mask, graph, skip_unchanged=skip_unchanged)
    lean = cost.conv_linear()
    total, lean_total = cost.total_macs(plan), lean.total_macs(plan)
    attentions = [i for i, site in enumerate(graph.sites) if site.kind == "attention"]
    assert total / T == pytest.approx(full, abs=1e-5)
    assert lean_total / T == pytest.approx(conv_and_linear, abs=5e-5)
    assert plan.compute[:, attentions].sum(axis=0).tolist() == [20] * 6
    if not skip_unchanged:
        samplers = [i for i, site in enumerate(graph.sites) if site.kind == "sampler"]
        always = lean_total + sum((100 - plan.compute[:, i].sum()) * lean.macs[i] for i in samplers)
        assert always / T == pytest.approx(0.370, abs=5e-4), "with samplers always run"


def test_dit_xl_2():
    cost = measure_cost(presets.load("dit-xl-2-256"))
    attention, mlp, blocks = cost.macs[0:-1:3], cost.macs[1:-1:3], cost.macs[2:-1:3]
    width, tokens, frequencies = 1152, 256, 256
    assert set(attention) == {4 * tokens * width**2 + 2 * tokens**2 * width}
    assert set(mlp) == {8 * tokens * width**2}
    assert set(blocks) == {frequencies * width + width**2 + 6 * width**2}, "the timestep's embedding, and the gates"
    assert cost.macs[-1] == 0, "of the list alone"
    assert set(cost.product_macs) == {2 * tokens**2 * width, 0} and cost.always_product_macs == 0


def test_a_guided_image_costs_two_forwards():
    pipe = dit_pipeline()
    plain, guided = measure_cost(pipe, call_kwargs={"guidance_scale": 1.0}), measure_cost(pipe)
    assert (plain.forwards_per_image, guided.forwards_per_image) == (1, 2)
    assert guided.step_macs == 2 * plain.step_macs == 2 * measure_cost(pipe.transformer).step_macs
    assert guided.coverage == plain.coverage
    assert measure_cost(ddim_pipeline()).forwards_per_image == 1


def test_costs_do_not_depend_on_weights_dtype_or_device():
    plain = measure_cost(tiny_model("UNet2DModel"))
    half = measure_cost(tiny_model("UNet2DModel", seed=1).to(torch.bfloat16))
    meta = measure_cost(tiny_model("UNet2DModel").to("meta"))
    assert plain.macs.tolist() == half.macs.tolist() == meta.macs.tolist()


@pytest.mark.parametrize("seed", [0, 5, 9])
def test_what_lies_within_a_list_within_a_block_counts_once(seed):
    model = Nest(seed)
    inputs = {"x": torch.zeros(1, WIDTH), "t": torch.zeros(1)}
    cost = measure_cost(model, sites=model.branches, example_inputs=inputs)
    assert cost.always_macs == WIDTH + WIDTH**2, "the two layers outside of all sites"
    outer = [not name.rpartition(".")[2].startswith("branch") for name in cost.sites]
    assert any(outer) and not cost.macs[outer].any(), "blocks and lists multiply nothing themselves"


def test_a_site_without_multiplications_costs_nothing():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.f, self.n = nn.Linear(4, 4), nn.LayerNorm(4)

        def forward(self, x):
            return self.n(self.f(x))

    model = Normed()
    given = {"sites": ["f", "n"], "example_inputs": {"x": torch.zeros(2, 4)}}
    assert measure_cost(model, **given).macs.tolist() == [16, 0]


@pytest.mark.parametrize(("handing_out", "saved"), [(0, (1, 2, 3)), (0.5, (2 / 3, 4 / 3, 3.5))])
def test_each_site_has_its_own_milliseconds(handing_out, saved, monkeypatch):
    """By a clock that only norms, layers and forecasts move: what rests as a whole saves the norms too."""
    model, clock, lerp = tiny_model("DiTTransformer2DModel"), [0.0], torch.lerp

    def passes(milliseconds: float) -> None:
        clock[0] += milliseconds / 1000

    def takes(milliseconds: float, module: nn.Module) -> None:
        module.register_forward_hook(lambda *_: passes(milliseconds))

    for block in model.transformer_blocks:
        takes(3, block.norm1)
        takes(1, block.attn1.to_q)
        takes(2, block.ff.net[0])
    takes(4, model.proj_out_2)
    monkeypatch.setattr(torch, "lerp", lambda *values: passes(handing_out) or lerp(*values))
    monkeypatch.setattr("stepmask.inspection.measure_cost.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    graph, cost = describe(model), measure_cost(model, latency=True, batch_size=1)
    milliseconds = dict(zip(("attention", "mlp", "block", "stack"), (*saved, 0), strict=True))
    assert cost.latency_ms == pytest.approx([milliseconds[site.kind] for site in graph.sites])
    count = len(model.transformer_blocks)
    full, rests = 6 * count + 4, handing_out * count + 4
    assert cost.always_latency_ms == pytest.approx(rests)
    resting = {"stack": rests, "block": rests, "branch": (3 + 2 * handing_out) * count + 4}
    for level, milliseconds in resting.items():
        plan = make_plan(schedules.key_steps(graph, range(10), 4, level=level), graph)
        assert cost.fraction(plan, "latency") == pytest.approx((4 * full + 6 * milliseconds) / (10 * full)), level


def test_latency_is_a_second_unit():
    model = tiny_model("UNet2DModel").train()
    cost, graph = measure_cost(model, latency=True, batch_size=1), describe(model)
    innermost = [i for i in range(len(graph)) if i not in graph.within]
    assert (
        cost.latency_ms.shape == cost.macs.shape
        and (cost.latency_ms[innermost] > 0).all()
        and cost.always_latency_ms >= 0
    )
    shares, always = cost.shares("latency")
    assert math.isclose(shares.sum() + always, 1)
    assert model.training and not any("forward" in vars(module) for module in model.modules())
    with pytest.raises(StepMaskError, match="latency=True"):
        measure_cost(model).shares("latency")
