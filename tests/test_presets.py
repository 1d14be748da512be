"""Published models: their parameters, MACs in both conventions, coverage and cache, all on the meta device."""

import subprocess
import sys
from collections import Counter
from functools import cache
from typing import NamedTuple

import pytest

from gate import in_gate
from stepmask import CostTable, StepMaskError, describe, measure_cost, presets
from stepmask.graph import BlockGraph
from stepmask.inspection.registry import architecture_of

MIB = 2**20


class Numbers(NamedTuple):
    """Known of a published model, for one input."""

    parameters: float  # millions
    full: float  # G MACs
    conv_linear: float  # G MACs
    coverage: float  # by the sites that masks decide on, in the convention of the paper
    kinds: dict[str, int]
    cache: float  # MiB in float16, of the sites that masks decide on


DIT = {"attention": 28, "mlp": 28}
PAPER = {
    "ddpm-cifar10-32": Numbers(35.746, 6.222, 6.054, 0.854, {"resnet": 22, "attention": 6}, 2.7),
    "ddpm-lsun-256": Numbers(113.673, 248.51, 248.17, 0.883, {"resnet": 32, "attention": 6}, 115),
    "ldm4-imagenet-256": Numbers(400.921, 104.23, 99.77, 0.884, {"resnet": 22, "transformer": 16}, 19.3),
    "dit-xl-2-256": Numbers(750, 118.67, 114.44, 0.998, DIT, 31.5),
    "dit-xl-2-512": Numbers(750, 524.58, 456.94, 0.999, DIT, 126),
    "pixart-sigma-1024": Numbers(610.856, 3316.8, 2155.2, 0.999, DIT | {"cross_attention": 28}, 756),
}
PARAMETERS = {
    "stable-diffusion-1.5": 859_520_964, "sdxl": 2_567_463_684, "flux-dev": 11_901_408_320,
    "flux-schnell": 11_891_178_560, "wan2.1-t2v-1.3b": 1_418_996_800,
}  # fmt: skip
LARGEST = "flux-dev"


@cache
def measured(name: str) -> tuple[int, BlockGraph, CostTable]:
    """Parameters, graph and cost of a preset, which lies on the meta device."""
    model = presets.load(name)
    assert type(model).__name__ == presets.get(name).class_name and not model.training
    assert {p.device.type for p in model.parameters()} == {"meta"}
    return sum(p.numel() for p in model.parameters()), describe(model), measure_cost(model)


@pytest.mark.parametrize("name", in_gate(PAPER, "ddpm-cifar10-32", "pixart-sigma-1024", "ldm4-imagenet-256"))
def test_numbers_of_the_models_of_the_paper(name):
    known = PAPER[name]
    parameters, graph, cost = measured(name)
    lean, blocks = cost.conv_linear(), list(graph.level("branch"))
    assert parameters / 1e6 == pytest.approx(known.parameters, rel=1e-3)
    assert cost.step_macs / 1e9 == pytest.approx(known.full, rel=1e-3)
    assert lean.step_macs / 1e9 == pytest.approx(known.conv_linear, rel=1e-3)
    assert lean.macs[blocks].sum() / lean.step_macs == pytest.approx(known.coverage, abs=1e-3)
    assert Counter(graph.sites[i].kind for i in blocks) == known.kinds
    assert cost.value_bytes[blocks].sum() / 2 / MIB == pytest.approx(known.cache, rel=0.01)  # float32 here


@pytest.mark.parametrize("name", in_gate(
    [name for name in presets.names() if name != LARGEST], "ddpm-cifar10-32", "dit-xl-2-256", "pixart-sigma-1024",
))  # fmt: skip
def test_every_preset_is_described_on_the_meta_device(name):
    parameters, graph, cost = measured(name)
    assert parameters == PARAMETERS.get(name, parameters)
    assert graph.names == cost.sites and cost.coverage > 0.99
    assert (cost.product_macs >= 0).all() and (cost.product_macs <= cost.macs).all()
    assert cost.always_product_macs == pytest.approx(0, abs=1), "attention runs in sites"


def test_products_are_those_of_the_attentions():
    _, graph, cost = measured("sdxl")
    kinds = {site.kind for site, products in zip(graph.sites, cost.product_macs, strict=True) if products}
    assert kinds == {"transformer"}
    assert cost.conv_linear().step_macs / 1e9 == pytest.approx(2988, rel=1e-3)


def test_ldm_4_reads_its_class_as_one_token():
    preset = presets.get("ldm4-imagenet-256")
    plain = preset.build()
    assert preset.example_inputs(plain)["encoder_hidden_states"].shape == (1, 1, 512)
    assert measured("ldm4-imagenet-256")[1].fingerprint == describe(plain).fingerprint, "as declared"
    assert measure_cost(plain).step_macs > measured("ldm4-imagenet-256")[2].step_macs, "with a text of 77 tokens"


@pytest.mark.parametrize(
    ("name", "image", "text"),
    [("flux-dev", (4096, 64), (512, 4096)), ("wan2.1-t2v-1.3b", (16, 21, 60, 104), (512, 4096))],
)
def test_sizes_that_a_configuration_does_not_say(name, image, text):
    """Those of published use are the preset's; a bare denoiser of this class is described on small inputs."""
    preset = presets.get(name)
    model = preset.build()
    published, small = preset.example_inputs(model), architecture_of(model).example_inputs(model)
    assert published["hidden_states"].shape[1:] == image and published["encoder_hidden_states"].shape[1:] == text
    assert small["hidden_states"].numel() < published["hidden_states"].numel() / 100


@pytest.mark.parametrize("name", in_gate(["dit-xl-2-256", LARGEST]))
def test_large_ones_take_no_memory(name):
    code = (
        "import resource, sys; from stepmask import measure_cost, presets; "
        f"model = presets.load({name!r}); cost = measure_cost(model); "
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024); "
        "print(sum(p.numel() for p in model.parameters()), len(cost.sites), int(cost.coverage > 0.99), peak)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    parameters, sites, covered, peak = map(int, done.stdout.split())
    if name == LARGEST:
        assert (parameters, sites) == (PARAMETERS[LARGEST], (3 + 1) * (19 + 38) + 2)
    assert covered and peak < min(2e9, 4 * parameters), "of which each would be 4 bytes"


def test_importing_presets_is_light():
    code = "import sys, stepmask.presets as p; p.names(); print({'torch', 'diffusers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def test_unknown_names_are_answered_with_the_known():
    with pytest.raises(StepMaskError, match=r"no preset 'sd15'; there are ddpm-cifar10-32, .*stable-diffusion-1\.5"):
        presets.load("sd15")


def test_every_preset_says_where_it_comes_from():
    for name in presets.names():
        preset = presets.get(name)
        assert "steps" in preset.published and all(hub.count("/") == 1 for hub in preset.hub)
    assert [name for name in presets.names() if not presets.get(name).hub] == ["ldm4-imagenet-256"]
