"""The class-conditional latent pipeline: its call forms, guidance, and the loop it runs, written out."""

import copy

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from gate import in_gate
from refusal import check_refused
from small import ldm_pipeline
from stepmask import StepMaskError
from stepmask.inspection.pipeline_call import PipelineCall
from stepmask.runtime.sampling import seeded
from stepmask_lab.reference.class_conditional_ldm import ClassConditionalLDMPipeline
from tiny import generator, quiet


@pytest.fixture(scope="module")
def pipe():
    return ldm_pipeline()


@torch.no_grad()
def by_hand(pipe, labels, scale, steps, seed):
    """The usual loop; null and conditional predictions come from two calls."""
    scheduler = copy.deepcopy(pipe.scheduler)
    scheduler.set_timesteps(steps)
    noise = generator(seed)
    sample = torch.randn(len(labels), 4, 8, 8, generator=noise) * scheduler.init_noise_sigma
    null = pipe.class_embedder(torch.tensor([10] * len(labels)))
    tokens = pipe.class_embedder(torch.tensor(labels))
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(sample, timestep)
        output = pipe.unet(scaled, timestep, encoder_hidden_states=tokens).sample
        if scale > 1:
            unguided = pipe.unet(scaled, timestep, encoder_hidden_states=null).sample
            output = unguided + scale * (output - unguided)
        draws = isinstance(scheduler, diffusers.DDPMScheduler | diffusers.EulerDiscreteScheduler)
        sample = scheduler.step(output, timestep, sample, **({"generator": noise} if draws else {})).prev_sample
    return sample, (pipe.vae.decode(sample / 0.5).sample / 2 + 0.5).clamp(0, 1)


@pytest.mark.parametrize("scale", [1.0, 2.5])
@pytest.mark.parametrize(
    "scheduler",
    in_gate(["DDIM", "DDPM", "PNDM", "DPMSolverMultistep", "EulerDiscrete", "HeunDiscrete"], "DDIM", "HeunDiscrete"),
)
def test_a_call_is_the_loop_written_out(scheduler, scale):
    options = {"clip_sample": False} if scheduler.startswith("DD") else {}
    pipe = ldm_pipeline(scheduler=getattr(diffusers, f"{scheduler}Scheduler")(**options))
    latents, images = by_hand(pipe, [3, 7], scale, 4, seed=1)
    arguments = {"guidance_scale": scale, "num_inference_steps": 4}
    made = pipe([3, 7], generator=generator(1), output_type="latent", **arguments).images
    torch.testing.assert_close(made, latents, rtol=1e-4, atol=1e-4 * latents.abs().max().item())
    made = pipe([3, 7], generator=generator(1), output_type="pt", **arguments).images
    torch.testing.assert_close(made, images, rtol=1e-3, atol=1e-3)


def test_guidance_doubles_the_batch_null_class_first(pipe):
    calls = []
    hook = pipe.unet.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append((args[0], kwargs["encoder_hidden_states"])), with_kwargs=True
    )
    try:
        for scale, batch in ((2.0, 4), (1.0, 2)):
            calls.clear()
            pipe([3, 7], guidance_scale=scale, num_inference_steps=2, output_type="latent")
            assert [len(sample) for sample, _ in calls] == [batch] * 2
            tokens = pipe.class_embedder(torch.tensor([10, 10, 3, 7][-batch:]))
            assert all(torch.equal(given, tokens) for _, given in calls)
    finally:
        hook.remove()
    call = PipelineCall(pipe)
    assert call.forwards_per_image() == 2 and call.forwards_per_image({"guidance_scale": 1.0}) == 1


@pytest.mark.parametrize("labels", [[3, 7], (3, 7), torch.tensor([3, 7]), np.array([3, 7])], ids=type)
def test_forms_of_labels(pipe, labels):
    arguments = {"num_inference_steps": 1, "output_type": "latent"}
    expected = pipe([3, 7], generator=generator(), **arguments).images
    assert torch.equal(pipe(labels, generator=generator(), **arguments).images, expected)


def test_one_label_and_the_null_class(pipe):
    assert pipe(3, num_inference_steps=1, output_type="latent").images.shape == (1, 4, 8, 8)
    arguments = {"num_inference_steps": 2, "output_type": "latent"}
    free, guided = (pipe([10], guidance_scale=s, generator=generator(), **arguments).images for s in (1.0, 9.0))
    torch.testing.assert_close(free, guided)


def test_output_types(pipe):
    made = {kind: pipe([1, 2], generator=generator(), num_inference_steps=2, output_type=kind).images for kind in KINDS}
    assert made["latent"].shape == (2, 4, 8, 8)
    assert made["pt"].shape == (2, 3, 16, 16) and 0 <= made["pt"].min() and made["pt"].max() <= 1
    assert np.allclose(made["np"], made["pt"].permute(0, 2, 3, 1).numpy())
    assert all(isinstance(image, Image.Image) and image.size == (16, 16) for image in made["pil"])
    assert np.array_equal(np.asarray(made["pil"][0]), (made["np"][0] * 255).round().astype("uint8"))
    (images,) = pipe([1, 2], generator=generator(), num_inference_steps=2, output_type="pt", return_dict=False)
    assert torch.equal(images, made["pt"])


KINDS = ("pil", "pt", "np", "latent")


def test_one_generator_per_image(pipe):
    arguments = {"num_inference_steps": 2, "output_type": "latent"}
    both = pipe([3, 7], generator=seeded([5, 6]), **arguments).images
    alone = pipe([7], generator=seeded([6]), **arguments).images
    torch.testing.assert_close(both[1:], alone)
    assert torch.equal(pipe([3, 7], generator=tuple(seeded([5, 6])), **arguments).images, both)


def test_gradients_reach_the_embedder_where_they_are_asked_for(pipe):
    assert not pipe([3], num_inference_steps=2, output_type="latent").images.requires_grad
    call = type(pipe).__call__.__wrapped__
    latents = call(pipe, [3], num_inference_steps=2, output_type="latent", generator=generator()).images
    (gradient,) = torch.autograd.grad(latents.square().sum(), pipe.class_embedder.embedding.weight)
    assert {row for row in range(11) if gradient[row].any()} == {3, 10}


@pytest.mark.parametrize("names", [True, False])
def test_saved_and_loaded(tmp_path, names):
    pipe = ldm_pipeline(names=names)
    pipe.save_pretrained(tmp_path)
    loaded = quiet(ClassConditionalLDMPipeline.from_pretrained(tmp_path))
    assert loaded.labels == pipe.labels and PipelineCall(loaded).num_classes == 10
    arguments = {"num_inference_steps": 2, "output_type": "pt"}
    images = [each([1, 2], generator=generator(), **arguments).images for each in (pipe, loaded)]
    assert torch.equal(*images)


def test_names_of_classes(pipe):
    assert pipe.get_label_ids(["class 3", "number 7"]) == [3, 7] and pipe.get_label_ids("class 9") == [9]
    check_refused("no class 'unicorn'; there are class 0, number 0", pipe.get_label_ids, ["class 1", "unicorn"])
    with pytest.raises(StepMaskError, match="no names, only numbers"):
        ldm_pipeline(names=False).get_label_ids("cat")


@pytest.mark.parametrize("labels", [[11], [-1], [], [0.5]])
def test_labels_that_there_are_not(pipe, labels):
    check_refused(r"whole numbers from 0 to 9 \(10 is the null class\)", pipe, labels)


def test_other_refusals_and_what_stepmask_finds(pipe):
    check_refused("no output_type 'png'; there are pil, pt, np, latent", pipe, [1], output_type="png")
    check_refused("3 generators for 2 images", pipe, [1, 2], generator=seeded([1, 2, 3]))
    conditions = PipelineCall(pipe).drawn(3, generator())
    assert len(conditions["class_labels"]) == 3 and set(conditions) == {"class_labels"}
    assert PipelineCall(ldm_pipeline(names=False, classes=6)).num_classes == 6


def test_an_autoencoder_with_a_codebook():
    """As LDM-4-G has one."""
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    sizes = {"block_out_channels": (8, 8), "latent_channels": 4, "num_vq_embeddings": 16, "norm_num_groups": 4}
    pipe = ldm_pipeline(vae=diffusers.VQModel(**blocks, **sizes).eval())
    images = pipe([1], num_inference_steps=2, generator=generator(), output_type="pt").images
    assert images.shape == (1, 3, 16, 16) and images.isfinite().all()
