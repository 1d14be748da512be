"""Sites of models that no family knows, told by the parts of their blocks."""

import diffusers
import pytest
import torch
from torch import nn

from stepmask import UnknownArchitectureError
from stepmask.inspection.guess import guessed_sites
from stepmask.inspection.registry import registered_architectures
from tiny import tiny_model

FAMILIES = registered_architectures()


@pytest.mark.parametrize("name", FAMILIES)
def test_of_known_models_they_are_the_declared_ones(name):
    model = tiny_model(name)
    assert set(guessed_sites(model)) == {site.name for site in FAMILIES[name].sites(model)}


@pytest.mark.parametrize(("name", "sites", "share"), [
    ("Flux2Transformer2DModel", {"attn", "ff", "ff_context"}, 0.95),
    ("ZImageTransformer2DModel", {"attention", "feed_forward"}, 0.95),
    ("CosmosTransformer3DModel", {"attn1", "attn2", "ff"}, 0.9),
    ("LTX2VideoTransformer3DModel", {"attn1", "attn2", "ff", "audio_attn1", "audio_attn2", "audio_ff"}, 0.95),
    ("PRXTransformer2DModel", {"attention", "gate_proj", "up_proj", "down_proj"}, 0.7),
    ("UNetSpatioTemporalConditionModel", set(), 0.95),
    ("UNetMotionModel", set(), 0.95),
])  # fmt: skip
def test_of_others_they_are_most_of_the_model(name, sites, share):
    with torch.device("meta"):
        model = getattr(diffusers, name)()
    found, modules = guessed_sites(model), dict(model.named_modules())
    assert sites <= {site.rpartition(".")[2] for site in found}
    inside = sum(p.numel() for site in found for p in modules[site].parameters())
    assert inside >= share * sum(p.numel() for p in model.parameters())
    assert not any(other.startswith(f"{site}.") for site in found for other in found)


def test_a_model_without_blocks():
    with pytest.raises(UnknownArchitectureError, match=r"no blocks with an attention .* in Linear.*register_sites"):
        guessed_sites(nn.Linear(2, 2))
    alone = nn.Sequential(nn.Linear(2, 2))
    alone.attn = nn.MultiheadAttention(2, 1)
    with pytest.raises(UnknownArchitectureError):
        guessed_sites(alone)
