"""What users do to a pipeline before and after a mask is applied: runs right, or is refused in words."""

from dataclasses import replace

import diffusers
import pytest
import torch
from cases import BY_NAME, stable_diffusion
from peft import LoraConfig
from runs import all_ones, by_reference, calls_of, marks, random_actions

import stepmask
from gate import in_gate
from refusal import check_refused
from stepmask import UnsupportedModelError, describe, measure_cost, schedules

SD, FLUX = BY_NAME["Stable Diffusion"], BY_NAME["Flux"]
ADAPTER, ADAPTER_XL = BY_NAME["Stable Diffusion, T2I-Adapter"], BY_NAME["Stable Diffusion XL, T2I-Adapter"]


@pytest.fixture
def flux():
    pipe = FLUX.build()
    FLUX.run(pipe)
    return pipe


@pytest.fixture
def sd():
    pipe = SD.build()
    SD.run(pipe)
    return pipe


def hooked(case, pipe, mask):
    return by_reference(pipe, mask, calls_of(case, len(mask.timesteps)), lambda: case.run(pipe))


# --- LoRA


def add_lora(denoiser, *names: str):
    torch.manual_seed(5)
    denoiser.add_adapter(LoraConfig(r=2, lora_alpha=4, target_modules=list(names), init_lora_weights=False))


@pytest.mark.parametrize("when", in_gate(["before", "after"], "before"))
@pytest.mark.shows("LoRA, before or after the mask", apply="bitwise")
def test_lora(when):
    """On layers within sites; with and without a scale."""
    case = BY_NAME["Stable Diffusion XL"]
    scaled = replace(case, options={"cross_attention_kwargs": {"scale": 0.7}})
    pipe = case.build()
    plain, mask, cost = case.run(pipe), random_actions(pipe, 3), measure_cost(pipe)
    targets = "to_q", "to_v", "to_out.0", "conv1"
    if when == "before":
        add_lora(pipe.unet, *targets)
    with stepmask.apply(pipe, mask):
        if when == "after":
            add_lora(pipe.unet, *targets)
        found, found_scaled = case.run(pipe), scaled.run(pipe)
    assert torch.equal(found, hooked(case, pipe, mask)) and torch.equal(found_scaled, hooked(scaled, pipe, mask))
    assert not torch.equal(found, found_scaled) and not torch.equal(case.run(pipe), plain)
    assert describe(pipe).fingerprint == mask.graph and (measure_cost(pipe).macs >= cost.macs).all()
    with_lora = scaled.run(pipe)
    with stepmask.apply(pipe, all_ones(pipe)):
        assert torch.equal(scaled.run(pipe), with_lora)
    pipe.unet.delete_adapters("default")
    assert torch.equal(case.run(pipe), plain)


def test_lora_on_a_site(flux):
    """The module of that name is another one then."""
    plain, mask = FLUX.run(flux), random_actions(flux, 3)
    with stepmask.apply(flux, mask):
        add_lora(flux.transformer, "proj_mlp")
        with pytest.raises(UnsupportedModelError, match=r"proj_mlp was replaced after the mask was applied.*apply it"):
            FLUX.run(flux)
    with stepmask.apply(flux, mask):
        found = FLUX.run(flux)
    assert torch.equal(found, hooked(FLUX, flux, mask))
    flux.transformer.delete_adapters("default")
    assert torch.equal(FLUX.run(flux), plain) and not torch.equal(found, hooked(FLUX, flux, mask))


# --- other attachments


@pytest.mark.parametrize("case", [ADAPTER, ADAPTER_XL], ids=lambda case: case.name)
@pytest.mark.shows("T2I-Adapter", apply="bitwise")
def test_an_adapter_writes_into_values(case, monkeypatch):
    """The table's tests prove that copies are handed out; without them, it is noticed."""
    pipe = case.build()
    case.run(pipe)
    mask = random_actions(pipe, 3, share=0.2)
    with stepmask.apply(pipe, mask, eliminate_dead=False):
        assert torch.equal(case.run(pipe), hooked(case, pipe, mask))
    monkeypatch.setattr("stepmask.runtime.executor.copied", lambda value: value)
    with (
        stepmask.apply(pipe, mask, eliminate_dead=False),
        pytest.raises(UnsupportedModelError, match=r"wrote into the value of .* after it was cached"),
    ):
        case.run(pipe)


def test_an_adapter_that_ends_in_mid_run():
    """What it added is in the cached values: the stream begins anew."""
    case = replace(ADAPTER_XL, steps=6, options={"adapter_conditioning_factor": 0.5})
    pipe = case.build()
    case.run(pipe)
    mask = random_actions(pipe, 3, share=0.3)
    calls = [(row, int(row > 2)) for row in range(6)]
    wanted = by_reference(pipe, mask, calls, lambda: case.run(pipe))
    with stepmask.apply(pipe, mask):
        assert torch.equal(case.run(pipe), wanted)


def test_a_prompt_that_changes_in_mid_run(sd):
    """The stream begins anew, although nothing has another shape."""

    def change(pipe, step, timestep, inputs):
        return {"prompt_embeds": inputs["prompt_embeds"] * -1} if step == 1 else inputs

    options = {"callback_on_step_end": change, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    case = replace(SD, options=options)
    mask = random_actions(sd, 3, share=0.3)
    wanted = by_reference(sd, mask, [(row, int(row > 1)) for row in range(4)], lambda: case.run(sd))
    with stepmask.apply(sd, mask):
        assert torch.equal(case.run(sd), wanted)


def test_a_prompt_that_is_made_anew_for_every_step(sd):
    """With its first new tensor everything computes; then it is known that they say nothing."""
    case = replace(SD, steps=6)
    plain = case.run(sd)
    options = {
        "callback_on_step_end": lambda pipe, step, t, inputs: (
            {"prompt_embeds": inputs["prompt_embeds"].clone()} if step else inputs
        ),
        "callback_on_step_end_tensor_inputs": ["prompt_embeds"],
    }
    case = replace(case, options=options)
    assert torch.equal(case.run(sd), plain)
    mask = random_actions(sd, 3, share=0.3)
    wanted = by_reference(sd, mask, [(row, int(row > 1)) for row in range(6)], lambda: case.run(sd))
    with stepmask.apply(sd, mask):
        assert torch.equal(case.run(sd), wanted)


def test_freeu_under_inference_mode(sd):
    """Where no tensor tells that it was written into."""
    SD.run(sd)
    mask = random_actions(sd, 3, share=0.2)
    with torch.inference_mode(), stepmask.apply(sd, mask):
        SD.run(sd)
        sd.enable_freeu(0.9, 0.2, 1.2, 1.4)
        check_refused(
            r"FreeU was switched on or off since, apply the mask again", SD.run, sd, error=UnsupportedModelError
        )
        sd.disable_freeu()
        SD.run(sd)


@pytest.mark.shows("FreeU", apply="bitwise; switch it on before the mask")
def test_freeu(sd):
    """It scales values in place."""
    plain, mask = SD.run(sd), random_actions(sd, 3, share=0.2)
    with stepmask.apply(sd, mask, eliminate_dead=False):
        SD.run(sd)
        sd.enable_freeu(0.9, 0.2, 1.2, 1.4)
        check_refused(r"FreeU was switched on after .* apply the mask again", SD.run, sd, error=UnsupportedModelError)
    assert not torch.equal(SD.run(sd), plain)
    for eliminate_dead in (True, False):
        with stepmask.apply(sd, mask, eliminate_dead=eliminate_dead):
            assert torch.equal(SD.run(sd), hooked(SD, sd, mask))


def ip_adapter_weights(unet) -> dict:
    """A checkpoint as it is published, with random numbers."""
    torch.manual_seed(6)
    width = unet.config.cross_attention_dim
    sizes = [p.shape[0] for name, p in unet.named_parameters() if name.endswith("attn2.to_k.weight")]
    layers = {f"{2 * i + 1}.to_{part}_ip.weight": torch.randn(s, width) for i, s in enumerate(sizes) for part in "kv"}
    projection = {"proj.weight": torch.randn(4 * width, 10), "proj.bias": torch.zeros(4 * width)}
    norm = {"norm.weight": torch.ones(width), "norm.bias": torch.zeros(width)}
    return {"image_proj": projection | norm, "ip_adapter": layers}


@pytest.mark.shows("IP-Adapter", apply="bitwise")
def test_ip_adapter(sd):
    mask, cost = random_actions(sd, 3), measure_cost(sd)
    sd.unet._load_ip_adapter_weights([ip_adapter_weights(sd.unet)])
    picture = torch.randn(4, 1, 10, generator=torch.Generator().manual_seed(1))
    case = replace(SD, options={"ip_adapter_image_embeds": [picture]})
    plain = case.run(sd)
    sd.set_ip_adapter_scale(0.0)
    assert not torch.equal(case.run(sd), plain)
    sd.set_ip_adapter_scale(1.0)
    with stepmask.apply(sd, mask):
        assert torch.equal(case.run(sd), hooked(case, sd, mask))
    with stepmask.apply(sd, all_ones(sd)) as handle:
        assert torch.equal(case.run(sd), plain)
        assert handle.summary().macs_fraction == pytest.approx(1)
    assert (measure_cost(sd).macs >= cost.macs).all()


# --- offload


def within(found):
    """What hangs on submodules alone; offload hangs itself on the denoiser after every call."""
    return {name: marks for name, marks in found.items() if "." in name}


@pytest.mark.parametrize(
    "case",
    [FLUX, *(pytest.param(case, marks=pytest.mark.slow) for case in (SD, BY_NAME["Wan"]))],
    ids=lambda case: case.name,
)
@pytest.mark.shows("offloaded as a whole or layer by layer", apply="bitwise")
def test_offload_of_models(case):
    pipe = case.build()
    plain, mask = case.run(pipe), random_actions(pipe, 3)
    wanted = hooked(case, pipe, mask)
    with stepmask.apply(pipe, mask):  # after: it wraps the denoiser, which no gate does
        pipe.enable_model_cpu_offload(device="cpu")
        assert all(torch.equal(case.run(pipe), wanted) for _ in range(2))
    before = marks(pipe)
    with stepmask.apply(pipe, mask):
        assert all(torch.equal(case.run(pipe), wanted) for _ in range(2))
    assert within(marks(pipe)) == within(before)
    assert torch.equal(case.run(pipe), plain)


def offload_leaves(model):
    device = torch.device("cpu")
    model.enable_group_offload(onload_device=device, offload_device=device, offload_type="leaf_level")


def test_offload_of_submodules_before_a_mask(flux):
    mask = random_actions(flux, 3)
    wanted = hooked(FLUX, flux, mask)
    offload_leaves(flux.transformer)
    before = marks(flux)
    with stepmask.apply(flux, mask):
        assert torch.equal(FLUX.run(flux), wanted)
    assert marks(flux) == before


def test_offload_of_submodules_after_a_mask_must_be_undone_first(flux):
    """A site is wrapped then; dropping the wrapper would end the offload in silence."""
    plain, mask = FLUX.run(flux), random_actions(flux, 3)
    wanted = hooked(FLUX, flux, mask)
    handle = stepmask.apply(flux, mask)
    offload_leaves(flux.transformer)
    for _ in range(2):
        with pytest.raises(UnsupportedModelError, match=r"proj_.* was wrapped by something else.*enable offload first"):
            handle.remove()
    for module in flux.transformer.modules():
        if hasattr(module, "_diffusers_hook"):
            module._diffusers_hook.remove_hook("group_offloading", recurse=False)
    handle.remove()
    assert torch.equal(FLUX.run(flux), plain)
    with stepmask.apply(flux, mask):
        assert torch.equal(FLUX.run(flux), wanted)


def test_offload_of_submodules_that_is_undone_under_a_mask(flux):
    """The gates go with the wrappers that they were put around."""
    plain, mask = FLUX.run(flux), random_actions(flux, 3)
    wanted = hooked(FLUX, flux, mask)
    offload_leaves(flux.transformer)
    handle = stepmask.apply(flux, mask)
    flux.transformer._diffusers_hook.remove_hook("group_offloading")
    with pytest.raises(UnsupportedModelError, match=r"proj_.* was wrapped by something else when .* was undone since"):
        FLUX.run(flux)
    handle.remove()
    assert torch.equal(FLUX.run(flux), plain)
    with stepmask.apply(flux, mask):
        assert torch.equal(FLUX.run(flux), wanted)


# --- caches of diffusers


def cached_attention(pipe):
    """Attention runs at every other step."""
    pipe.transformer.enable_cache(
        diffusers.PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2,
            spatial_attention_timestep_skip_range=(-1, 1001),
            current_timestep_callback=lambda: 500,
        )
    )


@pytest.mark.filterwarnings("ignore:the run.s timesteps differ")
@pytest.mark.shows("caches of diffusers (`enable_cache`)", apply="refused where they skip what the mask computes")
def test_a_cache_of_diffusers_over_a_mask_is_noticed():
    """Where it skips what the mask says computes."""
    case = replace(FLUX, steps=6)
    pipe = case.build()
    plain, full, mask = case.run(pipe), all_ones(pipe), schedules.fora(pipe, 6, interval=3)
    cached_attention(pipe)
    cached = case.run(pipe)
    pipe.transformer.disable_cache()
    handle = stepmask.apply(pipe, full)
    cached_attention(pipe)
    assert torch.equal(case.run(pipe), cached) and not torch.equal(cached, plain)
    pipe.transformer.disable_cache()
    handle.remove()
    handle = stepmask.apply(pipe, mask)
    cached_attention(pipe)
    check_refused(r"attn did not run at a step at which .*enable_cache", case.run, pipe, error=UnsupportedModelError)
    pipe.transformer.disable_cache()
    handle.remove()
    assert torch.equal(case.run(pipe), plain)


# --- the model itself is another


def test_another_denoiser_runs_as_it_is(sd):
    with stepmask.apply(sd, random_actions(sd, 3)):
        sd.unet = stable_diffusion().unet
        found = SD.run(sd)
    assert torch.equal(found, SD.run(sd))
