"""Quantised denoisers: described and counted as the plain one, masked bitwise, learned with gradients or without."""

import re
import warnings
from dataclasses import replace
from functools import cache

import diffusers
import numpy as np
import pytest
import torch
from cases import BY_NAME
from diffusers import DDIMScheduler
from peft import LoraConfig, inject_adapter_in_model
from runs import all_ones, by_reference, calls_of, random_actions
from torch import nn

import stepmask
from fakes import assert_unchanged, snapshot
from gate import in_gate
from quantisers import QUANTISERS, Quantiser, by_casting, transformer
from stepmask import describe, learn, make_plan, measure_cost
from stepmask.inspection.describe import description_of
from stepmask.inspection.first_step import FirstStep
from stepmask.inspection.graph_bytes import graph_bytes
from stepmask.inspection.placement import plain_parts
from stepmask.inspection.quantised import is_quantised
from stepmask.inspection.sampler_loop import SamplerLoop
from stepmask.learning.end_to_end.memory import cast_bytes
from tiny import FEW, ddim_pipeline, generator, random_mask, reference

STEPS = 4
LABELS = torch.tensor([3, 7])

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class Loop:
    """A model in its loop."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.scheduler = model, DDIMScheduler(clip_sample=False)

    def sample(self) -> torch.Tensor:
        return SamplerLoop(self.model, self.scheduler)(2, STEPS, generator(), class_labels=LABELS).images

    def masked(self, mask) -> torch.Tensor:
        with stepmask.apply(self.model, mask, scheduler=self.scheduler) as handle:
            made = self.sample()
            self.fraction = handle.summary().macs_fraction
        return made

    def by_reference(self, mask) -> torch.Tensor:
        with reference(self.model, mask) as running:
            rows = iter(range(STEPS))
            hook = self.model.register_forward_pre_hook(lambda *_: setattr(running, "row", next(rows)))
            try:
                return self.sample()
            finally:
                hook.remove()


class Quantised(Loop):
    """A quantised model, and what it makes."""

    def __init__(self, name: str) -> None:
        self.kind = QUANTISERS[name]
        super().__init__(self.kind(transformer()))
        try:
            self.plain = self.sample()
        except (RuntimeError, NotImplementedError) as error:
            pytest.skip(f"{self.kind.package} cannot run this on this CPU: {error}")


made = cache(Quantised)


@pytest.fixture(params=QUANTISERS)
def quantised(request) -> Quantised:
    return made(request.param)


def test_it_is_the_plain_model_but_for_its_weights(quantised):
    plain, model = transformer().to(quantised.kind.dtype), quantised.model
    assert describe(model) == describe(plain)
    found, wanted = measure_cost(model), measure_cost(plain)
    for name in ("macs", "product_macs", "value_bytes"):
        assert np.array_equal(getattr(found, name), getattr(wanted, name)), name
    assert found.always_macs == wanted.always_macs and found.step_macs > 0


@pytest.mark.shows("torchao, quanto, bitsandbytes, GGUF, layerwise casting", apply="bitwise")
def test_masks_run_bitwise(quantised):
    ones = random_mask(quantised.model, quantised.scheduler, STEPS, share=1.1)
    assert torch.equal(quantised.masked(ones), quantised.plain)
    mask = random_mask(quantised.model, quantised.scheduler, STEPS, seed=1, forecasts=0.5)
    made = quantised.masked(mask)
    assert torch.equal(made, quantised.by_reference(mask)) and not torch.equal(made, quantised.plain)
    share = measure_cost(transformer()).fraction(make_plan(mask, describe(quantised.model)))
    assert quantised.fraction == pytest.approx(share) and share < 1
    assert torch.equal(quantised.sample(), quantised.plain), "nothing stays"


@pytest.mark.shows(
    "torchao, quanto, bitsandbytes, GGUF, layerwise casting", learn="verified; by runs alone where no gradient passes"
)
def test_it_is_learned_with_gradients_where_they_pass(quantised):
    """Else by runs alone, and a warning says why; weights stay as they were."""
    before = [part.clone() for part in parts_of(quantised.model)]
    options = {"progress": False, "rounds": 0, **FEW, "gains": 2, "num_probes": 2}
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        mask = learn(quantised.model, STEPS, 0.7, scheduler=quantised.scheduler, **options)
    why = mask.provenance.get("without_gradients", "")
    assert bool(why) is not quantised.kind.differentiable
    assert bool(why) is any("lets no gradient through" in str(one.message) for one in seen)
    assert measure_cost(quantised.model).fraction(make_plan(mask, describe(quantised.model))) <= 0.7
    assert all(map(torch.equal, before, parts_of(quantised.model)))
    made = quantised.masked(mask)
    assert made.isfinite().all() and (made - quantised.plain).norm() < quantised.plain.norm()
    assert torch.equal(quantised.sample(), quantised.plain)


def parts_of(model):
    return [part for parameter in model.parameters() for part in plain_parts(parameter)]


@pytest.mark.shows("torchao, quanto, bitsandbytes, GGUF, layerwise casting", compile="compiled blocks of torchao")
@pytest.mark.parametrize("name", ["torchao int8 weights"])
def test_compiled_blocks(name):
    quantised = Quantised(name)
    mask = random_mask(quantised.model, quantised.scheduler, STEPS, seed=1, forecasts=0.5)
    wanted = quantised.masked(mask)
    for block in quantised.model.transformer_blocks:
        block.compile(backend="eager")
    assert torch.allclose(quantised.masked(mask), wanted, atol=1e-5)
    torch.compiler.reset()


# --- adapters on quantised weights


@pytest.mark.shows(
    "LoRA on quantised weights", apply="bitwise", learn="verified; by runs alone where no gradient passes"
)
@pytest.mark.parametrize(
    "name", ["torchao int8 weights", "bitsandbytes 4 bits", "quanto int8", "quanto int4", "GGUF Q8_0"]
)
def test_lora(name):
    quantised = Quantised(name)
    costs, config = measure_cost(quantised.model), LoraConfig(r=2, lora_alpha=4, target_modules=["to_q", "to_v"])
    inject_adapter_in_model(replace(config, init_lora_weights=False), quantised.model)
    quantised.model.eval()
    assert not torch.equal(quantised.sample(), quantised.plain)
    assert measure_cost(quantised.model).step_macs > costs.step_macs
    assert_masked_is_right(quantised.model)
    options = {"progress": False, "rounds": 0, **FEW}
    mask = learn(quantised.model, STEPS, 0.7, scheduler=quantised.scheduler, **options)
    assert mask.provenance["macs"] <= 0.7 and quantised.masked(mask).isfinite().all()


# --- gradients of what is cast or unpacked in every call


CAST = {"graph_bytes": 0}, {"gradient_checkpointing": True, "graph_bytes": 0}


@pytest.mark.parametrize("options", in_gate(CAST, CAST[1]))
def test_gradients_of_cast_convolutions(options):
    """Autograd keeps the weights that a call was made with, which are cast back after it; also where it runs again."""
    pipe = ddim_pipeline()
    by_casting(pipe.unet)
    before = snapshot(pipe.unet)
    mask = learn(pipe, 3, 0.7, progress=False, rounds=0, **{**FEW, "gains": 2, **options})
    assert mask.num_rows == 3 and "without_gradients" not in mask.provenance
    assert_unchanged(pipe.unet, before)


def test_the_paper_learns_on_cast_weights():
    pipe = ddim_pipeline()
    by_casting(pipe.unet)
    before = snapshot(pipe.unet)
    found = learn(pipe, 3, 0.8, method="paper", num_trajectories=1, batch_size=1, progress=False)
    assert np.isfinite(found.scores).all()
    assert_unchanged(pipe.unet, before)


def test_memory_of_weights_that_are_cast():
    """They are there once while gradients are asked for."""
    model = by_casting(transformer())
    grown = sum(3 * weight.numel() for weight in model.parameters() if weight.itemsize == 1)
    assert cast_bytes(model) == grown > 0 == cast_bytes(transformer())
    assert kept_bytes(model) == kept_bytes(transformer())


def test_memory_of_weights_that_are_unpacked():
    """Autograd keeps them for every call."""
    plain, packed = transformer(), QUANTISERS["GGUF Q8_0"](transformer())
    on_the_way = [layer for name, layer in packed.named_modules() if re.search(r"(attn1|ff)\..*|proj_out_2", name)]
    unpacked = sum(4 * layer.in_features * layer.out_features for layer in on_the_way if is_quantised(layer))
    assert kept_bytes(packed) == kept_bytes(plain) + unpacked > kept_bytes(plain)


def kept_bytes(model) -> int:
    return graph_bytes(description_of(model), FirstStep(None, 1)).plain


# --- as diffusers loads them


LOADED = {
    "torchao": lambda: diffusers.TorchAoConfig(int8_weights()),
    "optimum.quanto": lambda: diffusers.QuantoConfig("int8"),
}


@pytest.mark.parametrize("package", LOADED)
def test_what_diffusers_quantises_while_it_loads(package, tmp_path):
    Quantiser(package, lambda model: model)(nn.Identity())
    transformer().save_pretrained(tmp_path)
    options = {"quantization_config": LOADED[package](), "torch_dtype": torch.float32}
    model = diffusers.DiTTransformer2DModel.from_pretrained(tmp_path, **options).eval()
    assert any(map(is_quantised, model.modules())) and describe(model) == describe(transformer())
    assert_masked_is_right(model)


def int8_weights():
    from torchao.quantization import Int8WeightOnlyConfig

    return Int8WeightOnlyConfig()


def assert_masked_is_right(model) -> None:
    loop = Loop(model)
    plain = loop.sample()
    assert torch.equal(loop.masked(random_mask(model, loop.scheduler, STEPS, share=1.1)), plain)
    mask = random_mask(model, loop.scheduler, STEPS, seed=1, forecasts=0.5)
    assert torch.equal(loop.masked(mask), loop.by_reference(mask))


def test_a_gguf_file(tmp_path):
    gguf = pytest.importorskip("gguf", reason="gguf is not installed: pip install stepmask[quantised]")
    case = BY_NAME["Qwen-Image"]
    pipe = case.build()
    pipe.transformer.save_config(tmp_path)
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "qwen_image")
    for name, weight in pipe.transformer.state_dict().items():
        packs = weight.dim() == 2 and weight.shape[1] % 32 == 0
        kind = gguf.GGMLQuantizationType.Q8_0 if packs else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quantize(weight.numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    graph, cost = describe(pipe), measure_cost(pipe)
    pipe.transformer = diffusers.QwenImageTransformer2DModel.from_single_file(
        str(tmp_path / "model.gguf"), config=str(tmp_path), torch_dtype=torch.float32,
        quantization_config=diffusers.GGUFQuantizationConfig(compute_dtype=torch.float32),
    )  # fmt: skip
    assert sum(map(is_quantised, pipe.transformer.modules())) > 10
    assert describe(pipe) == graph and np.array_equal(measure_cost(pipe).macs, cost.macs)
    plain, mask = case.run(pipe), random_actions(pipe, 3)
    with stepmask.apply(pipe, all_ones(pipe)):
        assert torch.equal(case.run(pipe), plain)
    wanted = by_reference(pipe, mask, calls_of(case, len(mask.timesteps)), lambda: case.run(pipe))
    with stepmask.apply(pipe, mask):
        assert torch.equal(case.run(pipe), wanted)
    assert not torch.equal(wanted, plain)
