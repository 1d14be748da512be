"""Loops that are unlike most: timesteps told in other ways, stepped copies, two denoisers at once, modes of a call."""

from dataclasses import replace
from functools import partial

import diffusers
import pytest
import torch
from cases import FlowMatch, picture, random, sd_texts, stable_diffusion, wan
from runs import all_ones, by_reference, random_actions
from strangers import STRANGERS, seeded

import stepmask
from refusal import check_refused
from stepmask import PositionError, UnsupportedModelError, describe, schedules
from stepmask.runtime.sampling import sample
from tiny import FEW, count_computes, generator, quiet, tiny_model

BY_NAME = {case.name: case for case in STRANGERS}
pytestmark = pytest.mark.filterwarnings("ignore:the run.s timesteps differ", "ignore:timesteps differ")


def assert_as_hooks(pipe, run, calls) -> None:
    """All ones are the plain pipeline; masks are what hooks would do, with and without forecasts."""
    plain = run()
    with stepmask.apply(pipe, all_ones(pipe)):
        assert torch.equal(run(), plain)
    for forecasts in (0.0, 0.9):
        mask = random_actions(pipe, 3, share=0.5, forecasts=forecasts)
        wanted = by_reference(pipe, mask, calls, run)
        assert not torch.equal(wanted, plain), "the mask must matter"
        with stepmask.apply(pipe, mask):
            assert torch.equal(run(), wanted)


# --- 1 - t / 1000, no begin index, and a second denoiser at every step


def ideogram_model(seed: int):
    torch.manual_seed(seed)
    return diffusers.Ideogram4Transformer2DModel(
        in_channels=16, num_layers=2, attention_head_dim=16, num_attention_heads=2, intermediate_size=32, adaln_dim=8,
        llm_features_dim=12, rope_theta=10000, mrope_section=(4, 2, 2),
    ).eval()  # fmt: skip


GIVEN = {"height": 32, "width": 32, "guidance_scale": 4.0, "guidance_schedule": None, "max_sequence_length": 6}


@pytest.fixture(scope="module")
def ideogram():
    """The pipeline, and a run of it."""
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    small = {"latent_channels": 4, "block_out_channels": (4, 4), "norm_num_groups": 2}
    decoder = seeded(diffusers.AutoencoderKLFlux2, **small, **blocks)
    pipe = quiet(diffusers.Ideogram4Pipeline(FlowMatch(), decoder, None, None, ideogram_model(0), ideogram_model(1)))

    def encode(prompt, grid_h, grid_w, max_sequence_length, device):
        count = 1 if isinstance(prompt, str) else len(prompt)
        ids, *others = pipe._prepare_ids([3] * count, grid_h, grid_w, max_sequence_length, device)
        return random(count, ids.shape[1], 12, seed=3), ids, *others

    pipe.encode_prompt = encode
    stepmask.register_sites(pipe, call_kwargs={"prompt": "a", **GIVEN})

    def run():
        return pipe(["a", "b"], **GIVEN, num_inference_steps=6, generator=generator(), output_type="latent").images

    run()
    return pipe, run


@pytest.mark.shows("two denoisers at every step (Ideogram 4)", apply="bitwise; both follow the mask")
def test_two_denoisers_at_every_step_follow_the_mask(ideogram):
    pipe, run = ideogram
    assert_as_hooks(pipe, run, [(row, 0) for row in range(6) for _ in range(2)])


def test_both_denoisers_are_counted(ideogram):
    pipe, run = ideogram
    mask = schedules.fora(pipe, 6, 2)
    sites = describe(pipe).innermost.names
    with (
        count_computes(pipe.transformer, sites) as first,
        count_computes(pipe.unconditional_transformer, sites) as second,
        stepmask.apply(pipe, mask) as handle,
    ):
        run()
        summary = handle.summary()
    assert len(first) == len(second) == 3 * len(sites) and summary.rows == 12
    assert summary.macs_fraction == pytest.approx(1 - stepmask.measure_cost(pipe).coverage / 2, abs=0.01)


@pytest.mark.shows("two denoisers at every step (Ideogram 4)", learn="by runs alone, with a warning")
def test_two_denoisers_at_every_step_are_learned_on_together(ideogram):
    pipe, run = ideogram
    options = {"call_kwargs": {"prompt": ["a", "b"], **GIVEN}, "progress": False}
    with pytest.warns(UserWarning, match="two denoisers or more.*by runs alone"):
        mask = stepmask.learn(pipe, 6, 0.6, **options, **{**FEW, "gains": 2, "num_probes": 4})
    with stepmask.apply(pipe, mask) as handle:
        made = run()
        assert handle.summary().macs_fraction == pytest.approx(mask.provenance["macs"], abs=1e-6)
        assert handle.peak_cache_bytes / 2 <= mask.provenance["cache_bytes_per_image"]
    assert mask.provenance["macs"] <= 0.6 and made.isfinite().all()
    check_refused("two denoisers or more", stepmask.learn, pipe, 6, 0.6, method="paper", **options)


# --- (1000 - t) / 1000, no begin index, and modules that a ControlNet shares


def test_a_control_net_that_shares_modules():
    """What it calls of them is outside of the denoiser's calls, and computes."""
    case = BY_NAME["Z-Image"]
    plain_pipe = case.build()
    net = seeded(
        diffusers.ZImageControlNetModel, control_layers_places=[0], control_refiner_layers_places=[0],
        control_in_dim=4, dim=32, n_refiner_layers=1, n_heads=2, n_kv_heads=2,
    )  # fmt: skip
    parts = {"vae": plain_pipe.vae, "text_encoder": None, "tokenizer": None, "transformer": plain_pipe.transformer}
    pipe = quiet(diffusers.ZImageControlNetPipeline(FlowMatch(), **parts, controlnet=net))
    pipe.register_modules(controlnet=diffusers.ZImageControlNetModel.from_transformer(net, pipe.transformer))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    case = replace(case, inputs=lambda batch: BY_NAME["Z-Image"].inputs(batch) | {"control_image": picture(batch)})
    plain = case.run(pipe, batch=1)
    stepmask.register_sites(pipe, call_kwargs=case.arguments(1))
    with stepmask.apply(pipe, all_ones(pipe)):
        assert torch.equal(case.run(pipe, batch=1), plain)
    mask = schedules.fora(pipe, case.steps, 2)
    shared = [name for name in mask.sites if pipe.transformer.get_submodule(name) in set(pipe.controlnet.modules())]
    assert shared
    with count_computes(pipe.transformer, shared) as log, stepmask.apply(pipe, mask):
        made = case.run(pipe, batch=1)
    assert made.isfinite().all() and not torch.equal(made, plain)
    outside = case.steps  # by the ControlNet, at every step
    assert {name: sum(of == name for _, of in log) for name in shared} == dict.fromkeys(
        shared, outside + case.steps // 2
    )


# --- a mode of the call that changes the values' shapes


def test_a_cache_of_keys_and_values_in_the_model():
    """From the second step on its blocks see the image alone: a stream begins anew there."""

    class Processor:
        class tokenizer:
            @staticmethod
            def encode(*args, **kwargs):
                return [0]

        @staticmethod
        def apply_chat_template(*args, **kwargs):
            return [[1, 2, 3]]

    class Pipeline(diffusers.QwenImage21Pipeline):
        def register_modules(self, **parts):
            super().register_modules(**parts | {"processor": None})
            object.__setattr__(self, "processor", Processor())

    model = seeded(
        diffusers.QwenImage21Transformer2DModel, patch_size=1, in_channels=4, out_channels=4, num_layers=2,
        attention_head_dim=12, num_attention_heads=2, context_in_dim=12, mlp_ratio=2, axes_dims_rope=(4, 4, 4),
    )  # fmt: skip
    pipe = quiet(Pipeline(FlowMatch(), None, None, Processor(), model))
    given = {"prompt_embeds": random(1, 6, 12), "height": 128, "width": 128}
    stepmask.register_sites(pipe, call_kwargs=given)

    def run():
        return pipe(**given, num_inference_steps=6, generator=generator(), output_type="latent").images

    run()
    assert_as_hooks(pipe, run, [(row, int(row > 0)) for row in range(6)])


# --- rows without a call


def test_a_loop_that_goes_back_to_more_noise():
    """Rows at which it does so have no call, and what follows begins anew."""
    pipe = quiet(diffusers.RePaintPipeline(tiny_model("UNet2DModel"), diffusers.RePaintScheduler()))
    given = {"image": picture(2, size=16), "mask_image": picture(2, 1, 16).round(), "jump_length": 2}
    run = partial(sample, pipe, given | {"jump_n_sample": 2}, [0, 1], 5)
    run()
    assert pipe.scheduler.timesteps.tolist() == [800, 600, 400, 600, 800, 600, 400, 200, 0, 200, 400, 200, 0]
    rows = {0: (0, 1, 2), 1: (5, 6, 7, 8), 2: (11, 12)}
    assert_as_hooks(pipe, run, [(row, stretch) for stretch, found in rows.items() for row in found])


# --- a pipeline that steps copies of its scheduler


@pytest.mark.shows("frames at steps of their own (SkyReels V2)", apply="refused where they run asynchronously")
def test_diffusion_forcing():
    """One scheduler for each frame; frames that go on one after the other are refused."""
    model = seeded(
        diffusers.SkyReelsV2Transformer3DModel, patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12,
        in_channels=4, out_channels=4, text_dim=12, freq_dim=16, ffn_dim=32, num_layers=2, cross_attn_norm=True,
        qk_norm="rms_norm_across_heads", rope_max_seq_len=32, inject_sample_info=True,
    )  # fmt: skip
    scheduler = diffusers.UniPCMultistepScheduler(
        flow_shift=8.0, use_flow_sigmas=True, prediction_type="flow_prediction"
    )
    pipe = quiet(diffusers.SkyReelsV2DiffusionForcingPipeline(None, None, model, wan().vae, scheduler))
    embeddings = {"prompt_embeds": random(1, 8, 12), "negative_prompt_embeds": random(1, 8, 12, seed=2)}
    given = {"prompt": None, **embeddings, "height": 16, "width": 16, "num_frames": 17}
    stepmask.register_sites(pipe, call_kwargs=given)

    def run(**more):
        more |= {"num_inference_steps": 6, "generator": generator(), "output_type": "latent"}
        return pipe(**given, **more).frames

    run()
    assert_as_hooks(pipe, run, [(row, stream) for row in range(6) for stream in range(2)])
    with stepmask.apply(pipe, all_ones(pipe)):
        check_refused(
            "the frames of one denoiser call stand at different steps", run, ar_step=2, causal_block_size=1,
            error=PositionError,
        )  # fmt: skip


@pytest.mark.shows("panoramas, which step copies of their scheduler", apply="no effect, with a warning")
def test_a_pipeline_that_steps_copies_of_its_scheduler_is_told_that_the_mask_has_no_effect():
    pipe = quiet(stable_diffusion("StableDiffusionPanoramaPipeline"))
    call = partial(sample, pipe, sd_texts(1) | {"height": 32, "width": 32}, [0], 4)
    full = call()
    with stepmask.apply(pipe, schedules.fora(pipe, 4, 2)), pytest.warns(UserWarning, match="has no effect"):
        assert torch.equal(call(), full)


@pytest.mark.shows("pipelines that read attention (SAG)", apply="refused", learn="refused")
def test_a_pipeline_that_reads_attention_is_refused():
    pipe = quiet(stable_diffusion("StableDiffusionSAGPipeline"))
    for verb, *given in ((stepmask.apply, schedules.fora(pipe, 4, 2)), (stepmask.learn, 4, 0.6)):
        with pytest.raises(UnsupportedModelError, match="reads the attention of blocks"):
            verb(pipe, *given)
