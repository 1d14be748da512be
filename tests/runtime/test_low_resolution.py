"""Low resolution in the early steps: where the exact denoiser is known in closed form, and on stock pipelines."""

from dataclasses import replace
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from cases import BY_NAME, square
from torch import Tensor, nn

import stepmask
from gate import in_gate
from refusal import check_refused
from stepmask import Recipe, Resolution, describe
from stepmask.runtime.low_resolution import Planes, Tokens, cosines, expanded, low_size
from tiny import ddim_pipeline, generator, mask_of

HIGH, LOW = 16, 8
SCHEDULERS = [
    diffusers.DDIMScheduler(clip_sample=False), diffusers.DDPMScheduler(clip_sample=False),
    diffusers.DPMSolverMultistepScheduler(), diffusers.UniPCMultistepScheduler(), diffusers.EulerDiscreteScheduler(),
    diffusers.EulerAncestralDiscreteScheduler(), diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0),
    diffusers.DDIMScheduler(clip_sample=False, prediction_type="v_prediction"),
    diffusers.EulerDiscreteScheduler(prediction_type="v_prediction"),
]  # fmt: skip


class Exact(nn.Module):
    """The exact denoiser of Gaussian data, whose coefficients in the cosine basis are independent.

    Args:
        scheduler: Says what is predicted, and the level of each row.
        mean: Of every pixel.
        variances: (LOW, LOW) of the low frequencies of an image of full size; higher ones have none.
    """

    def __init__(self, scheduler, mean: float, variances: Tensor) -> None:
        super().__init__()
        self.config = SimpleNamespace(block_out_channels=(1, 1))
        self._scheduler, self._mean, self._variances = scheduler, mean, variances
        self.called: list[tuple[Tensor, float, float]] = []
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, sample: Tensor, timestep: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        alpha, sigma = self._level(float(timestep))
        self.called.append((sample, alpha, sigma))
        table = cosines(sample.shape[-1], sample)
        variances = torch.zeros_like(sample[0, 0])
        # a picture of a quarter of the pixels has coefficients half as large
        variances[:LOW, :LOW] = self._variances / (HIGH / sample.shape[-1]) ** 2
        frequencies = table @ (sample - alpha * self._mean) @ table.T
        clean = self._mean + table.T @ (alpha * variances / (alpha**2 * variances + sigma**2) * frequencies) @ table
        noise = (sample - alpha * clean) / sigma
        if self._flows:
            return (noise - clean,)
        return (alpha * noise - sigma * clean if self._scheduler.config.prediction_type == "v_prediction" else noise,)

    @property
    def _flows(self) -> bool:
        return "Flow" in type(self._scheduler).__name__

    def _level(self, timestep: float) -> tuple[float, float]:
        """By the timestep alone, as a model knows it, of samples with unit variance or flow."""
        if self._flows:
            return 1 - timestep / 1000, timestep / 1000
        kept = self._scheduler.alphas_cumprod.double().numpy()
        ratio = np.interp(timestep, np.arange(1000), ((1 - kept) / kept) ** 0.5)
        return (1 / (1 + ratio**2)) ** 0.5, ratio / (1 + ratio**2) ** 0.5


class Loop:
    """What a pipeline does."""

    def __init__(self, unet: nn.Module, scheduler) -> None:
        self.unet, self.scheduler = unet, scheduler

    @torch.no_grad()
    def __call__(self, steps: int, count: int) -> Tensor:
        self.scheduler.set_timesteps(steps)
        image = torch.randn(count, 1, HIGH, HIGH, generator=generator())
        image = image * getattr(self.scheduler, "init_noise_sigma", 1.0)
        for t in self.scheduler.timesteps:
            scaled = image
            if hasattr(self.scheduler, "scale_model_input"):
                scaled = self.scheduler.scale_model_input(image, t)
            image = self.scheduler.step(self.unet(scaled, t)[0], t, image, return_dict=False)[0]
        return image


def called(scheduler, resolution: Resolution | None, steps: int, count: int, mean=0.0, variances=None):
    """The calls of the exact denoiser in a run, and what the run makes."""
    variances = torch.zeros(LOW, LOW) if variances is None else variances
    pipe = Loop(Exact(scheduler, mean, variances), scheduler)
    with stepmask.apply(pipe, Recipe(num_inference_steps=steps, resolution=resolution)):
        image = pipe(steps, count)
    return pipe.unet.called, image


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("way", ["renoise", "spectral"])
def test_the_first_step_after_the_switch_is_at_its_noise_level(scheduler, way):
    """Data that is one flat picture: what the denoiser gets is that picture and unit noise, at the level of the row."""
    calls, image = called(scheduler, Resolution(factor=0.5, switch=3, way=way), 6, 64, mean=0.7)
    assert [sample.shape[-1] for sample, *_ in calls] == [LOW] * 3 + [HIGH] * 3
    for sample, alpha, sigma in calls:
        noise = (sample - alpha * 0.7) / sigma
        assert noise.mean().abs() < 5 / noise.numel() ** 0.5
        assert noise.std() == pytest.approx(1, abs=5 / (2 * noise.numel()) ** 0.5 + 0.01)
    last = calls[2][0], calls[3][0]
    table = cosines(HIGH, last[1])
    high = (table @ ((last[1] - calls[3][1] * 0.7) / calls[3][2]) @ table.T)[..., LOW:, :]
    assert high.std() == pytest.approx(1, abs=0.03), "noise of every frequency"
    assert torch.allclose(image, torch.full_like(image, 0.7), atol=0.1)


@pytest.mark.parametrize("scheduler", [SCHEDULERS[0], SCHEDULERS[2], SCHEDULERS[4], SCHEDULERS[6]],
    ids=lambda one: type(one).__name__)  # fmt: skip
def test_spectral_expansion_of_gaussian_data_is_exact(scheduler):
    """Each coefficient has the variance that the data has at this level, at the switch and at the end."""
    random = torch.rand(LOW, LOW, generator=generator(1))
    variances, steps, switch = 4 * random + 0.5, 60, 35
    calls, image = called(
        scheduler, Resolution(factor=0.5, switch=switch, way="spectral"), steps, 300, variances=variances
    )
    sample, alpha, sigma = calls[switch]
    table = cosines(HIGH, sample)
    found = (table @ sample @ table.T).var(dim=(0, 1), correction=0)
    wanted = torch.full((HIGH, HIGH), sigma**2)
    wanted[:LOW, :LOW] += alpha**2 * variances
    ratio = found / wanted
    assert ratio[:LOW, :LOW].mean() == pytest.approx(1, abs=0.06) and ratio[LOW:].mean() == pytest.approx(1, abs=0.03)
    assert (ratio - 1).abs().max() < 0.5
    ended = (table @ image @ table.T).var(dim=(0, 1), correction=0)
    assert (ended[:LOW, :LOW] / variances).mean() == pytest.approx(1, abs=0.12)


def test_renoising_is_of_the_predicted_clean_sample():
    """Gaussian data: the variance of what is predicted, upsampled, and that of the noise."""
    scheduler, variances = SCHEDULERS[0], torch.full((LOW, LOW), 3.0)
    calls, _ = called(scheduler, Resolution(factor=0.5, switch=4), 8, 400, variances=variances)
    (before, alpha, sigma), (after, *level) = calls[3], calls[4]
    clean = alpha * (3 / 4) / (alpha**2 * 3 / 4 + sigma**2) * before
    up = nn.functional.interpolate(clean, (HIGH, HIGH), mode="bilinear", align_corners=False)
    noise = (after - level[0] * up) / level[1]
    assert noise.std() == pytest.approx(1, abs=0.01)
    assert abs((noise * up).mean() / up.std()) < 0.01, "fresh: it has nothing to do with the picture"


def test_expansion_keeps_what_is_low_and_fills_the_rest():
    small, fresh = (torch.randn(2, 3, *side, generator=generator(4)) for side in ((6, 8), (9, 8)))
    made, table = expanded(small, fresh, 0.8), cosines(9, small)
    assert torch.allclose(cosines(6, small).T @ table[:6] @ made, small, atol=1e-5)
    assert torch.allclose(table[6:] @ made, 0.8 * table[6:] @ fresh, atol=1e-5)


@pytest.mark.parametrize(("full", "factor", "low"), [(16, 0.5, 8), (16, 0.75, 12), (15, 0.5, 8), (9, 0.66, 6)])
def test_pixels_are_picked_and_repeated(full, factor, low):
    layout = Planes(torch.zeros(1, 1, full, full + 1), factor, 1)
    assert layout.low[0] == low
    small = torch.randn(2, 3, *layout.low, generator=generator())
    assert torch.equal(layout.pick(layout.repeat(small)), small)
    noise = torch.randn(1, 1, full, full + 1, generator=generator())
    assert len(set(layout.pick(noise).flatten().tolist())) == layout.pick(noise).numel(), "no pixel twice"


def test_tokens_are_those_of_flux():
    """What diffusers packs, unpacked and upsampled, is the picture upsampled."""
    positions = diffusers.FluxPipeline._prepare_latent_image_ids(2, 6, 8, torch.device("cpu"), torch.float32)
    layout = Tokens(positions, 0.5)
    assert (layout.full, layout.low) == ((6, 8), (3, 4))
    pixels = torch.randn(2, 5, 6, 8, generator=generator())

    def upsample(planes: Tensor, size: tuple[int, int]) -> Tensor:
        return nn.functional.interpolate(planes, size, mode="bilinear", align_corners=False)

    tokens = diffusers.FluxPipeline._pack_latents(pixels, 2, 5, 6, 8)
    made = layout.switched(tokens, upsample)
    wanted = diffusers.FluxPipeline._pack_latents(upsample(pixels, (12, 16)), 2, 5, 12, 16)
    assert torch.equal(made, wanted)
    assert torch.equal(layout.pick(layout.repeat(tokens)), tokens)


WITH_PLANES = [
    "DDPM", "DDIM", "DiT", "LDM, by class", "Stable Diffusion", "Stable Diffusion XL", "PixArt-Sigma", "Sana",
    "Stable Diffusion 3", "Flux", "Flux, true guidance", "Wan",
]  # fmt: skip


@pytest.mark.shows("a recipe: low resolution in early steps", apply="in closed form, on Gaussian data")
@pytest.mark.parametrize("size", [pytest.param(0, marks=pytest.mark.slow), 1], ids=["square", "rectangle"])
@pytest.mark.parametrize("name", in_gate(WITH_PLANES, *WITH_PLANES[::2]))
def test_pipelines(name, size):
    """Small calls before the switch and full ones after it; the same again in a second run, and gone when removed."""
    case = BY_NAME[name]
    if name == "Wan":  # its latents are smaller by 8
        case = replace(case, sizes=square(32, 64, 32, num_frames=5))
    pipe = case.build()
    plain = case.run(pipe, size=size)
    seen, images = {}, {}
    for way in ("renoise", "spectral"):
        denoiser, shapes = describe_denoiser(pipe), []
        hook = denoiser.register_forward_pre_hook(
            lambda module, args, kwargs, shapes=shapes: shapes.append(sample_shape(args, kwargs)), with_kwargs=True
        )
        resolution = Resolution(factor=0.5, switch=2, way=way)
        with stepmask.apply(pipe, Recipe(num_inference_steps=case.steps, resolution=resolution)):
            images[way] = case.run(pipe, size=size)
            seen[way], shapes[:] = list(shapes), []
            assert torch.equal(case.run(pipe, size=size), images[way]), "fresh noise is fixed by the start noise"
        hook.remove()
        assert images[way].shape == plain.shape and images[way].isfinite().all()
        assert not torch.equal(images[way], plain)
    per_row = len(seen["renoise"]) // case.steps
    sizes = [shape[1] if name.startswith("Flux") else shape[-1] * shape[-2] for shape in seen["renoise"]]
    assert all(one < sizes[-1] for one in sizes[: 2 * per_row]) and set(sizes[2 * per_row :]) == {sizes[-1]}
    assert torch.equal(case.run(pipe, size=size), plain)


def describe_denoiser(pipe):
    return getattr(pipe, "unet", None) or pipe.transformer


def sample_shape(args, kwargs):
    return (args[0] if args else kwargs["hidden_states"]).shape


def test_images_do_not_depend_on_their_batch():
    case = BY_NAME["DiT"]
    pipe, recipe = case.build(), Recipe(num_inference_steps=4, resolution=Resolution(factor=0.5, switch=2))
    with stepmask.apply(pipe, recipe):
        both, one = case.run(pipe, batch=2), case.run(pipe, batch=1)
    assert torch.allclose(both[:1], one, atol=1e-4)


def test_caches_begin_anew_at_the_switch():
    """A mask that computes at the first row alone computes at the switch again, and so at full size nothing is held."""
    pipe = ddim_pipeline()
    graph = describe(pipe)
    pipe.scheduler.set_timesteps(4)
    compute = torch.ones(4, len(graph)).bool().numpy()
    compute[1:, [i for i in graph.blocks]] = False
    mask = mask_of(compute, graph, pipe.scheduler)
    recipe = Recipe(num_inference_steps=4, mask=mask, resolution=Resolution(factor=0.5, switch=2))
    with stepmask.apply(pipe, recipe) as handle:
        pipe(batch_size=1, num_inference_steps=4, generator=generator(), output_type="np")
        rows = handle.mask.ran.compute.sum(1)
    assert rows[2] == rows[0] > rows[1] == rows[3]


def test_what_is_refused():
    low = Recipe(num_inference_steps=4, resolution=Resolution(factor=0.5, switch=2))
    for name, says in (
        ("Stable Diffusion, ControlNet", "not for calls with down_block_additional_residuals"),
        ("Stable Diffusion, T2I-Adapter", "not for calls with down_intrablock_additional_residuals"),
        (
            "Qwen-Image",
            "images, videos and the tokens of Flux, and the QwenImageTransformer2DModel gets samples of shape",
        ),
        ("Flux, ControlNet", "cannot run at low resolution as FluxControlNetPipeline calls it"),
        ("Wan 2.2, two transformers", "has several denoisers"),
    ):
        case = BY_NAME[name]
        pipe = case.build()
        recipe = Recipe(num_inference_steps=case.steps, resolution=low.resolution)
        check_refused(says, lambda pipe=pipe, case=case, recipe=recipe: run_under(pipe, case, recipe))
    late = BY_NAME["Stable Diffusion, image to image"]
    recipe = Recipe(num_inference_steps=late.steps, resolution=low.resolution)
    check_refused("begins at step 2 .image to image", run_under, late.build(), late, recipe)
    pipe = ddim_pipeline()
    pipe.scheduler = diffusers.PNDMScheduler()
    check_refused("those of PNDMScheduler are not known here", stepmask.apply, pipe, low)
    check_refused("0.9 of 8 x 8 is no smaller in steps of 4", low_size, (8, 8), 0.9, 4)


def run_under(pipe, case, recipe):
    with stepmask.apply(pipe, recipe):
        return case.run(pipe)
