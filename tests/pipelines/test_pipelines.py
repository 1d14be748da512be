"""Every pipeline of the table runs masks unchanged, bit for bit as hooks would do it."""

import pytest
import torch
from cases import CASES, FORWARDS, verified
from runs import all_ones, by_reference, calls_of, marks, random_actions

import stepmask
from stepmask import measure_cost
from stepmask.inspection.registry import denoisers_of, registered_architectures
from tiny import sample_of, with_channel_gains

pytestmark = pytest.mark.filterwarnings("ignore:timesteps differ")  # shifts that depend on the resolution


FURTHER = {
    "Stable Diffusion XL, modular", "Stable Diffusion XL, T2I-Adapter", "Stable Diffusion, inpainting",
    "Stable Diffusion, PAG", "Stable Diffusion, image to image", "Wan 2.2, from an image", "Wan 2.2, two transformers",
    "Mochi", "Lumina 2", "Chroma", "Stable Diffusion, InstructPix2Pix", "PixArt-Sigma, PAG", "Stable Diffusion 3, PAG",
    "Flux, ControlNet", "Flux, modular", "LTX-Video, from an image", "AuraFlow",
}  # fmt: skip
"""Slow ones, of kinds that others show in less time."""
PARAMS = [pytest.param(case, marks=pytest.mark.slow if case.name in FURTHER else [], id=case.name) for case in CASES]


@pytest.fixture(scope="module", params=PARAMS)
def case(request):
    return request.param


@pytest.fixture(scope="module")
def pipe(case):
    return case.build()


@pytest.fixture(scope="module")
def plain(case, pipe):
    return case.run(pipe)


def wanted(case, pipe, mask, **call):
    return by_reference(pipe, mask, calls_of(case, len(mask.timesteps)), lambda: case.run(pipe, **call))


@pytest.mark.shows("ControlNet", apply="bitwise")
def test_all_ones_is_the_plain_pipeline(case, pipe, plain):
    assert plain.isfinite().all() and plain.std() > 0.01
    with stepmask.apply(pipe, all_ones(pipe)):
        assert torch.equal(case.run(pipe), plain)


@pytest.mark.parametrize("forecasts", [0.0, 0.6], ids=["binary", "forecasts"])
@pytest.mark.shows("guidance in one batch, in two calls, embedded", apply="bitwise")
def test_a_mask_is_what_hooks_would_do_at_any_batch_and_size(case, pipe, plain, forecasts):
    mask = random_actions(pipe, seed=3, forecasts=forecasts)
    if forecasts and len(denoisers_of(pipe)) == 1:
        mask = with_channel_gains(mask, denoisers_of(pipe)[0], lambda: case.run(pipe))
    calls = [{}, {"batch": 1, "size": 1, "seed": 5}, {"seed": 1}][: 3 if forecasts else 1]
    references = [wanted(case, pipe, mask, **call) for call in calls]
    assert not torch.equal(references[0], plain), "the mask must matter"
    with stepmask.apply(pipe, mask):
        for call, reference in zip(calls, references, strict=True):
            assert torch.equal(case.run(pipe, **call), reference)
    with stepmask.apply(pipe, mask, eliminate_dead=not forecasts):
        assert torch.equal(case.run(pipe), references[0])


def test_leaving_restores_every_module(case, pipe, plain):
    before = marks(pipe)
    with stepmask.apply(pipe, random_actions(pipe)) as handle:
        case.run(pipe)
        assert marks(pipe) != before
        assert handle.summary().rows == len(pipe.scheduler.timesteps) - case.start
    assert marks(pipe) == before
    assert torch.equal(case.run(pipe), plain)


def test_cost_counts_every_forward_of_an_image(case, pipe):
    sizes = []

    def note(module, args, kwargs):
        sizes.append(len(sample_of(args, kwargs)))

    hooks = [denoiser.register_forward_pre_hook(note, with_kwargs=True) for denoiser in denoisers_of(pipe)]
    case.run(pipe, batch=2)
    for hook in hooks:
        hook.remove()
    rows = len(pipe.scheduler.timesteps) - case.start
    assert sum(sizes) == 2 * rows * FORWARDS[case.guidance]
    assert measure_cost(pipe, call_kwargs=case.arguments()).forwards_per_image == FORWARDS[case.guidance]


def test_the_table_of_verified_pipelines():
    rows = verified()
    assert {row.denoiser for row in rows} <= set(registered_architectures())
    assert len({row.name for row in rows}) == len(rows) == len(CASES)
