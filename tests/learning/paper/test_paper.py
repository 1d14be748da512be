"""The paper's learner end to end on tiny random models: targets, seeds, options, what it restores, resuming."""

import json

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, HeunDiscreteScheduler

import stepmask
from fakes import TwoCalls, assert_unchanged, snapshot
from gate import in_gate
from jobs import Stop, job_for, stop_after
from refusal import check_refused
from stepmask import StepMask, TargetError, describe, learn, make_plan, measure_cost
from stepmask.evaluation import evaluation_seeds
from stepmask.inspection.registry import denoiser_of
from stepmask.learning import Paper
from stepmask.learning.paper import learner
from stepmask.learning.paper.learner import PaperLearner
from stepmask.mask import scheduler_identity
from tiny import ddim_pipeline, ddpm_pipeline, dit_pipeline, generator, sample_of, tiny_model

STEPS = 4
FEW = {"num_trajectories": 3, "batch_size": 2}
QUICK = {"method": "paper", "progress": False, **FEW}


def heun(name: str):
    return tiny_model(name), HeunDiscreteScheduler()


CASES = {  # pipeline or denoiser, scheduler, call_kwargs
    "DDIMPipeline": lambda: (ddim_pipeline(), None, None),
    "DDPMPipeline": lambda: (ddpm_pipeline(), None, None),
    "DiTPipeline, scale 2": lambda: (dit_pipeline(), None, {"guidance_scale": 2.0}),
    "DiTPipeline without guidance": lambda: (dit_pipeline(), None, {"guidance_scale": 1.0}),
    "U-Net, Heun": lambda: (*heun("UNet2DModel"), None),
    "DiT, Heun": lambda: (*heun("DiTTransformer2DModel"), None),
    "two calls": lambda: (
        TwoCalls(tiny_model("DiTTransformer2DModel"), DDIMScheduler()),
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


@pytest.fixture(scope="module")
def usual():
    """The mask that several tests look at, its reports, and all seeds of its noise."""
    reports, seeds = [], []

    def watch(pipe, call_kwargs, seen, steps, sample=learner.sample):
        seeds.extend(seen)
        return sample(pipe, call_kwargs, seen, steps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner, "sample", watch)
        options = {"seed": 4, "call_kwargs": {"guidance_scale": 2.0}, "callback": reports.append}
        mask = learn(dit_pipeline(), STEPS, 0.6, **options, **QUICK)
    return mask, reports, seeds


# --- targets


@pytest.mark.parametrize("name", in_gate(CASES, "DDIMPipeline", "DiTPipeline, scale 2"))
def test_every_pipeline_meets_its_target(name):
    pipe, scheduler, call_kwargs = CASES[name]()
    before = snapshot(denoiser_of(pipe))
    mask = learn(pipe, STEPS, 0.6, scheduler=scheduler, call_kwargs=call_kwargs, **QUICK)
    assert_unchanged(denoiser_of(pipe), before)
    rows = 2 * STEPS - 1 if scheduler is not None else STEPS
    graph = describe(pipe).innermost
    assert mask.compute.shape == mask.scores.shape == (rows, len(graph)) and mask.compute[0].all()
    assert mask.sites == graph.names and mask.graph == graph.fingerprint and mask.is_binary
    assert mask.scheduler == scheduler_identity(scheduler or pipe.scheduler)
    assert list(mask.timesteps) == [float(t) for t in (scheduler or pipe.scheduler).timesteps]
    cost = assert_cost(mask, pipe, 0.6, call_kwargs)
    assert mask.provenance["macs"] == pytest.approx(cost, abs=1e-6)
    samplers = [i for i in range(len(graph)) if i not in graph.blocks]
    assert mask.compute[:, samplers].all() and (mask.scores[:, samplers] == 1).all() and (mask.scores[0] == 1).all()
    assert ((mask.scores >= 0) & (mask.scores <= 1)).all()


def test_targets_at_both_ends():
    pipe = dit_pipeline()
    with pytest.raises(TargetError) as caught:
        learn(pipe, STEPS, 0.1, **QUICK)
    least = float(str(caught.value).split("ask for ")[1].split()[0])
    mask = learn(pipe, STEPS, least, **QUICK)
    assert_cost(mask, pipe, least)
    assert not mask.compute[1:].any()
    mask = learn(pipe, STEPS, 1.0, **QUICK)
    assert assert_cost(mask, pipe, 1.0) > 0.97
    check_refused(r"in \(0, 1\]", learn, pipe, STEPS, 1.5, **QUICK, error=TargetError)


@pytest.mark.parametrize(("steps", "target"), [(1, None), (2, 0.8)])
def test_very_few_steps(steps, target):
    mask = learn(dit_pipeline(), steps, target, **QUICK)
    assert mask.num_rows == steps and mask.compute[0].all()


def test_without_a_target_lambda_decides():
    costs = []
    for lambda_sparse in (1e-9, 10.0):
        config = Paper(
            lambda_sparse=lambda_sparse, initial_score=0.6, num_trajectories=4, batch_size=1, learning_rate=0.1
        )
        mask = learn(dit_pipeline(), STEPS, None, method=config, progress=False)
        assert mask.provenance["target_macs"] is None
        assert np.array_equal(mask.compute, mask.scores > 0.5), "nothing but rounding"
        costs.append(mask.compute[1:].mean())
    assert costs[1] == 0 < costs[0]


# --- seeds and provenance


def test_seeds_reproduce_and_differ(usual):
    pipe, options = dit_pipeline(), {"call_kwargs": {"guidance_scale": 2.0}, **QUICK}
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    assert learn(pipe, STEPS, 0.6, seed=4, **options) == usual[0], "whatever the global random state is"
    assert torch.equal(torch.rand(3), expected), "which is left alone"
    other = learn(pipe, STEPS, 0.6, seed=5, **options)
    assert not np.array_equal(usual[0].scores, other.scores)
    assert other.provenance["noise_seeds"][0] > usual[0].provenance["noise_seeds"][1]


def test_provenance_says_what_was_seen(usual):
    mask, _, seeds = usual
    record = mask.provenance
    assert (record["method"], record["num_inference_steps"], record["target_macs"]) == ("paper", STEPS, 0.6)
    assert (record["seed"], record["guidance_scale"], record["model"]) == (4, 2.0, "DiTTransformer2DModel")
    assert Paper(**record["config"]) == Paper(**FEW) and json.loads(json.dumps(record)) == record
    first, last = record["noise_seeds"]
    assert first == min(seeds) and max(seeds) <= last < max(seeds) + 5
    assert not set(evaluation_seeds(1000, mask)) & set(range(first, last + 1))
    check_refused("used to learn", evaluation_seeds, [last], mask)


def test_the_callback_sees_every_trajectory(usual, capsys):
    mask, seen, _ = usual
    assert [(report.trajectory, report.num_trajectories) for report in seen] == [(1, 3), (2, 3), (3, 3)]
    assert all(report.loss > 0 and 0 < report.macs <= 1 for report in seen)
    assert mask.provenance["macs"] <= 0.6
    learn(dit_pipeline(), 2, 0.8, method="paper", num_trajectories=2, batch_size=1)
    captured = capsys.readouterr()
    assert "learning" in captured.err and "MACs" in captured.err and captured.out == ""


def test_labels_are_drawn_at_random():
    pipe, seen = dit_pipeline(), []
    hook = pipe.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple(kwargs["class_labels"].tolist())), with_kwargs=True
    )
    learn(pipe, 2, 0.8, method="paper", num_trajectories=6, batch_size=2, progress=False)
    hook.remove()
    labels = {pair[:2] for pair in seen}
    assert len(labels) == 7, "new ones for the facts about steps, and for each trajectory"
    assert all(pair[2:] == (1000, 1000) for pair in seen) and len({label for pair in labels for label in pair}) > 7


def test_a_learned_mask_runs_at_the_cost_that_it_says(usual):
    pipe, mask = dit_pipeline(), usual[0]
    with stepmask.apply(pipe, mask) as run:
        pipe([3], 2.0, generator(), num_inference_steps=STEPS, output_type="pt")
    assert run.summary().macs_fraction == pytest.approx(mask.provenance["macs"], abs=1e-6)


# --- options


@pytest.mark.parametrize("sampling", ["random", "gumbel", "interpolation"])
@pytest.mark.parametrize("trajectory", ["student", "teacher"])
def test_samplings_and_trajectories(sampling, trajectory):
    pipe = dit_pipeline()
    mask = learn(pipe, 3, 0.6, sampling=sampling, trajectory=trajectory, **QUICK)
    assert_cost(mask, pipe, 0.6)


@pytest.mark.parametrize("options", [{"sparse_weights": "macs"}, {"scale_loss": False}, {"lambda_bimodal": 0.0}])
def test_penalties(options):
    pipe = ddim_pipeline()
    mask = learn(pipe, 3, 0.6, **options, **QUICK)
    assert_cost(mask, pipe, 0.6)
    assert len(set(mask.scores[1:, list(describe(pipe).innermost.blocks)].flatten().tolist())) > 3


def test_teacher_and_student_trajectories_differ():
    inputs = {}
    for trajectory in ("student", "teacher"):
        pipe, seen = dit_pipeline(), []
        hook = pipe.transformer.register_forward_pre_hook(
            lambda module, args, kwargs, seen=seen: seen.append(sample_of(args, kwargs).clone()), with_kwargs=True
        )
        options = {"num_trajectories": 1, "batch_size": 2, "scale_loss": False, "progress": False}
        learn(pipe, STEPS, 0.6, method="paper", trajectory=trajectory, **options)
        hook.remove()
        inputs[trajectory] = seen
    teacher, student = inputs["teacher"], inputs["student"]
    assert len(teacher) == len(student) == STEPS
    assert torch.equal(student[0], teacher[0]), "the same noise"
    assert not torch.equal(student[-1], teacher[-1])


def test_adam_is_torchs():
    config = Paper(learning_rate=0.1)
    own = PaperLearner(job_for(dit_pipeline(), STEPS, config, target_macs=0.6))
    values = torch.rand(own.task.shape, generator=generator(), dtype=torch.float64)
    own.tensors = {"scores": values.clone(), "adam_first": 0 * values, "adam_second": 0 * values}
    parameter = values.clone().requires_grad_()
    optimizer = torch.optim.Adam([parameter], lr=0.1, betas=(0.8, 0.95), eps=1e-12)
    for own.done in range(4):
        gradient = torch.randn(values.shape, generator=generator(own.done), dtype=torch.float64)
        parameter.grad = gradient
        optimizer.step()
        own.tensors["scores"] = own._adam_step(gradient)
        assert torch.allclose(own.tensors["scores"], parameter.detach(), rtol=1e-9)


# --- what it restores


def unusual(pipe) -> None:
    """Flags that learning has to change for a while."""
    denoiser = denoiser_of(pipe)
    denoiser.train()
    next(denoiser.children()).eval()
    denoiser.enable_gradient_checkpointing()
    for index, parameter in enumerate(denoiser.parameters()):
        parameter.requires_grad_(index % 2 == 0)


@pytest.mark.parametrize("how", ["finished", "callback", "scheduler", "denoiser"])
@pytest.mark.parametrize("make", [ddim_pipeline, dit_pipeline])
def test_everything_is_restored(make, how, monkeypatch):
    pipe = make()
    pipe.set_progress_bar_config(disable=True, desc="mine")
    unusual(pipe)
    parts = [denoiser_of(pipe), *([pipe.vae] if hasattr(pipe, "vae") else [])]
    before = [snapshot(part) for part in parts]
    options = {**QUICK, "num_trajectories": 2, "callback": stop_after(1 if how == "callback" else 9)}
    if how == "finished":
        learn(pipe, 3, 0.8, **options)
    else:
        error = {"callback": Stop, "scheduler": KeyboardInterrupt, "denoiser": Stop}[how]
        kind, name = (type(pipe.scheduler), "step") if how == "scheduler" else (type(parts[0]), "forward")
        plain, calls = getattr(kind, name), []

        def fail(self, *args, **kwargs):
            calls.append(1)
            if how != "callback" and len(calls) == {"scheduler": 5, "denoiser": 8}[how]:  # in mid-trajectory
                raise error
            return plain(self, *args, **kwargs)

        with monkeypatch.context() as patch, pytest.raises(error):
            patch.setattr(kind, name, fail)
            learn(pipe, 3, 0.8, **options)
    for part, was in zip(parts, before, strict=True):
        assert_unchanged(part, was)
    assert pipe._progress_bar_config == {"disable": True, "desc": "mine"}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_under_any_of_the_callers_modes(mode, usual):
    pipe = dit_pipeline()
    with mode():
        enabled = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        options = {"seed": 4, "call_kwargs": {"guidance_scale": 2.0}}
        assert learn(pipe, STEPS, 0.6, **options, **QUICK) == usual[0]
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == enabled


def test_bfloat16():
    pipe = dit_pipeline().to(torch.bfloat16)
    mask = learn(pipe, 3, 0.6, **QUICK)
    assert np.isfinite(mask.scores).all() and pipe.transformer.dtype == torch.bfloat16
    assert_cost(mask, pipe, 0.6)
    with stepmask.apply(pipe, mask):
        images = pipe([3], generator=generator(), num_inference_steps=3, output_type="pt").images
    assert images.isfinite().all()


# --- resuming


@pytest.mark.parametrize(("options", "done"), [({}, 1), ({"sampling": "gumbel", "sparse_weights": "macs"}, 3)])
def test_an_interrupted_run_goes_on_to_the_same_mask(options, done, tmp_path):
    options = {"target_macs": 0.6, **QUICK, "num_trajectories": 4, "batch_size": 1, **options}
    expected, path, seen = learn(dit_pipeline(), STEPS, **options), tmp_path / "state", []
    with pytest.raises(Stop):
        learn(dit_pipeline(), STEPS, resume=path, callback=stop_after(done), **options)
    mask = learn(dit_pipeline(), STEPS, resume=str(path), callback=seen.append, **options)
    assert mask == expected and mask.provenance["denoiser_calls"] == expected.provenance["denoiser_calls"]
    assert [report.trajectory for report in seen] == list(range(done + 1, 5))
    content = path.read_bytes()
    assert learn(dit_pipeline(), STEPS, resume=path, callback=stop_after(1), **options) == expected, "it is finished"
    assert path.read_bytes() == content


def test_interrupted_before_the_first_and_in_the_middle_of_a_trajectory(tmp_path):
    options = {"target_macs": 0.6, "resume": tmp_path / "state", **QUICK}
    expected = learn(ddim_pipeline(), STEPS, 0.6, **QUICK)
    for limit in (STEPS + 1, 2 * STEPS + 1):  # calls of the denoiser after those for the facts about steps
        pipe, calls = ddim_pipeline(), []

        def count(module, args, calls=calls, limit=limit):
            calls.append(1)
            if len(calls) > limit:
                raise Stop

        pipe.unet.conv_in.register_forward_pre_hook(count)
        with pytest.raises(Stop):
            learn(pipe, STEPS, **options)
    mask = learn(ddim_pipeline(), STEPS, **options)
    assert mask == expected and mask.provenance["denoiser_calls"] >= expected.provenance["denoiser_calls"]


# --- conditions


class Prompted(TwoCalls):
    """Needs what stepmask cannot invent."""

    @torch.no_grad()
    def __call__(self, prompt, num_inference_steps=50, generator=None):
        return super().__call__([len(word) for word in prompt], num_inference_steps, generator)


class Either(TwoCalls):
    """Takes prompts or embeddings, as real pipelines do, which refuse both."""

    tokenizer = "has one"

    @torch.no_grad()
    def __call__(self, prompt=None, prompt_embeds=None, num_inference_steps=50, generator=None):
        assert prompt is None
        return super().__call__(prompt_embeds.tolist(), num_inference_steps, generator)


def test_prompts_that_must_be_given_and_embeddings_in_the_place_of_drawn_ones():
    pipe = Prompted(tiny_model("DiTTransformer2DModel"), DDIMScheduler())
    check_refused(r"Prompted needs conditions .*\(prompt\): give call_kwargs", learn, pipe, 3, 0.6, **QUICK)
    assert learn(pipe, 3, 0.6, call_kwargs={"prompt": ["a", "bcd"]}, **QUICK).provenance["macs"] <= 0.6
    pipe = Either(tiny_model("DiTTransformer2DModel"), DDIMScheduler())
    mask = learn(pipe, 3, 0.6, call_kwargs={"prompt_embeds": torch.tensor([3, 7])}, **QUICK)
    assert mask.provenance["macs"] <= 0.6
