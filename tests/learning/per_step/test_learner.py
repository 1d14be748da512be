"""The per-step learner end to end on tiny random models: targets, seeds, options, what it restores and refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, HeunDiscreteScheduler
from stepmask.learning.per_step import learner

import stepmask
from fakes import TwoCalls, assert_unchanged, snapshot
from stepmask import (
    StepMask,
    StepMaskError,
    TargetError,
    UnsupportedModelError,
    describe,
    learn,
    make_plan,
    measure_cost,
)
from stepmask.evaluation import evaluation_seeds
from stepmask.inspection.registry import denoiser_of
from stepmask.learning import LearnConfig
from stepmask.learning.paper.config import SparseWeights
from stepmask.mask import scheduler_identity
from tiny import ddim_pipeline, ddpm_pipeline, dit_pipeline, generator, sample_of, tiny_model

STEPS = 5
QUICK = {"method": "per-step", "num_trajectories": 3, "batch_size": 2, "progress": False}


def heun(name: str):
    return tiny_model(name), HeunDiscreteScheduler()


CASES = {  # pipeline or denoiser, scheduler, call_kwargs
    "DDIMPipeline": lambda: (ddim_pipeline(), None, None),
    "DDPMPipeline": lambda: (ddpm_pipeline(), None, None),
    "DiTPipeline": lambda: (dit_pipeline(), None, None),
    "DiTPipeline, scale 2": lambda: (dit_pipeline(), None, {"guidance_scale": 2.0}),
    "DiTPipeline without guidance": lambda: (dit_pipeline(), None, {"guidance_scale": 1.0}),
    "U-Net, Heun": lambda: (*heun("UNet2DModel"), None),
    "DiT, Heun": lambda: (*heun("DiTTransformer2DModel"), None),
    "two calls": lambda: (
        TwoCalls(tiny_model("DiTTransformer2DModel"), DDIMScheduler(), begin=1),
        None,
        {"class_labels": [3, 7]},
    ),
}


def assert_cost(mask: StepMask, pipe, target: float, call_kwargs=None) -> float:
    """The plan costs at most `target`, and no single held cell more would fit."""
    graph, table = describe(pipe), measure_cost(pipe, call_kwargs=call_kwargs)
    cost = table.fraction(make_plan(mask, graph))
    assert cost <= target + 1e-9
    if cost < target - 0.01:
        largest = table.shares()[0].max() * len(graph) / mask.num_rows
        assert cost > target - largest, "further below the target than any cell could account for"
    return cost


@pytest.mark.parametrize("name", CASES)
def test_every_pipeline_meets_its_target(name):
    pipe, scheduler, call_kwargs = CASES[name]()
    before = snapshot(denoiser_of(pipe))
    mask = learn(pipe, STEPS, 0.6, scheduler=scheduler, call_kwargs=call_kwargs, **QUICK)
    assert_unchanged(denoiser_of(pipe), before)
    rows = 2 * STEPS - 1 if scheduler is not None else STEPS
    graph = describe(pipe)
    assert mask.compute.shape == mask.scores.shape == (rows, len(graph)) and mask.compute[0].all()
    assert mask.sites == graph.names and mask.graph == graph.fingerprint
    assert mask.scheduler == scheduler_identity(scheduler or pipe.scheduler)
    assert list(mask.timesteps) == [float(t) for t in (scheduler or pipe.scheduler).timesteps]
    cost = assert_cost(mask, pipe, 0.6, call_kwargs)
    assert mask.provenance["macs"] == pytest.approx(cost, abs=1e-6)
    samplers = [i for i in range(len(graph)) if i not in graph.blocks]
    assert mask.compute[:, samplers].all() and (mask.scores[:, samplers] == 1).all() and (mask.scores[0] == 1).all()
    assert ((mask.scores >= 0) & (mask.scores <= 1)).all()


def test_another_target():
    pipe = ddim_pipeline()
    assert_cost(learn(pipe, 8, 0.35, **QUICK), pipe, 0.35)


def test_a_target_at_the_floor():
    pipe = dit_pipeline()
    with pytest.raises(TargetError) as caught:
        learn(pipe, STEPS, 0.1, **QUICK)
    least = float(str(caught.value).split("ask for ")[1].split()[0])
    mask = learn(pipe, STEPS, least, **QUICK)
    assert_cost(mask, pipe, least)
    assert not mask.compute[1:].any()


def test_a_target_of_1_computes_almost_everything():
    pipe = dit_pipeline()
    mask = learn(pipe, STEPS, 1.0, **QUICK)
    assert_cost(mask, pipe, 1.0)
    assert mask.provenance["macs"] > 0.97


@pytest.mark.parametrize("target", [0, -1, 1.5])
def test_targets_that_are_no_share(target):
    with pytest.raises(TargetError, match=r"in \(0, 1\]"):
        learn(dit_pipeline(), STEPS, target, **QUICK)


@pytest.mark.parametrize("steps", [1, 2])
def test_very_few_steps(steps):
    for options in ({}, {"sparsity": "penalty", "scale_loss": True}):
        mask = learn(dit_pipeline(), steps, None if steps == 1 else 0.8, **options, **QUICK)
        assert mask.num_rows == steps and mask.compute[0].all()


@pytest.mark.parametrize("steps", [0, -3, 2.5, "50", True])
def test_impossible_numbers_of_steps(steps):
    with pytest.raises(StepMaskError, match="num_inference_steps must be a whole number"):
        learn(dit_pipeline(), steps, **QUICK)


# --- seeds and provenance


def test_seeds_reproduce_and_differ():
    pipe = dit_pipeline()
    torch.manual_seed(1)
    first = learn(pipe, STEPS, 0.6, seed=4, **QUICK)
    torch.manual_seed(2)
    assert learn(pipe, STEPS, 0.6, seed=4, **QUICK) == first, "nothing depends on the global random state"
    assert learn(dit_pipeline(), STEPS, 0.6, seed=4, **QUICK) == first
    other = learn(pipe, STEPS, 0.6, seed=5, **QUICK)
    assert not np.array_equal(first.scores, other.scores)


def test_the_global_random_state_is_left_alone():
    pipe = ddpm_pipeline()
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    learn(pipe, 3, 0.6, **QUICK)
    assert torch.equal(torch.rand(3), expected)


def test_provenance_says_what_was_seen():
    pipe = dit_pipeline()
    masks = [learn(pipe, STEPS, 0.6, seed=seed, call_kwargs={"guidance_scale": 2.0}, **QUICK) for seed in (0, 1)]
    record = masks[0].provenance
    assert (record["num_inference_steps"], record["target_macs"], record["seed"]) == (STEPS, 0.6, 0)
    assert record["guidance_scale"] == 2.0 and record["model"] == "DiTTransformer2DModel"
    assert LearnConfig(**record["config"]) == LearnConfig(num_trajectories=3, batch_size=2)
    (first, last), (other, _) = (mask.provenance["noise_seeds"] for mask in masks)
    assert last - first + 1 == (1 + 3 + 2) * 2, "calibration, three trajectories, two to judge by; two images each"
    assert other > last
    assert not set(evaluation_seeds(1000, masks[0])) & set(range(first, last + 1))
    with pytest.raises(StepMaskError, match="used to learn"):
        evaluation_seeds([last], masks[0])


def test_the_seeds_in_provenance_are_those_that_were_used(monkeypatch):
    seen = []

    def watch(pipe, call_kwargs, seeds, steps, sample=learner.sample):
        seen.extend(seeds)
        return sample(pipe, call_kwargs, seeds, steps)

    monkeypatch.setattr(learner, "sample", watch)
    mask = learn(dit_pipeline(), STEPS, 0.6, seed=2, importance="uniform", **QUICK)
    first, last = mask.provenance["noise_seeds"]
    assert sorted(set(seen)) == list(range(first, last + 1))


def test_labels_are_drawn_at_random():
    pipe, seen = dit_pipeline(), []
    hook = pipe.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple(kwargs["class_labels"].tolist())), with_kwargs=True
    )
    learn(pipe, 2, 0.8, method="per-step", num_trajectories=6, batch_size=2, importance="uniform", progress=False)
    hook.remove()
    labels = {pair[:2] for pair in seen}
    assert len(labels) == 9, "new ones for calibration, each trajectory, and the two runs to judge by"
    assert all(pair[2:] == (1000, 1000) for pair in seen) and len({label for pair in labels for label in pair}) > 7


def test_a_learned_mask_saves_loads_and_runs(tmp_path):
    pipe = ddim_pipeline()
    mask = learn(pipe, STEPS, 0.6, **QUICK)
    mask.save(tmp_path / "mask.json")
    loaded = StepMask.load(tmp_path / "mask.json")
    assert loaded == mask
    images = []
    for each in (mask, loaded):
        with stepmask.apply(pipe, each) as run:
            images.append(pipe(2, generator(), num_inference_steps=STEPS, output_type="pt").images)
        assert run.summary().macs_fraction == pytest.approx(mask.provenance["macs"], abs=1e-6)
    assert torch.equal(*images)


# --- options


@pytest.mark.parametrize("sampling", ["random", "gumbel", "interpolation"])
@pytest.mark.parametrize("trajectory", ["student", "teacher"])
def test_samplings_and_trajectories(sampling, trajectory):
    pipe = dit_pipeline()
    mask = learn(pipe, STEPS, 0.6, sampling=sampling, trajectory=trajectory, **QUICK)
    assert_cost(mask, pipe, 0.6)


@pytest.mark.parametrize("weights", SparseWeights.__args__)
def test_sparse_weights(weights):
    pipe = ddim_pipeline()
    mask = learn(pipe, STEPS, 0.6, sparsity="penalty", sparse_weights=weights, **QUICK)
    assert_cost(mask, pipe, 0.6)
    assert len(set(mask.scores[1:, list(describe(pipe).blocks)].flatten().tolist())) > 3


def test_the_papers_learner():
    pipe = ddim_pipeline()
    config = LearnConfig.paper(num_trajectories=4, batch_size=2)
    assert (config.sparsity, config.credit_steps, config.importance) == ("penalty", 0, "uniform")
    assert config.sampling == "random" and config.scale_loss and config.sparse_weights == "uniform"
    mask = learn(pipe, STEPS, 0.6, config=config, progress=False)
    assert_cost(mask, pipe, 0.6)
    assert LearnConfig(**mask.provenance["config"]) == config


def test_without_a_target_lambda_decides():
    costs = []
    for lambda_sparse in (1e-9, 10.0):
        mask = learn(
            dit_pipeline(), STEPS, None, method="per-step", sparsity="penalty", lambda_sparse=lambda_sparse,
            initial_score=0.6, importance="uniform", num_trajectories=4, batch_size=2, learning_rate=0.1,
            progress=False,
        )  # fmt: skip
        assert mask.provenance["target_macs"] is None
        assert np.array_equal(mask.compute, mask.scores > 0.5), "nothing but rounding"
        costs.append(mask.compute[1:].mean())
    assert costs[1] == 0 < costs[0]


def test_teacher_and_student_trajectories_differ():
    inputs = {}
    for trajectory in ("student", "teacher"):
        pipe, seen = dit_pipeline(), []
        hook = pipe.transformer.register_forward_pre_hook(
            lambda module, args, kwargs, seen=seen: seen.append(sample_of(args, kwargs).clone()), with_kwargs=True
        )
        learn(pipe, STEPS, 0.6, method="per-step", trajectory=trajectory, num_trajectories=1, batch_size=2,
              importance="uniform", sparsity="projection", progress=False)  # fmt: skip
        hook.remove()
        inputs[trajectory] = seen
    calibration, learning = inputs["teacher"][:STEPS], inputs["teacher"][STEPS:]
    assert len(learning) == STEPS and len(calibration) == STEPS
    assert torch.equal(inputs["student"][STEPS], learning[0]), "the same noise"
    assert not torch.equal(inputs["student"][-1], learning[-1])


def test_config_and_options():
    pipe = dit_pipeline()
    with pytest.raises(StepMaskError, match=r"not both \(batch_size\)"):
        learn(pipe, STEPS, config=LearnConfig(), batch_size=2)
    with pytest.raises(StepMaskError, match=r"no option 'batchsize'; there are .*batch_size"):
        learn(pipe, STEPS, method="per-step", batchsize=2)
    same = LearnConfig(num_trajectories=3, batch_size=2)
    assert learn(pipe, STEPS, config=same, progress=False) == learn(pipe, STEPS, **QUICK)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling": "coin"}, "sampling must be one of random, gumbel, interpolation, threshold, got 'coin'"),
        ({"num_trajectories": 0}, "num_trajectories must be a number between 1 and"),
        ({"num_trajectories": 2.5}, "num_trajectories must be a whole number"),
        ({"batch_size": True}, "batch_size must be a number"),
        ({"learning_rate": "fast"}, "learning_rate must be a number"),
        ({"exploration": 0.5}, "exploration must be a number between 0 and 0.4"),
        ({"temperature": float("nan")}, "temperature must be a number"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(StepMaskError, match=message):
        LearnConfig(**options)


def test_an_option_that_is_ignored_warns():
    with pytest.warns(UserWarning, match='lambda_bimodal is used only with sparsity="penalty"'):
        LearnConfig(lambda_bimodal=0.2)


# --- callback, progress, interruption


def test_the_callback_sees_every_trajectory(capsys):
    seen = []
    mask = learn(dit_pipeline(), STEPS, 0.6, callback=seen.append, **QUICK)
    assert [(report.trajectory, report.num_trajectories) for report in seen] == [(1, 3), (2, 3), (3, 3)]
    assert all(report.loss > 0 and 0 < report.macs <= 1 for report in seen)
    assert seen[-1].macs < seen[0].macs, "the budget falls"
    assert mask.provenance["macs"] <= 0.6 and capsys.readouterr() == ("", "")


def test_the_progress_bar_can_be_seen(capsys):
    learn(dit_pipeline(), 2, 0.8, method="per-step", num_trajectories=2, batch_size=1)
    captured = capsys.readouterr()
    assert "learning" in captured.out + captured.err and "MACs" in captured.out + captured.err


class Stop(Exception):
    pass


def stop_after(count: int):
    def callback(report):
        if report.trajectory == count:
            raise Stop

    return callback


def unusual(pipe) -> None:
    """Flags that learning has to change for a while."""
    denoiser = denoiser_of(pipe)
    denoiser.train()
    next(denoiser.children()).eval()
    denoiser.enable_gradient_checkpointing()
    for index, parameter in enumerate(denoiser.parameters()):
        parameter.requires_grad_(index % 2 == 0)


@pytest.mark.parametrize("make", [ddim_pipeline, dit_pipeline])
@pytest.mark.parametrize("how", ["finished", "callback", "scheduler", "denoiser", "keyboard"])
def test_everything_is_restored(make, how, monkeypatch):
    pipe = make()
    unusual(pipe)
    decoder = getattr(pipe, "vae", None)
    before = snapshot(denoiser_of(pipe)), decoder and snapshot(decoder)
    options = {**QUICK, "importance": "uniform"}
    if how == "finished":
        learn(pipe, 3, 0.8, **options)
    elif how == "callback":
        with pytest.raises(Stop):
            learn(pipe, 3, 0.8, callback=stop_after(1), **options)
    else:
        error = KeyboardInterrupt if how == "keyboard" else Stop
        calls, target = [], pipe.scheduler
        step = type(target).step

        def fail(self, *args, **kwargs):
            calls.append(1)
            if len(calls) == 5:  # in the middle of the first trajectory
                raise error
            return step(self, *args, **kwargs)

        with monkeypatch.context() as patch, pytest.raises(error):
            if how == "denoiser":
                original = type(denoiser_of(pipe)).forward

                def forward(self, *args, **kwargs):
                    calls.append(1)
                    if len(calls) == 8:
                        raise error
                    return original(self, *args, **kwargs)

                patch.setattr(type(denoiser_of(pipe)), "forward", forward)
            else:
                patch.setattr(type(target), "step", fail)
            learn(pipe, 3, 0.8, **options)
        assert len(calls) in (5, 8)
    assert_unchanged(denoiser_of(pipe), before[0])
    if decoder is not None:
        assert_unchanged(decoder, before[1])


def test_the_pipelines_progress_bar_setting_is_restored():
    pipe = dit_pipeline()
    pipe.set_progress_bar_config(disable=True, desc="mine")
    learn(pipe, 2, 0.8, **QUICK)
    assert pipe._progress_bar_config == {"disable": True, "desc": "mine"}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("make", [ddim_pipeline, dit_pipeline])
def test_under_any_of_the_callers_modes(make, mode):
    expected = learn(make(), 3, 0.8, **QUICK)
    pipe = make()
    with mode():
        enabled = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        assert learn(pipe, 3, 0.8, **QUICK) == expected
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == enabled


@pytest.mark.parametrize("sparsity", ["projection", "penalty"])
def test_bfloat16(sparsity):
    pipe = dit_pipeline().to(torch.bfloat16)
    mask = learn(pipe, STEPS, 0.6, sparsity=sparsity, **QUICK)
    assert np.isfinite(mask.scores).all() and pipe.transformer.dtype == torch.bfloat16
    assert_cost(mask, pipe, 0.6)
    with stepmask.apply(pipe, mask):
        images = pipe([3], generator=generator(), num_inference_steps=STEPS, output_type="pt").images
    assert images.isfinite().all()


# --- what is refused


def test_a_model_with_a_mask_applied():
    pipe = dit_pipeline()
    mask = learn(pipe, STEPS, 0.6, **QUICK)
    with stepmask.apply(pipe, mask), pytest.raises(StepMaskError, match=r"a mask is applied.*remove it"):
        learn(pipe, STEPS, 0.6, **QUICK)
    assert learn(pipe, STEPS, 0.6, **QUICK) == mask


def test_a_denoiser_offloaded_in_groups():
    from diffusers.hooks import apply_group_offloading

    pipe, cpu = dit_pipeline(), torch.device("cpu")
    apply_group_offloading(pipe.transformer, onload_device=cpu, offload_device=cpu, offload_type="leaf_level")
    for method in ("paper", "global"):
        with pytest.raises(UnsupportedModelError, match="offloaded: learn before"):
            learn(pipe, 3, 0.8, method=method, progress=False)


def test_an_offloaded_denoiser():
    pipe = ddim_pipeline()
    pipe.enable_model_cpu_offload(device="cpu")
    with pytest.raises(UnsupportedModelError, match="offloaded: learn before"):
        learn(pipe, STEPS, 0.6, **QUICK)
    pipe.remove_all_hooks()
    learn(pipe, 2, 0.8, **QUICK)


def test_a_compiled_denoiser():
    pipe = dit_pipeline()
    pipe.transformer.compile()
    with pytest.raises(UnsupportedModelError, match="compiled"):
        learn(pipe, STEPS, 0.6, **QUICK)
    model = torch.compile(tiny_model("DiTTransformer2DModel"))
    with pytest.raises(UnsupportedModelError, match="compiled"):
        learn(model, STEPS, 0.6, scheduler=DDIMScheduler(), **QUICK)


def test_a_denoiser_without_gradient(monkeypatch):
    """As an integer kernel would be: its output does not depend on its input as autograd sees it."""
    pipe = dit_pipeline()
    pipe.transformer.proj_out_2.register_forward_hook(lambda module, args, output: output.detach())
    with pytest.raises(UnsupportedModelError, match="no gradient reaches the output of DiTTransformer2DModel"):
        learn(pipe, STEPS, 0.6, **QUICK)


class Prompted(TwoCalls):
    """Needs what stepmask cannot invent."""

    @torch.no_grad()
    def __call__(self, prompt, num_inference_steps=50, generator=None):
        return super().__call__([len(word) for word in prompt], num_inference_steps, generator)


def test_a_pipeline_that_needs_a_prompt():
    pipe = Prompted(tiny_model("DiTTransformer2DModel"), DDIMScheduler())
    with pytest.raises(StepMaskError, match=r"Prompted needs conditions .*\(prompt\): give call_kwargs"):
        learn(pipe, STEPS, 0.6, **QUICK)
    mask = learn(pipe, STEPS, 0.6, call_kwargs={"prompt": ["a", "bcd"]}, **QUICK)
    assert mask.provenance["macs"] <= 0.6


def test_embeddings_take_the_place_of_drawn_prompts():
    class Either(TwoCalls):
        tokenizer = "has one"

        @torch.no_grad()
        def __call__(self, prompt=None, prompt_embeds=None, num_inference_steps=50, generator=None):
            assert prompt is None, "real pipelines refuse both"
            return super().__call__(prompt_embeds.tolist(), num_inference_steps, generator)

    pipe = Either(tiny_model("DiTTransformer2DModel"), DDIMScheduler())
    mask = learn(pipe, STEPS, 0.6, call_kwargs={"prompt_embeds": torch.tensor([3, 7])}, **QUICK)
    assert mask.provenance["macs"] <= 0.6


def test_no_model_or_no_scheduler():
    with pytest.raises(StepMaskError, match="expected a diffusers pipeline"):
        learn("model", STEPS)
    with pytest.raises(StepMaskError, match="bare denoiser needs its scheduler"):
        learn(tiny_model("UNet2DModel"), STEPS)


def test_provenance_is_json():
    record = learn(dit_pipeline(), 2, 0.8, call_kwargs={"guidance_scale": 1.5}, **QUICK).provenance
    assert json.loads(json.dumps(record)) == record
