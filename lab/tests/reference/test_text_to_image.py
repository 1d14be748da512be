"""The small PixArt pipeline is PixArt-Sigma's with other defaults."""

import pytest
import torch

from small import pixart_parts, pixart_pipeline
from stepmask.inspection.pipeline_call import PipelineCall
from stepmask.runtime.sampling import sample, seeded
from tiny import generator, quiet

pytest.importorskip("transformers")
SHORT = {"num_inference_steps": 2, "output_type": "pt"}


@pytest.fixture(scope="module")
def pipe():
    return pixart_pipeline()


def test_as_the_pipeline_of_diffusers(pipe):
    from diffusers import PixArtSigmaPipeline

    original = quiet(PixArtSigmaPipeline(**pixart_parts()))
    arguments = {"max_sequence_length": 16, "clean_caption": False, "use_resolution_binning": False, **SHORT}
    expected = original(["a car", "a dog"], guidance_scale=3.0, generator=generator(), **arguments).images
    assert torch.equal(pipe(["a car", "a dog"], generator=generator(), **SHORT).images, expected)
    expected = original("a car", guidance_scale=1.0, num_images_per_prompt=2, generator=generator(), **arguments).images
    made = pipe("a car", guidance_scale=1.0, num_images_per_prompt=2, generator=generator(), **SHORT).images
    assert torch.equal(made, expected)


def test_prompts_are_padded_to_sixteen_tokens(pipe):
    shapes = []
    hook = pipe.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(kwargs["encoder_hidden_states"].shape), with_kwargs=True
    )
    try:
        pipe(["a car", "a dog"], **SHORT)
        pipe("a car", max_sequence_length=6, guidance_scale=1.0, **SHORT)
    finally:
        hook.remove()
    assert [tuple(shape) for shape in shapes] == [(4, 16, 12)] * 2 + [(1, 6, 12)] * 2


def test_padding_changes_nothing(pipe):
    short, long = (pipe("a car", max_sequence_length=n, generator=generator(), **SHORT).images for n in (3, 16))
    torch.testing.assert_close(short, long, rtol=1e-4, atol=1e-4)


def test_the_prompt_matters(pipe):
    first, again, other = (pipe(text, generator=generator(), **SHORT).images for text in ("a car", "A Car ", "a dog"))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_guidance_leads_away_from_the_negative_prompt(pipe):
    same = pipe("a car", negative_prompt="a car", generator=generator(), **SHORT).images
    free = pipe("a car", guidance_scale=1.0, generator=generator(), **SHORT).images
    torch.testing.assert_close(same, free, rtol=1e-4, atol=1e-4)
    call = PipelineCall(pipe)
    assert call.forwards_per_image() == 2 and call.forwards_per_image({"guidance_scale": 1.0}) == 1


def test_stepmask_samples_it(pipe):
    images = sample(pipe, {"prompt": ["a car", "a dog"]}, [1, 2], 2)
    assert images.shape == (2, 3, 16, 16)
    alone = pipe("a dog", generator=seeded([2]), **SHORT).images
    torch.testing.assert_close(images[1:], alone, rtol=1e-4, atol=1e-4)
    prompts = PipelineCall(pipe).drawn(4, generator())["prompt"]
    assert len(prompts) == 4 and set(prompts) | {"a photo of a car", "this is a frog"} <= set(pipe.example_prompts)


def test_saved_and_loaded(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    loaded = quiet(type(pipe).from_pretrained(tmp_path))
    images = [each("a small photo of a cat", generator=generator(), **SHORT).images for each in (pipe, loaded)]
    assert torch.equal(*images)
