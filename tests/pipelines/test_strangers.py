"""Pipelines whose denoisers no family knows: described by a look at their blocks, then all is as ever."""

import gc
import weakref

import pytest
import torch
from cases import FORWARDS, texts
from runs import all_ones, by_reference, calls_of, random_actions
from strangers import STRANGERS, cog_view_4, z_image

import stepmask
from refusal import check_refused
from stepmask import StepMaskError, UnknownArchitectureError
from stepmask.inspection.registry import denoiser_of, registered_architectures
from tiny import FEW, dit_pipeline, quiet

pytestmark = pytest.mark.filterwarnings("ignore:timesteps differ")
BY_NAME = {case.name: case for case in STRANGERS}
FURTHER = ("AnimateDiff", "Stable Video Diffusion")


@pytest.mark.parametrize("case", [
    pytest.param(case, marks=pytest.mark.slow if case.name in FURTHER else []) for case in STRANGERS
], ids=BY_NAME)  # fmt: skip
def test_masks_are_what_hooks_would_do(case):
    pipe = case.build()
    assert type(denoiser_of(pipe)).__name__ not in registered_architectures()
    plain = case.run(pipe)
    assert plain.isfinite().all() and plain.std() > 0.01
    with pytest.raises(StepMaskError, match=r"register_sites\(pipe, call_kwargs="):
        stepmask.describe(pipe)  # its call needs more
    cost = stepmask.measure_cost(pipe, call_kwargs=case.arguments(1))
    assert stepmask.describe(pipe).names == cost.sites, "what its call needs is remembered"
    assert stepmask.register_sites(pipe, call_kwargs=case.arguments(1)) == stepmask.describe(pipe)
    assert cost.coverage > 0.85 and cost.forwards_per_image == FORWARDS[case.guidance]
    with stepmask.apply(pipe, all_ones(pipe)):
        assert torch.equal(case.run(pipe), plain)
    for forecasts in (0.0, 0.6):
        mask = random_actions(pipe, seed=3, forecasts=forecasts)
        calls = [{}, {"batch": 1, "size": 1, "seed": 5}, {"seed": 1}][: 1 if forecasts else 3]
        rows = calls_of(case, len(mask.timesteps))
        wanted = [by_reference(pipe, mask, rows, lambda call=call: case.run(pipe, **call)) for call in calls]
        assert not torch.equal(wanted[0], plain), "the mask must matter"
        with stepmask.apply(pipe, mask):
            for call, images in zip(calls, wanted, strict=True):
                assert torch.equal(case.run(pipe, **call), images)


@pytest.mark.parametrize("method", ["end-to-end", "paper"])
@pytest.mark.parametrize("name", ["Z-Image", pytest.param("HunyuanVideo", marks=pytest.mark.slow)])
def test_learn_and_go_on_in_another_process(name, method, tmp_path):
    case = BY_NAME[name]
    pipe, inputs = case.build(), case.arguments(3)
    options = {"rounds": 1, **FEW} if method == "end-to-end" else {"num_trajectories": 1, "batch_size": 2}
    mask = stepmask.learn(pipe, case.steps, 0.7, call_kwargs=inputs, method=method, progress=False, **options)
    mask.save(tmp_path / "mask.json")
    again = case.build()  # that nothing is known of
    result = stepmask.evaluate(
        again, stepmask.StepMask.load(tmp_path / "mask.json"), seeds=3, call_kwargs=inputs, speed=False
    )
    assert result.macs_fraction <= 0.7 and result.psnr.mean > 20


def test_sites_may_be_chosen_without_example_inputs():
    pipe, inputs = quiet(z_image()), BY_NAME["Z-Image"].arguments(1)
    usual = stepmask.describe(pipe, call_kwargs=inputs)
    graph = stepmask.describe(pipe, sites=["layers.*.feed_forward"], call_kwargs=inputs)
    assert graph.innermost.names == ("layers.0.feed_forward", "layers.1.feed_forward")
    assert stepmask.describe(pipe, call_kwargs=inputs) == usual != graph, "describing changes nothing"
    assert stepmask.register_sites(pipe, ["layers.*.feed_forward"], call_kwargs=inputs) == stepmask.describe(pipe)


def test_a_mask_of_given_sites_runs_where_nothing_is_registered():
    case = BY_NAME["Z-Image"]
    pipe, inputs = case.build(), case.arguments(2)
    stepmask.register_sites(pipe, ["layers.*.feed_forward"], call_kwargs=inputs)
    mask = stepmask.schedules.fora(pipe, case.steps, 2)
    with stepmask.apply(pipe, mask):
        wanted = case.run(pipe)
    again = case.build()
    with stepmask.apply(again, mask, call_kwargs=inputs):
        assert torch.equal(case.run(again), wanted)
    result = stepmask.evaluate(again, mask, seeds=2, call_kwargs=inputs, speed=False)
    assert 0.5 < result.macs_fraction < 1
    assert stepmask.describe(again, call_kwargs=inputs).names != mask.sites


def test_what_a_call_needs_is_remembered_for_one_pipeline_as_long_as_it_lives():
    case = BY_NAME["Z-Image"]
    pipe, other, inputs = case.build(), case.build(), case.arguments(1)
    graph = stepmask.describe(pipe, call_kwargs={**inputs, "callback_on_step_end": pipe.progress_bar})
    assert stepmask.describe(pipe) == graph
    check_refused("could not be seen by starting a run", stepmask.describe, other)
    chosen = stepmask.describe(pipe, sites=["layers.*.feed_forward"])
    assert chosen.names != graph.names and stepmask.describe(pipe) == graph, "sites are not"
    gone = weakref.ref(pipe)
    del pipe
    gc.collect()
    assert gone() is None


def test_what_runs_twice_is_left_out():
    pipe = quiet(cog_view_4())
    graph = stepmask.describe(pipe, call_kwargs=texts(1, prompt_embeds=(16, 12)) | {"height": 32, "width": 32})
    assert graph.innermost.names == ("transformer_blocks.0.attn1", "transformer_blocks.1.attn1")


def test_what_cannot_be_described_is_told_in_words():
    pipe = quiet(z_image())
    check_refused(r"(?s)could not be seen by starting a run \(.*call_kwargs=\{", stepmask.describe, pipe)
    check_refused("Of any other give the pipeline", stepmask.describe, pipe.transformer, error=UnknownArchitectureError)
    check_refused("takes no prompt_embeds", stepmask.measure_cost, dit_pipeline(), call_kwargs={"prompt_embeds": 1})
