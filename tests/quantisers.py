"""Ways in which users quantise a denoiser, each with what it takes on a CPU."""

import contextlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import diffusers
import pytest
import torch
from torch import nn


@dataclass(frozen=True)
class Quantiser:
    """A way to quantise.

    Attributes:
        package: What it needs, by the name under which it is imported; empty for diffusers alone.
        quantise: Takes a denoiser and returns it quantised.
        differentiable: Whether gradients pass.
        dtype: Of the denoiser.
    """

    package: str
    quantise: Callable[[nn.Module], nn.Module]
    differentiable: bool = True
    dtype: torch.dtype = torch.float32

    def __call__(self, model: nn.Module) -> nn.Module:
        """The denoiser quantised; the test is skipped where the package is missing or cannot do it on a CPU."""
        if self.package and find_spec(self.package.partition(".")[0]) is None:
            pytest.skip(f"{self.package} is not installed: pip install stepmask[quantised]")
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            try:
                return self.quantise(model.to(self.dtype)).eval()
            except (ImportError, RuntimeError, NotImplementedError) as error:
                pytest.skip(f"{self.package} has no path for this on this CPU: {error}")


def by_torchao(name: str, **options) -> Callable[[nn.Module], nn.Module]:
    def quantise(model):
        from torchao import quantization

        quantization.quantize_(model, getattr(quantization, name)(**options))
        return model

    return quantise


def by_quanto(**types: str) -> Callable[[nn.Module], nn.Module]:
    def quantise(model):
        from optimum import quanto

        quanto.quantize(model, **{what: getattr(quanto, name) for what, name in types.items()})
        quanto.freeze(model)
        return model

    return quantise


def by_quanto_of_4_bits(model: nn.Module) -> nn.Module:
    """Where quanto has compiled what it unpacks 4 bits with: it does so at the first call, and waits for a lock."""
    from optimum.quanto.library.extensions import cpp

    if not any(Path(cpp.__file__).parent.glob("build/*.so")):
        pytest.skip("optimum.quanto has no compiled extension for 4 bits here: one call of such a layer makes it")
    return by_quanto(weights="qint4")(model)


def with_linear_layers(model: nn.Module, made_of: Callable[[nn.Linear], nn.Module]) -> nn.Module:
    """The model with other layers in place of its linear ones."""
    for name, layer in list(model.named_modules()):
        if type(layer) is nn.Linear:
            parent, _, key = name.rpartition(".")
            setattr(model.get_submodule(parent), key, made_of(layer).requires_grad_(False))
    return model


def by_bitsandbytes(bits: int) -> Callable[[nn.Module], nn.Module]:
    """As diffusers does it on a GPU: its quantiser refuses to start without one."""

    def made_of(layer):
        import bitsandbytes

        sizes = layer.in_features, layer.out_features, layer.bias is not None
        if bits == 8:
            made = bitsandbytes.nn.Linear8bitLt(*sizes, has_fp16_weights=False)
        else:
            made = bitsandbytes.nn.Linear4bit(*sizes, compute_dtype=layer.weight.dtype, quant_type="nf4")
        made.load_state_dict(layer.state_dict())
        return made.to("cpu")

    return lambda model: with_linear_layers(model, made_of)


def by_gguf(kind: str) -> Callable[[nn.Module], nn.Module]:
    """The layers that diffusers makes of a GGUF file."""

    def made_of(layer):
        import gguf
        from diffusers.quantizers.gguf.utils import GGUFLinear, GGUFParameter

        if layer.in_features % 32:  # files keep such as they are
            return layer
        sizes, to = (layer.in_features, layer.out_features, layer.bias is not None), gguf.GGMLQuantizationType[kind]
        made = GGUFLinear(*sizes, compute_dtype=layer.weight.dtype)
        packed = torch.from_numpy(gguf.quantize(layer.weight.detach().numpy(), to))
        made.weight, made.bias = GGUFParameter(packed, quant_type=to), layer.bias
        return made

    return lambda model: with_linear_layers(model, made_of)


def by_casting(model: nn.Module) -> nn.Module:
    dtype = next(model.parameters()).dtype
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)
    return model


QUANTISERS = {
    "torchao int8 weights": Quantiser("torchao", by_torchao("Int8WeightOnlyConfig")),
    "torchao int8 weights, bfloat16": Quantiser(
        "torchao", by_torchao("Int8WeightOnlyConfig"), dtype=torch.bfloat16
    ),
    "torchao int8 dynamic": Quantiser(
        "torchao", by_torchao("Int8DynamicActivationInt8WeightConfig"), differentiable=False
    ),
    "torchao float8 weights": Quantiser("torchao", by_torchao("Float8WeightOnlyConfig")),
    "torchao int4 weights": Quantiser("torchao", by_torchao("IntxWeightOnlyConfig", weight_dtype=torch.int4)),
    "torchao int4 weights, packed": Quantiser(
        "torchao", by_torchao("Int4WeightOnlyConfig", group_size=32), dtype=torch.bfloat16
    ),
    "bitsandbytes 8 bits": Quantiser("bitsandbytes", by_bitsandbytes(8), dtype=torch.bfloat16),
    "bitsandbytes 4 bits": Quantiser("bitsandbytes", by_bitsandbytes(4)),
    "quanto int8": Quantiser("optimum.quanto", by_quanto(weights="qint8")),
    "quanto int4": Quantiser("optimum.quanto", by_quanto_of_4_bits),
    "quanto float8": Quantiser("optimum.quanto", by_quanto(weights="qfloat8")),
    "GGUF Q8_0": Quantiser("gguf", by_gguf("Q8_0")),
    "GGUF Q4_0": Quantiser("gguf", by_gguf("Q4_0")),
    "layerwise casting": Quantiser("", by_casting, dtype=torch.bfloat16),
    "layerwise casting, float32": Quantiser("", by_casting),
}  # fmt: skip


def transformer() -> nn.Module:
    """A DiT whose linear layers are wide enough for blocks of 32 weights."""
    torch.manual_seed(0)
    return diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=2, sample_size=8,
        patch_size=2, num_embeds_ada_norm=1000, norm_elementwise_affine=False, norm_type="ada_norm_zero",
    ).eval()  # fmt: skip
