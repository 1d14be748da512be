"""Copies without values: models that ask for their device, or read whole numbers that come with the call."""

import warnings

import pytest
import torch
from torch import nn

from stepmask import UnsupportedModelError, describe, measure_cost
from stepmask.graph import OUT
from stepmask.inspection.architecture import Architecture
from stepmask.inspection.twin import Twin, on_a_twin
from tiny import tiny_model

SITES = ("first", "second", "third")


class Asks(nn.Module):
    """Needs a device that can compute; then does something with what it is given."""

    def __init__(self, then=lambda model, x, text, mask: model.third(x)) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(4, 4) for _ in SITES)
        self.then = then

    def forward(self, x, t, text, mask):
        with torch.autocast(x.device.type, torch.bfloat16):
            x = x + self.first(x) + t[:, None, None].float()
        return self.then(self, self.second(x), text, mask)


class Family(Architecture):
    patterns = list(SITES)
    step_inputs = ("x", "t")

    def example_inputs(self, model, batch_size=1):
        like = next(model.parameters())
        text = torch.randn(batch_size, 6, 4, device=like.device)
        mask = torch.arange(6, device=like.device).expand(batch_size, 6) < 2
        return {"x": torch.randn_like(text), "t": like.new_full((batch_size,), 500), "text": text, "mask": mask}

    def run(self, model, inputs):
        return model(**inputs)


def graph_of(then):
    return Family("Asks").graph(Asks(then).eval())


def test_a_model_that_asks_for_its_device():
    graph = graph_of(lambda model, x, text, mask: model.third(x))
    assert graph.names == SITES
    assert [graph.readers(i) for i in range(3)] == [(1,), (2,), (OUT,)]
    model = Asks().eval()
    given = Family("Asks").example_inputs(model)
    sites = {"sites": list(SITES), "example_inputs": given}
    assert describe(model, **sites).names == SITES, "without a family too"
    assert measure_cost(model, **sites).macs.tolist() == [6 * 4 * 4] * 3


class Rope:
    """A plain helper that keeps tensors."""

    def __init__(self) -> None:
        self.angles, self.by_length = None, {}

    def __call__(self, x):
        if self.angles is None:
            self.angles = torch.linspace(0, 1, 4)
        self.angles = self.angles.to(x.device)
        self.by_length[x.shape[1]] = self.angles
        return x * self.angles


class Keeps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.rope, self.seen = Rope(), {}

    def forward(self, x, t):
        self.seen["x"] = x
        for layer in self.layers:
            x = x + layer(self.rope(x)) + t[:, None, None].float()
        return x


@pytest.mark.parametrize("called_before", [False, True])
def test_what_a_model_keeps_beside_its_parts_is_left_alone(called_before):
    model = Keeps().eval()
    given = {"x": torch.randn(2, 6, 4), "t": torch.full((2,), 500)}
    wanted = model(**given) if called_before else None
    assert len(describe(model, sites=["layers.*"], example_inputs=given)) == 2
    measure_cost(model, sites=["layers.*"], example_inputs=given)
    kept = [model.rope.angles, *model.rope.by_length.values(), *model.seen.values()]
    assert all(tensor is None or tensor.device.type == "cpu" for tensor in kept)
    assert wanted is None or torch.equal(model(**given), wanted)
    assert model(**given).isfinite().all()


def test_lengths_may_be_read_from_a_mask():
    def cut(model, x, text, mask):
        lengths = mask.sum(dim=1).tolist()
        seen = torch.nonzero(mask[0]).flatten()
        return model.third(text[:, seen]) + x[:, : lengths[0]]

    graph = graph_of(cut)
    assert [graph.readers(i) for i in range(3)] == [(1,), (OUT,), (OUT,)]
    assert graph.reads_step == (True, True, False), "the text does not change"


def test_a_mask_may_choose():
    """Texts whose padding goes to the end."""

    def sort(model, x, text, mask):
        texts = [torch.cat([one[seen], one[~seen]]) for one, seen in zip(text, mask, strict=True)]
        return model.third(torch.stack(texts)[:, 1:]) + x[:, 1:]

    graph = graph_of(sort)
    assert [graph.readers(i) for i in range(3)] == [(1,), (OUT,), (OUT,)]


def test_new_numbers_are_followed():
    """A table that begins as zeros, positions that are counted."""

    def fill(model, x, text, mask):
        table, positions = torch.zeros(1, 8, 4), torch.zeros(1, 6, dtype=torch.long)
        table[:, :6] = x
        positions[:, 3:] = torch.arange(3)
        return model.third(table)[:, positions[0, -1].item() :]

    graph = graph_of(fill)
    assert [graph.readers(i) for i in range(3)] == [(1,), (2,), (OUT,)]


def by_text(model, x, text, mask):
    return model.third(x) if text.mean() > 0 else x


def by_time(model, x, text, mask):
    return model.third(x) if x.mean() > 0 else x


def by_table(model, x, text, mask):
    seen = torch.zeros(6, dtype=torch.long)
    seen[:] = x[0, :, 0]
    return model.third(x) if seen.tolist()[0] else x


@pytest.mark.parametrize(("then", "words"), [
    (by_text, "makes a choice by the value of a tensor"),
    (by_time, "makes a choice by the value of a tensor"),
    (by_table, "writes a value .* into whole numbers"),
])  # fmt: skip
def test_a_choice_by_fractions_is_refused(then, words):
    with pytest.raises(UnsupportedModelError, match=f"Asks {words}, so it cannot be traced without computing anything"):
        graph_of(then)


def test_a_choice_by_the_timestep_is_refused():
    """A whole number, but one that changes from step to step."""

    class ByTime(Asks):
        def forward(self, x, t, text, mask):
            return super().forward(x, t, text, mask) if t.item() > 100 else self.third(x)

    class Timed(Family):
        def example_inputs(self, model, batch_size=1):
            return {**super().example_inputs(model, batch_size), "t": torch.full((batch_size,), 500)}

    with pytest.raises(UnsupportedModelError, match="ByTime makes a choice by the value of a tensor"):
        Timed("ByTime").graph(ByTime().eval())


@pytest.mark.parametrize("family", ["MochiTransformer3DModel", "Lumina2Transformer2DModel"])
def test_describing_draws_no_random_numbers(family):
    model, state = tiny_model(family), torch.get_rng_state()
    with warnings.catch_warnings(action="ignore"):
        graph, cost = describe(model), measure_cost(model)
        assert torch.equal(torch.get_rng_state(), state)
        meta = tiny_model(family).to("meta")
        assert describe(meta) == graph and measure_cost(meta).macs.tolist() == cost.macs.tolist()


def test_the_error_of_the_second_copy_is_told():
    seen: list[Twin] = []

    def fail(twin: Twin):
        seen.append(twin)
        raise ValueError(f"number {len(seen)}")

    with pytest.raises(ValueError, match="number 2"):
        on_a_twin(tiny_model("DiTTransformer2DModel"), fail)
    assert [twin.on_meta for twin in seen] == [True, False, True]


def test_both_kinds_of_copies_cost_the_same():
    """Fused attention is another operation on each."""
    model = tiny_model("DiTTransformer2DModel")
    wanted = measure_cost(model)

    class Asking(type(model)):
        def forward(self, hidden_states, **kwargs):
            with torch.autocast(hidden_states.device.type, enabled=False):
                return super().forward(hidden_states, **kwargs)

    model.__class__ = Asking
    found = measure_cost(model)
    assert found.macs.tolist() == wanted.macs.tolist() and found.always_macs == wanted.always_macs
    assert found.product_macs.tolist() == wanted.product_macs.tolist() and found.product_macs.any()
