"""What tells one learning run from another: call arguments and weights, the same on every machine."""

from __future__ import annotations

import torch
from PIL import Image

from stepmask.runtime.identity import comparable, weights_digest
from tiny import dit_pipeline, tiny_model


def test_call_arguments_as_json():
    assert comparable([1, "a", None, (2.5, True)]) == [1, "a", None, [2.5, True]]
    assert comparable({"scale": 0.5, "more": [1]}) == {"scale": 0.5, "more": [1]} != comparable({"scale": 0.6})
    ones, twos = torch.ones(2, 3), torch.full((2, 3), 2.0)
    assert comparable(ones) == comparable(ones.clone()) != comparable(twos)
    assert comparable(ones) != comparable(ones.view(3, 2)) and comparable(ones.bfloat16()) != comparable(ones)
    assert comparable(object()) == "object"
    white, black = (Image.new("RGB", (4, 2), colour) for colour in ("white", "black"))
    assert comparable(white) == comparable(white.copy()) != comparable(black)


def test_weights():
    digest = weights_digest(tiny_model("DiTTransformer2DModel"))
    assert digest == weights_digest(tiny_model("DiTTransformer2DModel"))
    assert digest != weights_digest(tiny_model("DiTTransformer2DModel", seed=1))
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    try:
        assert digest == weights_digest(tiny_model("DiTTransformer2DModel"))
    finally:
        torch.set_num_threads(threads)


def test_adapters_and_how_strong_they_are():
    from peft import LoraConfig, inject_adapter_in_model

    model = dit_pipeline().transformer
    plain = weights_digest(model)
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False), model)
    adapted = weights_digest(model)
    layer = next(module for module in model.modules() if isinstance(getattr(module, "scaling", None), dict))
    layer.scaling["default"] *= 2
    assert len({plain, adapted, weights_digest(model)}) == 3
