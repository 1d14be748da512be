"""Guidance step by step, against loops that are written out and share nothing with stepmask."""

import pytest
import torch
from cases import BY_NAME
from loops import LABELS, STEPS, noise

import stepmask
from refusal import check_refused
from stepmask import Recipe, Resolution
from tiny import dit_pipeline, generator, random_mask, reference

SCALE = 4.0
LETTERS = ["111111", "111000", "11hhhh", "11lll1", "1h1l10", "100100"]


@torch.no_grad()
def loop(pipe, letters: str, mask=None) -> torch.Tensor:
    """DiTPipeline with what the letters say: each half is a call of its own."""
    model, channels = pipe.transformer, pipe.transformer.config.in_channels
    latents, _ = noise(model, len(LABELS), 0)
    pipe.scheduler.set_timesteps(STEPS)
    ones = mask or random_mask(model, pipe.scheduler, STEPS, share=1.0)
    known: list[tuple[int, torch.Tensor]] = []
    with reference(model, ones) as running:
        for running.row, t in enumerate(pipe.scheduler.timesteps):
            letter = letters[running.row]

            def half(stream: int, labels: list[int], t=t, latents=latents, running=running) -> torch.Tensor:
                running.stream = stream
                output = model(latents, timestep=t[None].expand(len(latents)), class_labels=torch.tensor(labels))
                return output.sample[:, :channels]

            conditional = half(0, LABELS)
            if letter == "1":
                difference = conditional - half(1, [1000] * len(LABELS))
                known.insert(0, (running.row, difference))
            elif letter == "0":
                difference = 0
            elif letter == "l" and len(known) > 1:
                (newest, new), (older, old) = known[:2]
                difference = new + (running.row - newest) / (newest - older) * (new - old)
            else:
                difference = known[0][1]
            output = conditional + (SCALE - 1) * difference
            latents = pipe.scheduler.step(output, t, latents).prev_sample
    return (pipe.vae.decode(1 / pipe.vae.config.scaling_factor * latents).sample / 2 + 0.5).clamp(0, 1)


def call(pipe) -> torch.Tensor:
    made = pipe(LABELS, guidance_scale=SCALE, generator=generator(), num_inference_steps=STEPS, output_type="np").images
    return torch.from_numpy(made).movedim(-1, 1)


@pytest.mark.shows("a recipe: guidance step by step", apply="as an independent loop, up to rounding")
@pytest.mark.parametrize("letters", LETTERS)
def test_what_the_letters_say(letters):
    pipe = dit_pipeline()
    plain, wanted = call(pipe), loop(pipe, letters)
    with stepmask.apply(pipe, Recipe(num_inference_steps=STEPS, guidance=letters)):
        found = call(pipe)
        assert torch.equal(call(pipe), found)
    assert torch.allclose(found, wanted, atol=1e-4)
    assert torch.equal(found, plain) if letters == "111111" else not torch.allclose(found, plain, atol=1e-4)
    assert torch.equal(call(pipe), plain)


@pytest.mark.parametrize("letters", ["111111", "111000"])
def test_each_half_follows_a_mask_with_values_of_its_own(letters):
    pipe = dit_pipeline()
    pipe.scheduler.set_timesteps(STEPS)
    mask = random_mask(pipe.transformer, pipe.scheduler, STEPS)
    wanted = loop(pipe, letters, mask)
    with stepmask.apply(pipe, Recipe(num_inference_steps=STEPS, guidance=letters, mask=mask)) as handle:
        found = call(pipe)
        assert handle.mask.ran.num_rows == STEPS and handle.mask.ran.states.tolist() == handle.mask.plan.states.tolist()
    assert torch.allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize("name", ["Stable Diffusion", "Stable Diffusion XL", "Stable Diffusion 3"])
def test_the_conditional_half_is_found(name):
    """Without guidance from the second step on, a run is that of the pipeline whose scale is 1 from then on."""
    case = BY_NAME[name]
    pipe = case.build()
    with stepmask.apply(pipe, Recipe(num_inference_steps=case.steps, guidance="1" + "0" * (case.steps - 1))):
        found = case.run(pipe)
    scales, own = [], type(pipe).guidance_scale

    class Scaled(type(pipe)):
        """Its scale is asked for at every step."""

        @property
        def guidance_scale(self):
            stepped = getattr(self.scheduler, "step_index", None)
            row = stepped if stepped is not None else len(scales)
            return own.fget(self) if not row else 1.0

        @property
        def do_classifier_free_guidance(self):
            return True

    step = pipe.scheduler.step

    def count(*args, **kwargs):
        scales.append(1)
        return step(*args, **kwargs)

    pipe.scheduler.step, pipe.__class__ = count, Scaled
    assert torch.allclose(case.run(pipe), found, atol=1e-4)


def test_low_resolution_and_guidance_together():
    """The difference is of the resolution of its step, and nothing is held over the switch."""
    case = BY_NAME["Stable Diffusion"]
    pipe = case.build()
    recipe = Recipe(num_inference_steps=4, guidance="1h10", resolution=Resolution(factor=0.5, switch=2))
    with stepmask.apply(pipe, recipe):
        found = case.run(pipe)
        assert torch.equal(case.run(pipe), found)
    with stepmask.apply(pipe, Recipe(num_inference_steps=4, resolution=recipe.resolution)):
        assert not torch.equal(case.run(pipe), found)


@pytest.mark.parametrize("name", ["DDIM", "Flux, true guidance", "Wan", "Stable Diffusion, PAG"])
def test_pipelines_that_do_not_guide_in_one_call_are_refused(name):
    case = BY_NAME[name]
    pipe = case.build()
    with stepmask.apply(pipe, Recipe(num_inference_steps=case.steps, guidance="1" * (case.steps - 1) + "0")):
        check_refused("needs both halves in one call of the denoiser", case.run, pipe)


def test_guidance_that_is_no_line_is_refused():
    case = BY_NAME["Stable Diffusion"]
    pipe = case.build()
    arguments = {**case.arguments(), "guidance_rescale": 0.9}
    with stepmask.apply(pipe, Recipe(num_inference_steps=4, guidance="1110")):
        check_refused("go along the line through them", pipe, **arguments, num_inference_steps=4)
