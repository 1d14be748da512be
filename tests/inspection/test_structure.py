"""What is found on copies of models is found once, and anew where anything that it may depend on has changed."""

import pytest
import torch
from torch import nn

from stepmask import measure_cost
from stepmask.inspection import first_step as capture
from stepmask.inspection import measure_cost as measuring
from stepmask.inspection import structure as _structure
from stepmask.inspection.structure import remembered, structure_of
from tiny import ddim_pipeline, dit_pipeline, tiny_model


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch):
    monkeypatch.setattr(_structure, "_answers", type(_structure._answers)())


@pytest.fixture
def copies(monkeypatch):
    """Classes of the models that copies were made of."""
    seen = []
    for module in (capture, measuring):
        original = module.on_a_twin
        monkeypatch.setattr(
            module, "on_a_twin", lambda model, run, original=original: seen.append(type(model)) or original(model, run)
        )
    return seen


@pytest.mark.parametrize("make", [ddim_pipeline, dit_pipeline])
def test_costs_are_counted_once(make, copies):
    first = measure_cost(make())
    assert len(copies) == 2, "what the first step returns, and MACs"
    again = measure_cost(make(seed=1))
    assert len(copies) == 2
    assert again.macs.tolist() == first.macs.tolist() and again.value_bytes.tolist() == first.value_bytes.tolist()


def test_other_sizes_are_counted_anew(copies):
    pipe = dit_pipeline()
    guided, plain = (measure_cost(pipe, call_kwargs={"guidance_scale": scale}) for scale in (4.0, 1.0))
    assert guided.step_macs == 2 * plain.step_macs and len(copies) == 3, "of one input the MACs are known"
    unet, dit = tiny_model("UNet2DModel"), tiny_model("DiTTransformer2DModel")
    assert measure_cost(unet).step_macs != measure_cost(dit).step_macs


class Adapter(nn.Module):
    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner, self.beside = inner, nn.Linear(inner.in_features, inner.out_features)
        self.active = ["beside"]

    def forward(self, x):
        return self.inner(x) + (self.beside(x) if self.active else 0)


def test_changes_of_the_model_are_seen():
    pipe = dit_pipeline()
    before = measure_cost(pipe).step_macs
    feed = pipe.transformer.transformer_blocks[0].ff.net
    feed[2] = Adapter(feed[2])
    adapted = measure_cost(pipe).step_macs
    assert adapted > before
    feed[2].active.clear()
    assert measure_cost(pipe).step_macs == before
    feed[2].active.append("beside")
    assert measure_cost(pipe).step_macs == adapted


def test_fused_projections_and_processors_are_seen():
    model = tiny_model("DiTTransformer2DModel")
    found = [structure_of(model)]
    for change in (
        lambda: model.transformer_blocks[0].attn1.fuse_projections(),
        lambda: model.transformer_blocks[0].attn1.set_processor(
            type("Other", (), {"__call__": lambda self, *_: None})()
        ),
        lambda: setattr(model.transformer_blocks[0], "_chunk_size", 2),
        lambda: model.to(torch.bfloat16),
    ):
        change()
        assert structure_of(model) == structure_of(model) and structure_of(model) not in found
        found.append(structure_of(model))


def test_what_cannot_be_compared_is_asked_each_time():
    model, answers = nn.Linear(2, 2), iter(range(10))

    def ask(*arguments):
        return remembered(model, "number", arguments, lambda: next(answers))

    assert [ask(torch.zeros(2)), ask(torch.ones(2)), ask(torch.zeros(3))] == [0, 0, 1], "of fractions the sizes"
    assert [ask(torch.tensor([1])), ask(torch.tensor([2])), ask(torch.tensor([1]))] == [2, 3, 2], "whole numbers"
    assert [ask(object()), ask(object())] == [4, 5]
    model.own = lambda: model
    assert [ask(torch.zeros(2)), ask(torch.zeros(2))] == [6, 7], "what a closure holds is not looked into"


def test_few_answers_are_kept(monkeypatch):
    monkeypatch.setattr(_structure, "MOST_ANSWERS", 2)
    monkeypatch.setattr(_structure, "MOST_STRUCTURES", 2)
    models, asked = [nn.Linear(1, width) for width in (1, 2, 3)], []

    def ask(model, number):
        remembered(model, number, (), lambda: asked.append((model, number)))

    for number in (0, 1, 2, 2, 1, 0):
        ask(models[0], number)
    assert [number for _, number in asked] == [0, 1, 2, 0], "the latest two"
    for model in (*models, models[2], models[0]):
        ask(model, 0)
    assert [model for model, _ in asked[4:]] == [models[1], models[2], models[0]]


def test_hooks_are_no_part_of_a_structure():
    """With any options: torch keeps these beside the hooks."""
    model = tiny_model("DiTTransformer2DModel")
    before = structure_of(model)
    model.register_forward_pre_hook(lambda *_: None, with_kwargs=True)
    model.register_forward_hook(lambda *_: None, with_kwargs=True, always_call=True)
    assert structure_of(model) == before
