"""Offloading under a mask: weights are where something runs, images are as without, and nothing stays on the device."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cases import BY_NAME
from diffusers.hooks import group_offloading
from diffusers.hooks.group_offloading import GroupOffloadingConfig, GroupOffloadingType
from runs import all_ones, marks, random_actions

import stepmask
from stepmask import describe, make_plan, measure_cost
from stepmask.inspection.placement import device_of
from stepmask.runtime.task import weights_digest
from tiny import FEW, mask_of

FLUX = BY_NAME["Flux"]
CPU = torch.device("cpu")


def masked(case, pipe, mask):
    with stepmask.apply(pipe, mask):
        return case.run(pipe)


@pytest.fixture
def groups(monkeypatch):
    """Offloads to files, and leaves NaN in the place of weights; logs how many groups are there at once."""
    log = SimpleNamespace(there=set(), most=0, came=0)
    onload, offload = group_offloading.ModuleGroup.onload_, group_offloading.ModuleGroup.offload_

    def counted_onload(group):
        log.came += id(group) not in log.there
        log.there.add(id(group))
        log.most = max(log.most, len(log.there))
        onload(group)

    def filled_offload(group):
        offload(group)
        log.there.discard(id(group))
        for tensor in group.tensor_to_key:
            if tensor.is_floating_point():
                tensor.data.fill_(torch.nan)

    monkeypatch.setattr(group_offloading.ModuleGroup, "onload_", counted_onload)
    monkeypatch.setattr(group_offloading.ModuleGroup, "offload_", filled_offload)
    return log


@pytest.fixture
def streams(monkeypatch):
    """What diffusers asks of an accelerator with streams, where all is over at once."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    backend = SimpleNamespace(
        stream=lambda stream: nullcontext(), current_stream=lambda: SimpleNamespace(synchronize=lambda: None)
    )
    monkeypatch.setattr(group_offloading, "TorchDeviceBackend", lambda device: backend)
    return SimpleNamespace(synchronize=lambda: None)


def offload(model, folder, kind, blocks=1, stream=None) -> None:
    config = GroupOffloadingConfig(
        CPU, CPU, GroupOffloadingType(kind), non_blocking=False, record_stream=False, low_cpu_mem_usage=False,
        num_blocks_per_group=blocks, offload_to_disk_path=str(folder), stream=stream,
    )  # fmt: skip
    group_offloading._apply_group_offloading(model, config)


def blocks_rest(pipe, *rows):
    """A mask in which, after the first row, blocks of the first list compute as the rows say."""
    graph = describe(pipe)
    mask = all_ones(pipe)
    computes = mask.actions == 1
    for i, name in enumerate(graph.names):
        for block in range(2):
            if f"{name}.".startswith(f"transformer_blocks.{block}."):
                for row, there in enumerate(rows, 1):
                    computes[row, i] = there[block]
    return mask_of(computes, graph, pipe.scheduler)


WAYS = {  # kind, blocks in a group, whether there are streams
    "blocks": ("block_level", 1, False),
    "pairs of blocks": ("block_level", 2, False),
    "layers": ("leaf_level", None, False),
    "blocks, streams": ("block_level", 1, True),
    "layers, streams": ("leaf_level", None, True),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.shows("offloaded in groups", apply="bitwise")
def test_groups(way, groups, streams, tmp_path):
    """First blocks of a group rest, last ones do, all do; what rests does not come to the device, and nothing stays."""
    (kind, blocks, has_streams), pipe, plain = WAYS[way], FLUX.build(), FLUX.build()
    full = FLUX.run(plain)
    masks = [blocks_rest(plain, (0, 1), (1, 0), (0, 0)), random_actions(plain, 3, forecasts=0.5), all_ones(plain)]
    wanted = [masked(FLUX, plain, mask) for mask in masks]
    offload(pipe.transformer, tmp_path, kind, blocks, streams if has_streams else None)
    came = []
    for mask, images in zip(masks, wanted, strict=True):
        groups.came = groups.most = 0
        assert torch.equal(masked(FLUX, pipe, mask), images) and not groups.there
        came.append(groups.came)
        # the rest of the model, one group, with streams the next; those that find the order have no next yet
        assert groups.most <= 3 or kind == "leaf_level"
    assert max(came[:2]) < came[2]
    assert torch.equal(FLUX.run(pipe), full) and not groups.there


# --- layer by layer, as accelerate does it: from the disk, since it cannot do it from and to a CPU


def from_disk(model, folder, *names):
    """The model with some submodules on the disk between calls."""
    model.save_pretrained(folder / "model", max_shard_size="50KB")
    where = {name: "disk" if name in names else "cpu" for name, _ in model.named_children()}
    where.pop("transformer_blocks", None)
    where |= {f"transformer_blocks.{i}": "disk" if i in names else "cpu" for i in range(2)}
    options = {"device_map": where, "offload_folder": str(folder / "away")}
    return type(model).from_pretrained(folder / "model", **options).eval()


@pytest.mark.shows("offloaded as a whole or layer by layer", apply="bitwise")
@pytest.mark.shows("a map of devices (`device_map`)", apply="bitwise")
@pytest.mark.parametrize(
    "names", [[0], ["proj_out", "x_embedder", 0, 1, "single_transformer_blocks"]], ids=["some", "all"]
)
def test_layer_by_layer(names, tmp_path):
    """Between calls the weights are on no device at all."""
    plain, pipe = FLUX.build(), FLUX.build()
    full, mask, cost = FLUX.run(plain), random_actions(plain, 3, forecasts=0.5), measure_cost(plain)
    wanted = masked(FLUX, plain, mask)
    pipe.transformer = from_disk(plain.transformer, tmp_path, *names)
    assert any(parameter.is_meta for parameter in pipe.transformer.parameters())
    assert torch.equal(FLUX.run(pipe), full) and describe(pipe) == describe(plain)
    assert np.array_equal(measure_cost(pipe).macs, cost.macs)
    before = marks(pipe)
    with stepmask.apply(pipe, mask) as handle:
        assert torch.equal(FLUX.run(pipe), wanted)
        assert handle.summary().macs_fraction == pytest.approx(cost.fraction(make_plan(mask, describe(plain))))
    assert marks(pipe) == before and device_of(pipe.transformer) == CPU
    assert torch.equal(FLUX.run(pipe), full)


@pytest.mark.filterwarnings("ignore:the denoiser is offloaded")
@pytest.mark.shows("offloaded as a whole or layer by layer", learn="by runs alone, with a warning")
@pytest.mark.shows("a map of devices (`device_map`)", learn="by runs alone where a part is on the disk, with a warning")
@pytest.mark.slow
def test_learning_layer_by_layer(tmp_path):
    """As on the model that is there: by runs, and two sets of weights are told apart."""
    plain, pipe = FLUX.build(), FLUX.build()
    pipe.transformer = from_disk(plain.transformer, tmp_path, "proj_out", "x_embedder", 0, 1)
    assert weights_digest(pipe.transformer) == weights_digest(plain.transformer)
    options = {**FEW, "call_kwargs": FLUX.arguments(2), "progress": False}
    mask = stepmask.learn(pipe, 4, 0.6, **options)
    same = stepmask.learn(plain, 4, 0.6, gradients=False, **options)
    assert np.array_equal(mask.actions, same.actions) and mask.provenance["psnr"] == same.provenance["psnr"]
    assert mask.provenance["macs"] == same.provenance["macs"] <= 0.6
    assert torch.equal(masked(FLUX, pipe, mask), masked(FLUX, plain, mask))


# --- on an accelerator


@pytest.mark.gpu
@pytest.mark.parametrize("options", [
    {"offload_type": "block_level", "num_blocks_per_group": 2},
    {"offload_type": "block_level", "num_blocks_per_group": 1, "use_stream": True},
    {"offload_type": "leaf_level", "use_stream": True, "record_stream": True},
], ids=["pairs of blocks", "blocks, streams", "layers, streams"])  # fmt: skip
@pytest.mark.parametrize("cache_device", [None, "cpu"])
def test_groups_on_an_accelerator(options, cache_device):
    device = torch.accelerator.current_accelerator()
    plain, pipe = FLUX.build().to(device), FLUX.build()
    FLUX.run(plain)
    masks = [blocks_rest(plain, (0, 1), (1, 0), (0, 0)), random_actions(plain, 3, forecasts=0.5), all_ones(plain)]
    wanted = [masked(FLUX, plain, mask) for mask in masks]
    pipe.vae.to(device)
    pipe.transformer.enable_group_offload(onload_device=device, offload_device=CPU, **options)
    for mask, images in zip(masks, wanted, strict=True):
        with stepmask.apply(pipe, mask, cache_device=cache_device):
            assert torch.equal(FLUX.run(pipe), images)
        assert all(weight.device == CPU for weight in pipe.transformer.parameters())


@pytest.mark.gpu
@pytest.mark.parametrize("way", ["enable_model_cpu_offload", "enable_sequential_cpu_offload"])
def test_other_offloading_on_an_accelerator(way):
    device = torch.accelerator.current_accelerator()
    plain, pipe = FLUX.build().to(device), FLUX.build()
    FLUX.run(plain)
    mask = random_actions(plain, 3, forecasts=0.5)
    wanted = masked(FLUX, plain, mask)
    getattr(pipe, way)()
    for _ in range(2):
        assert torch.equal(masked(FLUX, pipe, mask), wanted)
    with pytest.warns(UserWarning, match="the denoiser is offloaded.*by runs alone"):
        learned = stepmask.learn(pipe, 4, 0.6, call_kwargs=FLUX.arguments(2), progress=False, **FEW)
    assert learned.provenance["macs"] <= 0.6
