"""What a copy without values says that autograd keeps is what it keeps."""

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from stepmask.inspection.describe import description_of
from stepmask.inspection.first_step import first_step
from stepmask.inspection.graph_bytes import GraphBytes, graph_bytes
from stepmask.inspection.inputs import first_sample
from tiny import dit_pipeline, tiny_model


def counted(pipe, call_kwargs=None) -> GraphBytes:
    return graph_bytes(description_of(pipe, call_kwargs=call_kwargs), first_step(pipe, call_kwargs))


def really_kept(model) -> int:
    """Bytes that stay for the way back of a real call, weights aside."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.requires_grad_(False).parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    architecture = description_of(model).architecture
    inputs = architecture.example_inputs(model)
    first_sample(inputs.values()).requires_grad_()
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        architecture.run(model, inputs)
    return sum(one.untyped_storage().nbytes() for place, one in kept.items() if place not in weights)


@pytest.mark.parametrize("name", ["UNet2DModel", "DiTTransformer2DModel", "FluxTransformer2DModel"])
def test_as_much_as_a_real_call_keeps(name):
    found = counted(tiny_model(name))
    assert found.plain == pytest.approx(really_kept(tiny_model(name)), rel=0.05)
    model = tiny_model(name)
    model.enable_gradient_checkpointing()
    assert really_kept(model) < found.checkpointed < found.plain, "of what runs again, the largest block counts too"


def test_guidance_counts_and_a_model_without_checkpointing_says_so():
    one, two = (counted(dit_pipeline(), {"guidance_scale": scale}) for scale in (1.0, 2.0))
    assert (two.plain, two.checkpointed) == (2 * one.plain, 2 * one.checkpointed)
    assert counted(tiny_model("HunyuanDiT2DModel")).checkpointed is None


def test_the_dtype_counts():
    half = counted(tiny_model("DiTTransformer2DModel").to(torch.bfloat16))
    assert half.plain < 0.7 * counted(tiny_model("DiTTransformer2DModel")).plain
