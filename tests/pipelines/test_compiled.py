"""Pipelines that are compiled, before or after a mask is applied: as eager, full graphs, none made anew."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from cases import BY_NAME
from runs import all_ones, by_reference, calls_of, marks, random_actions
from torch._dynamo.utils import counters

import stepmask
from gate import in_gate
from stepmask import describe, schedules
from stepmask.inspection.registry import denoiser_of
from stepmask.mask import Action
from tiny import FEWEST

STEPS = 4
FLUX, DIT, UNET = (replace(BY_NAME[name], steps=STEPS) for name in ("Flux", "DiT", "Stable Diffusion"))
SLOW = pytest.mark.slow
ORDERS = pytest.mark.parametrize(
    "compiled_first",
    [pytest.param(True, id="compile, apply"), pytest.param(False, id="apply, compile", marks=SLOW)],
)
BLOCKWISE = pytest.mark.usefixtures("blockwise")
SAID = pytest.mark.filterwarnings("ignore:.* is compiled as a whole")


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def blockwise(monkeypatch):
    """As of a mask of many distinct rows."""
    monkeypatch.setattr("stepmask.runtime.whole.MOST_ROWS", 1)


def graphs() -> int:
    """Graphs that were made since the last question."""
    made, breaks = counters["stats"]["unique_graphs"], counters["graph_break"]
    assert not breaks
    counters.clear()
    return made


@contextmanager
def nothing_new():
    """An error where anything is compiled."""
    graphs()
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield
    assert graphs() == 0


def made(case):
    pipe = case.build()
    return pipe, case.run(pipe)


def compile_blocks(pipe, **options):
    """As the documentation of diffusers says, which has no such list for DiT."""
    options = {"fullgraph": True, "backend": "eager"} | options
    if pipe.transformer._repeated_blocks:
        pipe.transformer.compile_repeated_blocks(**options)
    else:
        for block in pipe.transformer.transformer_blocks:
            block.compile(**options)


def wanted_of(case, pipe, mask):
    return by_reference(pipe, mask, calls_of(case, len(mask.timesteps)), lambda: case.run(pipe))


# --- blocks


@pytest.mark.parametrize(("case", "compiled_first"), [
    *in_gate([(case, first) for case in (FLUX, DIT) for first in (True, False)], (FLUX, True))
], ids=lambda value: getattr(value, "name", None))  # fmt: skip
@pytest.mark.shows(
    "compiled blocks (`compile_repeated_blocks`, `block.compile()`)",
    apply="as compiled eager code, before or after",
    compile="each row of a block is one graph",
)
@pytest.mark.shows(
    "guidance in one batch, in two calls, embedded", compile="compiled blocks, in one batch and embedded"
)
def test_compiled_blocks(case, compiled_first):
    pipe, plain = made(case)
    mask = random_actions(pipe, 3)
    wanted = wanted_of(case, pipe, mask)
    if compiled_first:
        compile_blocks(pipe)
    before, limit = marks(pipe), torch._dynamo.config.recompile_limit
    with stepmask.apply(pipe, mask) as run:
        if not compiled_first:
            compile_blocks(pipe)
        assert torch.equal(case.run(pipe), wanted)
        strides = 1 if case is FLUX else 2  # the first block of a DiT gets its tokens in another layout
        assert 1 < run.summary().graphs <= graphs() <= strides * run.summary().graphs
        with nothing_new():
            assert torch.equal(case.run(pipe), wanted)
            assert not torch.equal(case.run(pipe, seed=7), wanted)
    assert torch.equal(case.run(pipe), plain) and torch._dynamo.config.recompile_limit == limit
    if compiled_first:
        assert marks(pipe) == before
    with nothing_new():
        assert torch.equal(case.run(pipe), plain)


@pytest.mark.shows("float16, bfloat16", compile="compiled blocks, in bfloat16")
@pytest.mark.slow
def test_compiled_blocks_in_half_precision():
    pipe = DIT.build().to(torch.bfloat16)
    DIT.run(pipe)
    mask = random_actions(pipe, 3)
    wanted = wanted_of(DIT, pipe, mask)
    compile_blocks(pipe)
    with stepmask.apply(pipe, mask):
        assert torch.equal(DIT.run(pipe), wanted) and graphs() > 1


def test_masks_of_whole_blocks_need_no_graphs_of_their_own():
    """Those of the model without a mask do."""
    pipe, _ = made(FLUX)
    compile_blocks(pipe)
    FLUX.run(pipe)
    for level in ("block", "stack"):
        mask = schedules.fora(pipe, STEPS, level=level)
        with stepmask.apply(pipe, mask) as run, nothing_new():
            FLUX.run(pipe)
            assert run.summary().graphs == 0


def test_another_mask_compiles_only_what_is_new():
    pipe, _ = made(DIT)
    every = schedules.fora(pipe, STEPS)
    feed_forward = [name.endswith("ff") for name in every.sites]
    few = every.with_actions(np.where(feed_forward, Action.compute, every.actions))
    compile_blocks(pipe)
    for mask in (few, every):
        with stepmask.apply(pipe, mask) as run:
            DIT.run(pipe)
            assert graphs() == (4 if mask is few else 2), "two rows, of the first block and the others; one that is new"
            assert run.summary().graphs == 2
    for mask in (few, every):
        with stepmask.apply(pipe, mask), nothing_new():
            DIT.run(pipe)


@pytest.mark.parametrize("forecasts", ["weights", pytest.param("line", marks=SLOW)])
def test_forecasts_are_no_graphs_of_their_own(forecasts):
    """They are made outside, so that holding and forecasting is one row, and neither gains nor weights matter."""
    pipe, _ = made(DIT)
    held = schedules.fora(pipe, STEPS, 2)
    mask = schedules.fora(pipe, STEPS, 2, "linear")
    if forecasts == "weights":
        site = mask.sites[0]
        mask = mask.with_actions(mask.actions, weights={site: torch.full((STEPS, 2, 1), 0.5).numpy()})
    wanted = wanted_of(DIT, pipe, mask)
    compile_blocks(pipe)
    with stepmask.apply(pipe, held):
        DIT.run(pipe)
    with stepmask.apply(pipe, mask), nothing_new():
        assert torch.allclose(DIT.run(pipe), wanted, atol=1e-6)


@pytest.mark.slow
def test_more_rows_than_the_limit_of_dynamo():
    """It counts graphs for each function; rows of a mask are graphs that it does not know of."""
    pipe, _ = made(DIT)
    mask = random_actions(pipe, 1)
    wanted = wanted_of(DIT, pipe, mask)
    compile_blocks(pipe)
    with torch._dynamo.config.patch(recompile_limit=2), stepmask.apply(pipe, mask):
        assert torch.equal(DIT.run(pipe), wanted) and graphs() > 2


def test_all_ones_is_what_the_compiled_pipeline_makes():
    pipe, plain = made(DIT)
    compile_blocks(pipe, backend="aot_eager")
    compiled = DIT.run(pipe)
    with stepmask.apply(pipe, all_ones(pipe)):
        assert torch.equal(DIT.run(pipe), compiled) and torch.allclose(compiled, plain, atol=1e-5)


@pytest.mark.slow
def test_everything_is_compiled():
    """Lists of blocks too, which are never called, and sites within blocks."""
    pipe, _ = made(DIT)
    mask = random_actions(pipe, 3)
    wanted = wanted_of(DIT, pipe, mask)
    for module in list(pipe.transformer.transformer_blocks.modules()):
        module.compile(backend="eager")
    with stepmask.apply(pipe, mask):
        assert torch.equal(DIT.run(pipe), wanted)
        with nothing_new():
            assert torch.equal(DIT.run(pipe), wanted)


@pytest.mark.slow
def test_a_compiled_block_that_is_called_on_its_own():
    """Outside of a call of the denoiser all that is within computes."""
    pipe, _ = made(DIT)
    block, tokens = pipe.transformer.transformer_blocks[1], torch.randn(2, 4, 16)
    inputs = {"timestep": torch.tensor([5, 5]), "class_labels": torch.tensor([0, 1])}
    with torch.no_grad():
        plain = block(tokens, **inputs)
        compile_blocks(pipe)
        with stepmask.apply(pipe, random_actions(pipe, 3)):
            assert torch.equal(block(tokens, **inputs), plain)
            DIT.run(pipe)
            assert torch.equal(block(tokens, **inputs), plain)


@pytest.mark.slow
def test_compiling_in_mid_run():
    pipe, _ = made(FLUX)
    mask = random_actions(pipe, 3)
    wanted = wanted_of(FLUX, pipe, mask)

    def compile_now(pipe, step, timestep, inputs):
        if step == 0:
            compile_blocks(pipe)
        return inputs

    case = replace(FLUX, options={"callback_on_step_end": compile_now})
    with stepmask.apply(pipe, mask):
        assert torch.equal(case.run(pipe), wanted) and graphs() > 0


def in_fixed_memory(module, inputs):
    """A backend whose graphs return the same memory at every call, as CUDA graphs do."""
    memory = None

    def run(*args):
        nonlocal memory
        found = module(*args)
        if memory is None:
            memory = [tensor.clone() for tensor in found]
        for kept, tensor in zip(memory, found, strict=True):
            kept.copy_(tensor)
        return memory

    return run


in_fixed_memory.config = {"triton.cudagraphs": True}  # as inductor says that it uses them


@pytest.mark.parametrize("nested", [True, pytest.param(False, marks=SLOW)])
def test_values_survive_in_graphs_that_use_their_memory_again(nested):
    pipe, _ = made(DIT)
    mask = random_actions(pipe, 3, forecasts=0.5, nested=nested)
    wanted = wanted_of(DIT, pipe, mask)
    compile_blocks(pipe, backend=in_fixed_memory)
    with stepmask.apply(pipe, mask):
        assert torch.allclose(DIT.run(pipe), wanted, atol=1e-6)


@pytest.mark.slow
@ORDERS
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_inductor(compiled_first, mode):
    pipe, _ = made(DIT)
    mask = random_actions(pipe, 3, forecasts=0.3)
    wanted = wanted_of(DIT, pipe, mask)
    if compiled_first:
        compile_blocks(pipe, backend="inductor", mode=mode)
    with stepmask.apply(pipe, mask):
        if not compiled_first:
            compile_blocks(pipe, backend="inductor", mode=mode)
        found = DIT.run(pipe)
        with nothing_new():
            assert torch.equal(DIT.run(pipe), found)
    assert torch.allclose(found, wanted, atol=1e-4)


# --- the denoiser as a whole

WAYS = pytest.mark.parametrize("way", ["in place", "wrapped"])
WAYS_AND_ORDERS = pytest.mark.parametrize(("way", "compiled_first"), [
    ("in place", True), pytest.param("in place", False, marks=SLOW),
    pytest.param("wrapped", True, marks=SLOW), pytest.param("wrapped", False, marks=SLOW),
])  # fmt: skip


def compile_whole(pipe, way, fullgraph=True):
    denoiser = denoiser_of(pipe)
    if way == "in place":
        denoiser.compile(backend="eager", fullgraph=fullgraph)
        return
    name = next(name for name in ("unet", "transformer") if hasattr(pipe, name))
    setattr(pipe, name, torch.compile(denoiser, backend="eager", fullgraph=fullgraph))


def back_as_it_was(pipe, denoiser, way, before):
    assert (pipe.transformer is denoiser) == (way == "in place")
    assert (denoiser._compiled_call_impl is None) == (way == "wrapped")
    denoiser._compiled_call_impl, pipe.transformer = None, denoiser
    assert marks(pipe) == before


@WAYS_AND_ORDERS
@pytest.mark.shows(
    "a denoiser that is compiled as a whole",
    apply="before or after",
    compile="each of 8 distinct rows is one graph; of more, the blocks instead, with a warning",
)
def test_a_compiled_denoiser_is_one_graph_for_each_row(way, compiled_first):
    pipe, plain = made(DIT)
    mask, denoiser = schedules.fora(pipe, STEPS, 2, "linear", "stack"), pipe.transformer
    wanted, before = wanted_of(DIT, pipe, mask), marks(pipe)
    if compiled_first:
        compile_whole(pipe, way)
    with stepmask.apply(pipe, mask) as run:
        if not compiled_first:
            compile_whole(pipe, way)
        assert torch.allclose(DIT.run(pipe), wanted, atol=1e-6)
        assert run.summary().graphs == 2 == graphs(), "of the steps that compute, and of those that rest"
        with nothing_new():
            DIT.run(pipe)
            assert not torch.equal(DIT.run(pipe, seed=7), wanted)
    assert torch.equal(DIT.run(pipe), plain) and graphs() == 1
    for known in (mask, schedules.fora(pipe, STEPS, 3, "linear", "stack")):
        with stepmask.apply(pipe, known), nothing_new():
            DIT.run(pipe)
    back_as_it_was(pipe, denoiser, way, before)


@pytest.mark.parametrize(
    "case", [DIT, pytest.param(FLUX, marks=SLOW), pytest.param(UNET, marks=SLOW)], ids=lambda case: case.name
)
def test_rows_of_a_compiled_denoiser_are_those_of_the_mask(case):
    pipe, plain = made(case)
    compile_whole(pipe, "in place")
    for mask, fewest in ((all_ones(pipe), 1), (random_actions(pipe, 3), 2)):
        graphs()
        with stepmask.apply(pipe, mask) as run:
            found = case.run(pipe)
            assert fewest <= graphs() <= run.summary().graphs <= STEPS
            with nothing_new():
                assert torch.equal(case.run(pipe), found)
        denoiser_of(pipe)._compiled_call_impl, compiled = None, denoiser_of(pipe)._compiled_call_impl
        with stepmask.apply(pipe, mask):
            assert torch.equal(case.run(pipe), found)
        denoiser_of(pipe)._compiled_call_impl = compiled
    assert torch.equal(case.run(pipe), plain)


@WAYS_AND_ORDERS
@BLOCKWISE
def test_a_compiled_denoiser_runs_block_by_block(way, compiled_first):
    pipe, plain = made(DIT)
    mask, denoiser = schedules.fora(pipe, STEPS, level="stack"), pipe.transformer
    wanted, before = wanted_of(DIT, pipe, mask), marks(pipe)
    if compiled_first:
        compile_whole(pipe, way)
    with pytest.warns(UserWarning, match=r"compiled as a whole.*its \d+ blocks are compiled one by one") as said:
        with stepmask.apply(pipe, mask) as run:
            if not compiled_first:
                compile_whole(pipe, way)
            assert torch.equal(DIT.run(pipe), wanted)  # with fullgraph, and steps at which nothing compiled is called
            assert run.summary().graphs == 0 and graphs() == 2  # that of a block, and of the first one
            with nothing_new():
                assert torch.equal(DIT.run(pipe), wanted)
        assert len([one for one in said if "as a whole" in str(one.message)]) == 1
        with stepmask.apply(pipe, mask), nothing_new():
            assert torch.equal(DIT.run(pipe), wanted)
    assert torch.equal(DIT.run(pipe), plain) and graphs() == 1
    with nothing_new():
        assert torch.equal(DIT.run(pipe), plain)
    back_as_it_was(pipe, denoiser, way, before)


def compile_forward(pipe):
    pipe.transformer.forward = torch.compile(pipe.transformer.forward, backend="eager", fullgraph=True)


@ORDERS
@pytest.mark.shows(
    "a forward that is compiled (`model.forward = torch.compile(model.forward)`)",
    apply="before or after",
    compile="as a denoiser that is compiled as a whole",
)
def test_a_compiled_forward(compiled_first):
    pipe, plain = made(DIT)
    mask = schedules.fora(pipe, STEPS, 2, "linear", "stack")
    wanted = wanted_of(DIT, pipe, mask)
    if compiled_first:
        compile_forward(pipe)
    with stepmask.apply(pipe, mask):
        if not compiled_first:
            compile_forward(pipe)
        assert torch.allclose(DIT.run(pipe), wanted, atol=1e-6) and graphs() == 2
        with nothing_new():
            DIT.run(pipe)
    assert torch.equal(DIT.run(pipe), plain) and graphs() == 1


@SAID
@BLOCKWISE
@pytest.mark.slow
@WAYS
def test_a_compiled_unet(way):
    """Its values are written into, its blocks hold many sites, and shapes differ from block to block."""
    pipe, plain = made(UNET)
    mask = random_actions(pipe, 3, forecasts=0.5)
    with stepmask.apply(pipe, mask):
        wanted = UNET.run(pipe)
    compile_whole(pipe, way)
    with stepmask.apply(pipe, mask):
        assert torch.equal(UNET.run(pipe), wanted)
        with nothing_new():
            assert torch.equal(UNET.run(pipe), wanted)
    assert torch.equal(UNET.run(pipe), plain)


@SAID
@pytest.mark.parametrize("way", ["in place", pytest.param("wrapped", marks=pytest.mark.slow)])
@pytest.mark.shows("a denoiser that is compiled as a whole", learn="verified; runs uncompiled")
@pytest.mark.shows("compiled blocks (`compile_repeated_blocks`, `block.compile()`)", learn="verified; runs uncompiled")
def test_a_compiled_pipeline_is_described_learned_on_and_evaluated(way):
    pipe, _ = made(DIT)
    plain, mask = describe(pipe), stepmask.learn(pipe, STEPS, target_macs=0.6, progress=False, **FEWEST)
    compile_whole(pipe, way)
    graphs()
    assert describe(pipe) == plain
    learned = stepmask.learn(pipe, STEPS, target_macs=0.6, progress=False, **FEWEST)
    assert (learned.actions == mask.actions).all() and graphs() == 0, "learning runs what was compiled uncompiled"
    found = stepmask.evaluate(pipe, mask, seeds=2, speed=False)
    assert graphs() > 0 and found.psnr.mean > 10


# --- sites


def compile_sites(pipe):
    for name in describe(pipe).innermost.names:
        denoiser_of(pipe).get_submodule(name).compile(backend="eager")


@ORDERS
@pytest.mark.shows("compiled sites", apply="before or after", compile="as they are")
def test_compiled_sites(compiled_first):
    """Their gates are outside of what is compiled, which is then compiled once."""
    pipe, plain = made(FLUX)
    mask = random_actions(pipe, 3)
    wanted = wanted_of(FLUX, pipe, mask)
    if compiled_first:
        compile_sites(pipe)
        FLUX.run(pipe)
    before = marks(pipe)
    with stepmask.apply(pipe, mask):
        if not compiled_first:
            compile_sites(pipe)
            FLUX.run(pipe)
        with nothing_new():
            assert torch.equal(FLUX.run(pipe), wanted)
    site = pipe.transformer.get_submodule(mask.sites[0])
    assert torch.equal(FLUX.run(pipe), plain) and site._compiled_call_impl is not None
    assert not compiled_first or marks(pipe) == before


@pytest.mark.slow
def test_sites_that_are_compiled_no_more():
    pipe, _ = made(FLUX)
    mask = random_actions(pipe, 3)
    wanted = wanted_of(FLUX, pipe, mask)
    compile_sites(pipe)
    with stepmask.apply(pipe, mask):
        FLUX.run(pipe)
        for module in pipe.transformer.modules():
            module._compiled_call_impl = None
        with nothing_new():
            assert torch.equal(FLUX.run(pipe), wanted)
    assert all(module._compiled_call_impl is None for module in pipe.transformer.modules())
