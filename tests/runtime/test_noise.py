"""Noise of learning: a numbered image is the same in whatever batch it is made."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler

from fakes import TwoCalls
from stepmask import StepMaskError
from stepmask.inspection.sampler_loop import SamplerLoop
from stepmask.learning.end_to_end.judge import HELD_BACK, PROBES, VALIDATION
from stepmask.runtime.noise import NOISE_SEEDS, Noise
from tiny import ddim_pipeline, ddpm_pipeline, dit_pipeline, tiny_model

PIPELINES = {
    "DDIM": (ddim_pipeline, None),
    "DDPM": (ddpm_pipeline, None),
    "DiT": (dit_pipeline, None),
    "given labels": (dit_pipeline, {"class_labels": [3, 7, 11], "guidance_scale": 1.0}),
    "loop": (lambda: SamplerLoop(tiny_model("DiTTransformer2DModel"), DDIMScheduler()), None),
}


def watched_labels(pipe) -> list:
    """Conditional labels of every denoiser call to come."""
    seen = []

    def watch(module, args, kwargs):
        seen.append(kwargs["class_labels"][: len(kwargs["class_labels"])].tolist())

    pipe.transformer.register_forward_pre_hook(watch, with_kwargs=True)
    return seen


@pytest.mark.parametrize("name", PIPELINES)
def test_an_image_is_the_same_in_any_batch(name):
    make, call_kwargs = PIPELINES[name]
    noise = Noise(make(), 3, 5, call_kwargs)
    for images in (noise.images, noise.latents):
        together = images(10, 4)
        # the plain model itself differs between batch sizes in the last bits
        torch.testing.assert_close(images(12, 1), together[2:3], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(images(9, 3)[1:], together[:2], rtol=1e-4, atol=1e-4)
        assert (together[0] - together[1]).abs().max() > 1e-2
        for copy in images(10, 2, copies=2).unflatten(0, (2, 2)):
            torch.testing.assert_close(copy, together[:2], rtol=1e-4, atol=1e-4)
    assert torch.equal(Noise(make(), 3, 5, call_kwargs).images(10, 4), noise.images(10, 4))


def test_other_seeds_are_other_images():
    pipe = ddim_pipeline()
    noise, other = Noise(pipe, 3, 0), Noise(pipe, 3, 1)
    assert not torch.allclose(noise.images(0, 1), other.images(0, 1), atol=1e-2)
    assert noise.seeds(7, 3) == range(NOISE_SEEDS + 7, NOISE_SEEDS + 10)
    assert not set(noise.seeds(0, 10**5)) & set(other.seeds(0, 10**5))
    assert max(Noise(pipe, 3, 10**9).seeds(0, 10**5)) < 2**32


def test_labels_belong_to_the_image():
    pipe = dit_pipeline()
    seen = watched_labels(pipe)
    noise = Noise(pipe, 1, 0)
    noise.images(0, 4)
    noise.images(2, 2)
    noise.images(0, 2, copies=2)
    (a, b, c, d), (first, second), copied = (labels[: len(labels) // 2] for labels in seen)
    assert len({a, b, c, d}) == 4 and [first, second] == [c, d] and copied == [a, b, a, b]


def test_given_lists_are_gone_through_again_and_again():
    pipe = dit_pipeline()
    seen = watched_labels(pipe)
    noise = Noise(pipe, 1, 0, {"class_labels": [3, 7, 11], "guidance_scale": 1.0})
    noise.images(0, 4)
    noise.images(5, 2)
    noise.images(2, 2, copies=2)
    assert seen == [[3, 7, 11, 3], [11, 3], [11, 3, 11, 3]]


@pytest.mark.parametrize("count", [100, 1000, 200])
def test_kinds_of_noise_do_not_share_the_conditions_of_a_long_list(count):
    """By default 8 images are for validation, and 16 are held back."""
    noise = Noise(dit_pipeline(), 1, 0, {"class_labels": list(range(count))})
    kinds = [(VALIDATION, 8), (HELD_BACK, 16), (PROBES, 8)]
    dealt = [set(noise._conditions(range(first, first + n), [0] * n)["class_labels"]) for first, n in kinds]
    assert [len(labels) for labels in dealt] == [8, 16, 8]
    assert len(set.union(*dealt)) == 8 + 16 + 8


def test_tensors_are_picked_by_image_and_single_values_passed_on():
    noise = Noise(dit_pipeline(), 1, 0, {"class_labels": torch.tensor([3, 7, 11]), "guidance_scale": 1.5})
    call = noise._conditions([4, 5, 6], [0, 1, 2])
    assert call["class_labels"].tolist() == [7, 11, 3] and call["guidance_scale"] == 1.5


def test_latents_of_a_pipeline_that_decodes_in_chunks():
    wanted = Noise(dit_pipeline(), 2, 0).latents(0, 3)
    pipe = dit_pipeline()
    decode = pipe.vae.decode

    def by_one(z, **kwargs):
        return SimpleNamespace(sample=torch.cat([decode(part, **kwargs).sample for part in z.split(1)]))

    pipe.vae.decode = by_one
    assert torch.equal(Noise(pipe, 2, 0).latents(0, 3), wanted)


def test_conditions_that_cannot_be_invented_must_be_given():
    class Prompted(TwoCalls):
        @torch.no_grad()
        def __call__(self, prompt, num_inference_steps=50, generator=None):
            return super().__call__([len(word) for word in prompt], num_inference_steps, generator)

    pipe = Prompted(tiny_model("DiTTransformer2DModel"), DDIMScheduler())
    with pytest.raises(StepMaskError, match="Prompted needs conditions"):
        Noise(pipe, 1, 0).images(0, 1)
    assert len(Noise(pipe, 1, 0, {"prompt": ["a", "bcd"]}).images(0, 3)) == 3


def test_psnr_in_the_units_of_the_pipeline():
    one, other = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    other[1] = 0.1
    exact, off = Noise(ddim_pipeline(), 1, 0).psnrs(other, one)
    assert off == pytest.approx(20) and exact == pytest.approx(120)
    loop = SamplerLoop(tiny_model("UNet2DModel"), DDIMScheduler())
    assert Noise(loop, 1, 0).psnrs(other, one)[1] == pytest.approx(20 + 20 * 0.30103, abs=1e-3)


def test_latents_are_what_the_network_of_the_decoder_reads():
    """So an objective may decode them."""
    pipe = dit_pipeline()
    noise = Noise(pipe, 3, seed=0)
    with torch.no_grad():
        decoded = pipe.vae.decoder(noise.latents(0, 2)) / 2 + 0.5
    assert torch.equal(decoded.clamp(0, 1), noise.images(0, 2))
