"""What learning refuses, in words that name what works there; where no gradient passes it goes on by runs alone."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.hooks import apply_group_offloading

import stepmask
from fakes import GrowingBatch, TwoCalls, assert_unchanged, quantised_pipeline, snapshot
from gate import in_gate
from stepmask import StepMaskError, UnsupportedModelError, describe, learn, schedules
from stepmask.inspection.registry import denoiser_of
from stepmask.learning.refusals import INSTEAD
from tiny import FEW, dit_pipeline, generator, tiny_model

STEPS = 5
QUICK = {"rounds": 0, "progress": False, **FEW}
PAPER = {"num_trajectories": 1, "batch_size": 1, "progress": False}
LABELS = {"class_labels": [3, 7]}


class Detached(TwoCalls):
    """A loop that lets no gradient through, between the steps or at its end."""

    where = "end"

    @torch.no_grad()
    def __call__(self, *args, **kwargs):
        images = super().__call__(*args, **kwargs).images
        return SimpleNamespace(images=images.detach() if self.where == "end" else images)

    def _step_output(self, row, sample, t, labels, scale):
        return super()._step_output(row, sample.detach() if self.where == "step" else sample, t, labels, scale)


class DetachedSteps(Detached):
    where = "step"


class Alone(TwoCalls):
    """Runs each image alone."""

    def _predict(self, sample, t, labels):
        one = super()._predict
        return torch.cat([one(x[None], t, y[None]) for x, y in zip(sample, labels, strict=True)])


def with_hook(name: str):
    """As an integer kernel would be: what a module makes does not depend on its input, as autograd sees it."""
    pipe = dit_pipeline()
    pipe.transformer.get_submodule(name).register_forward_hook(lambda module, args, output: output.detach())
    return pipe


def loop(kind, **options):
    return kind(tiny_model("DiTTransformer2DModel"), DDIMScheduler(clip_sample=False), **options)


def offloaded():
    pipe = dit_pipeline()
    pipe.enable_model_cpu_offload(device="cpu")
    return pipe


def offloaded_in_groups():
    pipe, cpu = dit_pipeline(), torch.device("cpu")
    apply_group_offloading(pipe.transformer, onload_device=cpu, offload_device=cpu, offload_type="leaf_level")
    return pipe


def in_inference_mode():
    with torch.inference_mode():
        return dit_pipeline()


WITHOUT_GRADIENT = {  # pipeline, what is said
    "quantised": (quantised_pipeline, r"linear_1 is a quantised Linear, .*learn on the plain model"),
    "offloaded as a whole": (offloaded, "the denoiser is offloaded: learn before"),
    "offloaded in groups": (offloaded_in_groups, "the denoiser is offloaded: learn before"),
    "output": (lambda: with_hook("proj_out_2"), "no gradient reaches the output of DiTTransformer2D.*plain model"),
    "site": (
        lambda: with_hook("transformer_blocks.1.ff.net.2"),
        r"no gradient passes through transformer_blocks\.1\.ff: .*learn on the plain model",
    ),
    "loop": (lambda: loop(Detached), "no gradient reaches the images through DDIMScheduler .*another scheduler"),
    "steps": (lambda: loop(DetachedSteps), "no gradient reaches row 1 through DDIMScheduler"),
    "late": (lambda: loop(TwoCalls, begin=2), "1 to 2 inputs and begin anew at row 2 .*the same calls at every step"),
    "growing": (lambda: loop(GrowingBatch, begin=2), "1 to 2 inputs and begin anew at row 2 .*the same calls at every"),
    "inference": (in_inference_mode, r"made under torch.inference_mode\(\), .*load the model outside of it"),
    "alone": (lambda: loop(Alone), r"a batch of 1 for \d images, .*runs all images together"),
}  # fmt: skip
UNEVEN = {"late", "growing"}
CHANGED_BY_OTHERS = {"quantised", "offloaded as a whole"}
"""Have no plain weights to compare; or accelerate puts its forward anew in each call."""
TAKEN_BY_PAPER = {"site", "loop", "steps", "alone"}
"""The paper's learner needs no gradient between steps, and does not see that one of several branches has none."""


def images(pipe, mask=None):
    call = {**LABELS, "num_inference_steps": STEPS, "generator": generator()}
    if not isinstance(pipe, TwoCalls):
        call["output_type"] = "pt"
    if mask is None:
        return torch.as_tensor(pipe(**call).images)
    with stepmask.apply(pipe, mask):
        return torch.as_tensor(pipe(**call).images)


@pytest.mark.parametrize("name", in_gate(WITHOUT_GRADIENT, "alone", "quantised", "loop"))
@pytest.mark.shows("quantised layers of torch", learn="by runs alone, with a warning")
@pytest.mark.shows("offloaded in groups", learn="by runs alone, with a warning")
@pytest.mark.shows("offloaded as a whole or layer by layer", learn="by runs alone, with a warning")
def test_where_no_gradient_passes_learning_goes_on_by_runs(name):
    make, says = WITHOUT_GRADIENT[name]
    pipe = make()
    full, before = images(pipe), None if name in CHANGED_BY_OTHERS else snapshot(denoiser_of(pipe))
    call_kwargs = LABELS if isinstance(pipe, TwoCalls) else None
    with pytest.warns(UserWarning, match=f"{says}.*by runs alone"):
        mask = learn(pipe, STEPS, 0.6, call_kwargs=call_kwargs, **{**QUICK, "gains": 2, "num_probes": 4})
    if before is not None:
        assert_unchanged(denoiser_of(pipe), before)
    assert re.search(says, mask.provenance["without_gradients"])
    with stepmask.apply(pipe, mask) as run:
        made = images(pipe)
        assert run.summary().macs_fraction == pytest.approx(mask.provenance["macs"], abs=1e-6)
    assert mask.provenance["macs"] <= 0.6
    assert 0 < mask.provenance["denoiser_calls"]
    assert made.isfinite().all() and not torch.equal(made, full) and (made - full).norm() < full.norm()


@pytest.mark.parametrize("name", WITHOUT_GRADIENT)
def test_the_papers_learner_takes_what_it_can(name):
    pipe = WITHOUT_GRADIENT[name][0]()
    options = {"method": "paper", "call_kwargs": LABELS if isinstance(pipe, TwoCalls) else None, **PAPER}
    if name in TAKEN_BY_PAPER:
        assert learn(pipe, 3, 0.8, **options).num_rows == 3
    else:
        says = f"{WITHOUT_GRADIENT[name][1]}.*{re.escape(INSTEAD)}"
        if name in UNEVEN:
            says = "begin anew at row 2 .* takes all rows to cost alike"
        with pytest.raises(UnsupportedModelError, match=says):
            learn(pipe, 3, 0.8, **options)


@pytest.mark.shows("quantised layers of torch", apply="bitwise")
def test_masks_of_the_plain_model_run_on_the_quantised_one():
    pipe = quantised_pipeline()
    assert torch.equal(images(pipe, schedules.fora(pipe, STEPS, 1)), images(pipe))
    mask = schedules.fora(dit_pipeline(), STEPS, 2, forecast="linear")
    assert mask.graph == describe(pipe).fingerprint
    assert not torch.equal(images(pipe, mask), images(pipe))


# --- states of a model that have to go first


@pytest.mark.parametrize("options", [QUICK, {"method": "paper", **PAPER}], ids=["end-to-end", "paper"])
def test_a_mask_that_is_applied_has_to_go_first(options):
    pipe = dit_pipeline()
    with stepmask.apply(pipe, schedules.fora(pipe, 3, 2)), pytest.raises(StepMaskError, match="remove it before"):
        learn(pipe, 3, 0.8, **options)
    assert learn(pipe, 3, 0.8, **options) == learn(dit_pipeline(), 3, 0.8, **options), "nothing of it is left"


def test_what_was_offloaded_is_learned_on_afterwards():
    pipe, before = offloaded(), snapshot(dit_pipeline().transformer)
    with pytest.warns(UserWarning, match="the denoiser is offloaded"):
        learn(pipe, 3, 0.8, **QUICK)
    pipe.remove_all_hooks()
    assert snapshot(pipe.transformer)[1:-1] == before[1:-1]
    assert np.isfinite(learn(pipe, 2, 0.8, method="paper", **PAPER).scores).all()
