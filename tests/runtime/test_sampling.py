"""Samples of the same seeds are the same, whatever draws noise on the way; what is measured is not blackened."""

import io
import logging
import sys
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler, EulerAncestralDiscreteScheduler, SCMScheduler

import stepmask
from stepmask import StepMaskError
from stepmask.inspection.overrides import unchecked
from stepmask.inspection.pipeline_call import PipelineCall
from stepmask.inspection.sampler_loop import SamplerLoop
from stepmask.runtime.noise import Noise
from stepmask.runtime.sampling import sample
from stepmask.schedules import fora
from tiny import ddim_pipeline, generator, tiny_model


@pytest.mark.parametrize("scheduler", [DDPMScheduler, EulerAncestralDiscreteScheduler])
def test_a_bare_loop_draws_noise_from_the_generators_of_its_images(scheduler):
    loop = SamplerLoop(tiny_model("UNet2DModel"), scheduler())
    first = sample(loop, {"batch_size": 2}, [3, 4], 4)
    torch.rand(7)
    assert torch.equal(first, sample(loop, {"batch_size": 2}, [3, 4], 4))
    alone = sample(loop, {"batch_size": 1}, [4], 4)
    torch.testing.assert_close(alone[0], first[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("scheduler", [DDPMScheduler, SCMScheduler])
def test_an_all_ones_mask_in_a_stochastic_bare_loop_is_the_full_run(scheduler):
    """SCM lists one timestep more than it steps at."""
    loop = SamplerLoop(tiny_model("UNet2DModel"), scheduler())
    result = stepmask.evaluate(loop, fora(loop, 4, 1), seeds=2, batch_size=2, speed=False)
    assert torch.equal(result.full, result.masked)


class WarnsAtEveryCall(type(ddim_pipeline())):
    """A pipeline that says the same of its prompt at every call, as those do that cut long ones."""

    def __call__(self, batch_size=1, generator=None, num_inference_steps=50, output_type="pil"):
        logging.getLogger("diffusers.prompts").warning("the prompt is long")
        return super().__call__(batch_size, generator, num_inference_steps=num_inference_steps, output_type=output_type)


def test_what_a_pipeline_logs_at_every_run_is_said_once(monkeypatch):
    pipe, said = WarnsAtEveryCall(**ddim_pipeline().components), io.StringIO()
    library, handler = logging.getLogger("diffusers"), logging.StreamHandler(said)
    library.addHandler(handler)
    monkeypatch.setattr(logging.getLogger("diffusers.prompts"), "level", logging.WARNING)
    try:
        stepmask.evaluate(pipe, fora(pipe, 4, 2), seeds=4, batch_size=1, speed=False)
        assert said.getvalue() == "the prompt is long\n"
        pipe(num_inference_steps=1)
        assert said.getvalue().count("long") == 2, "a call of the user's own says it again"
    finally:
        library.removeHandler(handler)


class DrawsFromTorch(type(ddim_pipeline())):
    """A pipeline that does not hand its generator on."""

    def __call__(self, batch_size=1, generator=None, num_inference_steps=50, output_type="pil"):
        return super().__call__(batch_size, None, num_inference_steps=num_inference_steps, output_type=output_type)


def test_a_pipeline_that_draws_from_torch_itself():
    plain = ddim_pipeline()
    pipe = DrawsFromTorch(plain.unet, plain.scheduler)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = sample(pipe, {"batch_size": 1}, [3], 3)
    assert torch.equal(torch.get_rng_state(), before), "the user's own noise goes on where it was"
    torch.rand(7)
    assert torch.equal(first, sample(pipe, {"batch_size": 1}, [3], 3))
    assert not torch.equal(first, sample(pipe, {"batch_size": 1}, [4], 3))


class KnowsItsSteps(type(ddim_pipeline())):
    """Its call takes no number of steps."""

    def __call__(self, batch_size=1, generator=None, sharp=False, output_type="pil"):
        steps = 5 if sharp else 3
        return super().__call__(batch_size, generator, num_inference_steps=steps, output_type=output_type)


def test_a_pipeline_whose_call_takes_no_number_of_steps():
    plain = ddim_pipeline()
    pipe = KnowsItsSteps(plain.unet, plain.scheduler)
    stepmask.describe(pipe, call_kwargs={"batch_size": 1})
    assert torch.equal(sample(pipe, {}, [3], 3), sample(plain, {}, [3], 3))
    assert torch.equal(sample(pipe, {"sharp": True}, [3], 5), sample(plain, {}, [3], 5))
    with pytest.raises(StepMaskError, match="takes no num_inference_steps, and its run has 3 steps, not 5: ask for 3"):
        sample(pipe, {}, [3], 5)


class TakesOneGenerator(type(ddim_pipeline())):
    """Refuses lists of them, and calls its result otherwise."""

    def __call__(self, batch_size=1, generator=None, num_inference_steps=50, output_type="pil"):
        assert isinstance(generator, torch.Generator)
        made = super().__call__(batch_size, generator, num_inference_steps=num_inference_steps, output_type=output_type)
        return SimpleNamespace(image=made.images)


def test_one_image_takes_one_generator():
    plain = ddim_pipeline()
    pipe = TakesOneGenerator(plain.unet, plain.scheduler)
    assert torch.equal(sample(pipe, {}, [3], 3), sample(plain, {}, [3], 3))
    with pytest.raises(AssertionError):
        sample(pipe, {"batch_size": 2}, [3, 4], 3)


class Blackens:
    """Flags every image, in place, as diffusers' checker does."""

    def __call__(self, images, **_):
        for image in images:
            image[:] = 0
        return images, [True] * len(images)


def test_a_safety_checker_is_out_of_the_way_and_comes_back():
    pipe = ddim_pipeline()
    pipe.safety_checker = checker = Blackens()
    with unchecked(pipe):
        assert pipe.safety_checker is None
    assert pipe.safety_checker is checker
    with pytest.raises(ZeroDivisionError), unchecked(pipe):
        raise ZeroDivisionError
    assert pipe.safety_checker is checker


def test_a_guard_that_reads_prompts_stays():
    """Pipelines that have one refuse to run without it."""
    pipe = ddim_pipeline()
    pipe.safety_checker = guard = SimpleNamespace(check_text_safety=lambda prompt: True)
    with unchecked(pipe):
        assert pipe.safety_checker is guard


class Checked(type(ddim_pipeline())):
    """Runs its checker on what it made."""

    def __call__(self, batch_size=1, generator=None, num_inference_steps=50, output_type="pil"):
        made = super().__call__(batch_size, generator, num_inference_steps=num_inference_steps, output_type=output_type)
        if self.safety_checker is not None:
            self.safety_checker(made.images)
        return made


def test_what_is_learned_from_and_measured_is_not_blackened():
    plain = ddim_pipeline()
    pipe = Checked(plain.unet, plain.scheduler)
    pipe.safety_checker = Blackens()
    assert Noise(pipe, 3, 0).images(0, 1).abs().max() > 0
    result = stepmask.evaluate(pipe, fora(pipe, 3, 2), seeds=1, batch_size=1, speed=False)
    assert result.full.abs().max() > 0 and result.masked.abs().max() > 0
    assert sample(pipe, {"batch_size": 1}, [3], 3).abs().max() == 0, "pictures for users are"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes came with Python 3.11")
def test_the_error_of_a_pipeline_says_how_many_images_it_was_called_for():
    pipe = ddim_pipeline()

    def fail(*args, **kwargs):
        raise RuntimeError("no memory")

    pipe.unet.forward = fail
    for count, notes in ((2, 1), (1, 0)):
        with pytest.raises(RuntimeError, match="no memory") as caught:
            sample(pipe, {"batch_size": count}, range(count), 2)
        found = getattr(caught.value, "__notes__", [])
        assert len(found) == notes and all("images_per_call=1" in note for note in found)


def test_required_arguments_that_the_user_gives_are_not_asked_for():
    class FromImage:
        example_prompts = ("a cat",)
        tokenizer = "some"

        def __call__(self, image, prompt=None, guidance_scale=2.0):
            """As in a pipeline that needs an image."""

    pipe = FromImage()
    pipe.unet = tiny_model("UNet2DConditionModel")
    with pytest.raises(StepMaskError, match=r"needs conditions that stepmask cannot invent \(image\)"):
        PipelineCall(pipe).drawn(2, generator())
    assert PipelineCall(pipe).drawn(2, generator(), {"image"}) == {"prompt": ["a cat"] * 2}
