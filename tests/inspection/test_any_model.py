"""describe with patterns: any model, without a family of its own; and what the trace refuses, in words."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from torch import nn

import stepmask
from refusal import check_refused
from stepmask import apply, describe, make_plan, register_sites, schedules
from stepmask.errors import UnknownArchitectureError, UnsupportedModelError
from stepmask.graph import OUT, Site
from stepmask.inspection.architecture import Architecture, Given
from stepmask.inspection.registry import _architectures, architecture_of, register
from stepmask.inspection.sampler_loop import SamplerLoop
from tiny import count_computes, generator, modules_of, random_mask, tiny_model


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn, self.mlp = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x, shift):
        x = x + self.attn(x + shift)
        return x + self.mlp(x).tanh()


class Plain(nn.Module):
    """A denoiser that knows nothing of diffusers: no config, other names, a bare tensor as its result."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width) for _ in range(3))
        self.embed = nn.Linear(1, width)

    def forward(self, x, t, y):
        shift = self.embed(t[:, None].float() / 1000)[:, None] + y[:, None]
        for block in self.blocks:
            x = block(x, shift)
        return x


PATTERNS = ["blocks.*.attn", "blocks.*.mlp"]


def inputs(batch: int = 1) -> dict:
    return {"x": torch.randn(batch, 5, 8), "t": torch.full((batch,), 7), "y": torch.randn(batch, 8)}


@pytest.fixture
def plain() -> Plain:
    torch.manual_seed(0)
    return Plain().eval()


def test_a_model_that_is_not_from_diffusers(plain):
    graph = register_sites(plain, PATTERNS, example_inputs=inputs())
    assert graph.names[:4] == ("blocks.0.attn", "blocks.0.mlp", "blocks.0", "blocks.1.attn")
    assert [site.kind for site in graph.sites[:3]] == ["attention", "mlp", "block"]
    assert graph.sites[-1] == Site("blocks", "stack") and graph.readers(len(graph) - 1) == (OUT,)
    assert graph.innermost.readers(0) == (OUT, 1, 2, 3, 4, 5) and graph.innermost.readers(5) == (OUT,)
    assert describe(plain) == graph, "the instance is known from now on"
    check_refused("no architecture is registered for Plain", describe, Plain(), error=UnknownArchitectureError)


def test_describing_changes_nothing(plain):
    graph = describe(plain, sites=PATTERNS, example_inputs=inputs())
    cost = stepmask.measure_cost(plain, sites=PATTERNS, example_inputs=inputs())
    assert cost.sites == graph.names
    mask = schedules.fora(graph, [3, 2, 1])
    scheduler = DDIMScheduler()
    for unknown in (describe, stepmask.measure_cost, lambda model: apply(model, mask, scheduler=scheduler)):
        check_refused(r"call stepmask\.register_sites\(model, sites=", unknown, plain, error=UnknownArchitectureError)
    register_sites(plain, PATTERNS[:1], example_inputs=inputs())
    assert describe(plain, sites=PATTERNS, example_inputs=inputs()) == graph
    assert describe(plain).innermost.names == graph.innermost.names[::2], "what was registered stays"
    assert register_sites(plain, PATTERNS, example_inputs=inputs()) == describe(plain) == graph, "until it is anew"


class ResBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return x + self.layer(x).tanh()


class LatentUNet(nn.Module):
    """Calls its parts as latent-diffusion did, one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.input_blocks = nn.ModuleList([nn.Sequential(nn.Linear(8, 8)), nn.Sequential(ResBlock())])
        self.middle_block = nn.Sequential(ResBlock())
        self.output_blocks = nn.ModuleList([nn.Sequential(ResBlock(), ResBlock())])

    def forward(self, x, t):
        skip = self.input_blocks[1](self.input_blocks[0](x) + t[:, None])
        return self.output_blocks[0](self.middle_block(skip) + skip)


def test_sites_of_a_bare_model_are_found_with_the_inputs_of_a_call():
    model, inputs = LatentUNet().eval(), {"x": torch.randn(1, 8), "t": torch.ones(1)}
    graph = describe(model, example_inputs=inputs)
    assert graph.innermost.names == ("input_blocks.1.0", "middle_block.0", "output_blocks.0.0", "output_blocks.0.1")
    assert {site.kind for site in graph.innermost.sites} == {"resnet"}
    check_refused("no architecture is registered for LatentUNet", describe, model, error=UnknownArchitectureError)
    assert register_sites(model, example_inputs=inputs) == describe(model) == graph


def test_registering_takes_what_describe_finds():
    model = tiny_model("DiTTransformer2DModel")
    assert register_sites(model) == describe(model) == describe(tiny_model("DiTTransformer2DModel"))


class Sounding(Plain):
    """Returns a second result, which alone needs the last block, as models do that make a sound beside a video."""

    def forward(self, x, t, y):
        shift = self.embed(t[:, None].float() / 1000)[:, None] + y[:, None]
        video = self.blocks[0](x, shift)
        return video, self.blocks[2](self.blocks[1](video, shift), shift)


def test_all_that_it_returns_is_used():
    model = Sounding().eval()
    graph = register_sites(model, PATTERNS, example_inputs=inputs())
    assert OUT in graph.innermost.readers(5) and OUT in graph.readers(graph.names.index("blocks.2")), "the second's"
    assert "blocks" not in graph.names, "its first value is used outside of it"
    plan = make_plan(random_mask(model, DDIMScheduler(), 3, share=1.1), graph)
    assert plan.compute.all()


def test_it_runs_masks(plain):
    register_sites(plain, PATTERNS, example_inputs=inputs())
    scheduler = DDIMScheduler(clip_sample=False)
    loop, y = SamplerLoop(plain, scheduler), torch.randn(3, 8, generator=generator())
    full = loop(3, 5, generator(), y=y).images
    assert full.shape == (3, 5, 8)
    mask = random_mask(plain, scheduler, 5, forecasts=0.5)
    plan = make_plan(mask, describe(plain))
    with count_computes(plain, modules_of(describe(plain))) as log, apply(plain, plan, scheduler=scheduler):
        assert not torch.equal(loop(3, 5, generator(), y=y).images, full)
    assert len(log) == plan.called[:, :-1].sum()
    with apply(plain, random_mask(plain, scheduler, 5, share=1.1), scheduler=scheduler):
        assert torch.equal(loop(3, 5, generator(), y=y).images, full)


def test_it_learns_and_costs(plain):
    register_sites(plain, PATTERNS, example_inputs=inputs())
    cost = stepmask.measure_cost(plain)
    assert cost.macs.tolist() == [5 * 8 * 8, 5 * 8 * 8, 0] * 3 + [0] and cost.always_macs == 8
    few = {"rounds": 1, "gains": 1, "num_probes": 2, "num_validation": 3, "num_held_back": 3}
    options = {"scheduler": DDIMScheduler(clip_sample=False), "call_kwargs": {"y": torch.randn(2, 8)}}
    mask = stepmask.learn(plain, 6, 0.6, **options, **few)
    assert cost.fraction(make_plan(mask, describe(plain))) <= 0.61


def test_example_inputs_grow_with_the_batch():
    given = {"x": torch.ones(2, 5, 8), "t": torch.tensor([1, 2]), "y": torch.ones(2, 8), "ids": torch.ones(5, 3)}
    family = Given("Plain", PATTERNS, given, None)
    found = family.example_inputs(Plain(), 3)
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "x": (3, 5, 8), "t": (3,), "y": (3, 8), "ids": (5, 3),
    }  # fmt: skip
    assert found["t"].tolist() == [1, 2, 1]
    assert family.step_inputs[0] == "x" and family.timestep_name == "t"


def test_other_sites_of_a_registered_family():
    """A U-Net's attention and feed-forward layers in place of whole transformers."""
    model = tiny_model("UNet2DConditionModel")
    default = describe(model)
    within = ["**.attn1", "**.attn2", "**.ff"]
    graph = register_sites(model, ["**.resnets.*", *within, "**.downsamplers.*", "**.upsamplers.*"])
    same = [site for site in default.sites if site.kind != "transformer"]
    assert [site for site in graph.sites if site in default.sites] == same
    inner = graph.innermost
    assert {site.kind for site in inner.sites} == {"resnet", "attention", "cross_attention", "mlp", "sampler"}
    name = "mid_block.attentions.0.transformer_blocks.0."
    readers = {inner.names[i] for i in inner.readers(inner.names.index(f"{name}attn1"))}
    assert readers == {f"{name}attn2", f"{name}ff", "mid_block.resnets.1"}, "not the output: a resnet's state hides it"
    scheduler = DDIMScheduler(clip_sample=False)
    mask = random_mask(model, scheduler, 4)
    assert mask.sites == graph.names
    assert apply(model, mask, scheduler=scheduler).plan.graph == graph
    fresh = tiny_model("UNet2DConditionModel")
    assert describe(fresh) == default
    assert apply(fresh, mask, scheduler=scheduler).plan.graph == graph, "the mask names its sites"
    assert describe(fresh) == default, "and changes nothing"
    assert stepmask.measure_cost(fresh).sites == default.names


def test_a_made_up_architecture_takes_a_few_lines(monkeypatch):
    monkeypatch.setattr("stepmask.inspection.registry._architectures", dict(_architectures))

    @register("Plain")
    class PlainFamily(Architecture):
        patterns = {"blocks.*.attn": "attention", "blocks.*.mlp": "mlp"}
        step_inputs = ("x", "t")

        def example_inputs(self, model, batch_size=1):
            return inputs(batch_size)

        def run(self, model, given):
            return model(**given)

    graph = describe(Plain())
    assert len(graph) == 6 + 3 + 1 and graph.sites[0].kind == "attention"


# --- what is refused


@pytest.mark.parametrize(("patterns", "words"), [
    (["blocks.*.attn", "blocks.*"], r"blocks\.0\.attn lies within blocks\.0"),
    (["layers.*"], r"no submodule of Plain matches 'layers\.\*'; it has blocks, blocks\.\*, .*blocks\.\*\.attn"),
    ({"blocks.*.attn": "atention"}, r"no kind of site 'atention'; there are attention, "),
    ([], "needs sites"),
])  # fmt: skip
def test_patterns_that_cannot_be(plain, patterns, words):
    check_refused(words, describe, plain, sites=patterns, example_inputs=inputs())


@pytest.mark.parametrize(("given", "words"), [
    (None, "Plain is not registered, so without its pipeline it needs example_inputs"),
    ({"t": torch.ones(1)}, "need the noisy sample"),
    ({**inputs(), "z": 1}, r"cannot be traced without computing anything \(TypeError: .*'z'"),
], ids=["none", "no sample", "stranger"])  # fmt: skip
def test_inputs_that_cannot_be(plain, given, words):
    check_refused(words, describe, plain, sites=PATTERNS, example_inputs=given)


class Odd(Plain):
    """Does one odd thing in its forward pass."""

    def __init__(self, odd) -> None:
        super().__init__()
        self.odd = odd

    def forward(self, x, t, y):
        for block in self.blocks:
            x = block(x, y[:, None])
        return self.odd(self, x, y)


def keeps(model, x, y):
    model.memory = x
    return x


@pytest.mark.parametrize(("odd", "words"), [
    (lambda model, x, y: model.blocks[0](x, y[:, None]), r"blocks\.0\.attn runs more than once"),
    (lambda model, x, y: x if x.sum() > 0 else -x, "cannot be traced without computing anything"),
    (keeps, r"\.memory of Odd keeps what a site made for a later call"),
], ids=["twice", "by value", "keeps"])  # fmt: skip
def test_models_that_cannot_be_proven(odd, words):
    check_refused(words, describe, Odd(odd), sites=PATTERNS, example_inputs=inputs(), error=UnsupportedModelError)


def test_sites_that_do_not_run(plain):
    plain.blocks[0].spare = nn.Linear(1, 1)
    with pytest.raises(UnsupportedModelError, match=r"blocks\.0\.spare did not run .* on the example inputs"):
        describe(plain, sites=["blocks.*.spare", *PATTERNS], example_inputs=inputs())


# --- writes in place


class Writes(Plain):
    """Adds to a site's value in place, and writes a site's value into a part of a buffer."""

    def forward(self, x, t, y):
        first = self.blocks[0].attn(x)
        first += y[:, None]
        room = torch.zeros(len(x), 10, x.shape[-1], device=x.device)
        room[:, :5] = self.blocks[0].mlp(x)
        return self.blocks[1].attn(first) + self.blocks[1].mlp(room)[:, :5] + 0 * t[:, None, None]


def test_writes_are_followed():
    model = Writes().eval()
    graph = describe(model, sites=[f"blocks.{i}.{n}" for i in (0, 1) for n in ("attn", "mlp")], example_inputs=inputs())
    assert graph.names == ("blocks.0.attn", "blocks.0.mlp", "blocks.1.attn", "blocks.1.mlp")
    assert [graph.readers(i) for i in range(4)] == [(2,), (3,), (OUT,), (OUT,)]
    assert graph.rewritten == {0}


def test_what_is_written_into_gets_copies():
    torch.manual_seed(0)
    model, scheduler = Writes().eval(), DDIMScheduler(clip_sample=False)
    register_sites(model, ["blocks.0.attn", "blocks.0.mlp", "blocks.1.*"], example_inputs=inputs())
    loop, y = SamplerLoop(model, scheduler), torch.ones(1, 8)
    held = random_mask(model, scheduler, 4, share=-1)
    with apply(model, held, scheduler=scheduler):
        found = loop(1, 4, generator(), y=y).images
    rows, first = iter(range(4)), {}

    def swap(module, args, output):
        return first.setdefault(module, output.clone()).clone()

    hooks = [model.get_submodule(name).register_forward_hook(swap) for name in held.sites]
    wanted = loop(1, 4, generator(), y=y).images
    for hook in hooks:
        hook.remove()
    assert torch.equal(found, wanted) and next(rows) == 0
    assert np.asarray(held.compute)[1:].sum() == 0


# --- what the copy cannot run


def test_foreign_kernels_are_traced_around():
    """An attention that computes by numpy has no meta kernel: a model built from the configuration stands in."""

    class Foreign:
        def __call__(self, attn, hidden_states, *args, **kwargs):
            return torch.from_numpy(hidden_states.detach().numpy() * 1.0)

    model = tiny_model("DiTTransformer2DModel")
    wanted, cost = describe(model), stepmask.measure_cost(model)
    for block in model.transformer_blocks:
        block.attn1.processor = Foreign()
    family = architecture_of(model)
    assert family.trace(model, wanted.innermost.sites) == wanted
    assert stepmask.measure_cost(model).macs.tolist() == cost.macs.tolist()
