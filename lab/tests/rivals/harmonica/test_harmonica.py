"""HarmoniCa: masks within their target, draws by a threshold, and weights equal to a recomputation by plain hooks."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, HeunDiscreteScheduler

from fakes import TwoCalls, assert_unchanged, snapshot
from jobs import job_for
from stepmask import describe, learn, make_plan, measure_cost
from stepmask.inspection.overrides import without_decoder
from stepmask.inspection.registry import denoiser_of
from stepmask.inspection.sampler_loop import SamplerLoop
from stepmask.learning.interception import intercepted
from stepmask.learning.paper.losses import relative_norm
from stepmask_lab.rivals import HarmoniCa
from stepmask_lab.rivals.harmonica import learner as harmonica
from stepmask_lab.rivals.harmonica.learner import HarmoniCaLearner, _OneStepReused, squared_loss
from tiny import ddim_pipeline, ddpm_pipeline, dit_pipeline, generator, tiny_model

STEPS = 5
QUICK = {"method": "harmonica", "num_trajectories": 3, "batch_size": 2, "progress": False}
LABELS = {"class_labels": [3, 7]}
PIPELINES = {
    "DDIMPipeline": (ddim_pipeline, None),
    "DDPMPipeline": (ddpm_pipeline, None),
    "DiTPipeline": (dit_pipeline, LABELS),
    "Heun": (lambda: SamplerLoop(tiny_model("UNet2DModel"), HeunDiscreteScheduler()), None),
    "two calls": (lambda: TwoCalls(tiny_model("DiTTransformer2DModel"), DDIMScheduler()), LABELS),
    "two calls, the second late": (
        lambda: TwoCalls(tiny_model("DiTTransformer2DModel"), DDIMScheduler(), begin=2),
        LABELS,
    ),
}


def learner_for(name: str, steps: int = STEPS) -> HarmoniCaLearner:
    make, call_kwargs = PIPELINES[name]
    return HarmoniCaLearner(job_for(make(), steps, HarmoniCa(batch_size=2), call_kwargs=call_kwargs))


@pytest.mark.parametrize("make", [ddim_pipeline, dit_pipeline])
def test_masks_within_the_target(make):
    pipe = make()
    mask = learn(pipe, STEPS, 0.8, **QUICK)
    assert measure_cost(pipe).fraction(make_plan(mask, describe(pipe))) <= 0.8
    assert mask.provenance["config"]["threshold"] == 0.1 and mask.provenance["method"] == "harmonica"
    assert mask.is_binary


def test_draws_by_threshold_are_hard_with_a_straight_gradient():
    found = learner_for("DiTPipeline").draw(torch.tensor([0.0, 0.1, 0.2, 1.0]), generator())
    assert torch.equal(found.weight, torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(2, -1))
    assert torch.equal(found.refresh, found.weight.bool()) and (found.slope == 1).all()


def test_the_squared_loss():
    assert squared_loss(torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 1.0]])).item() == 2


# --- weights of the steps


@pytest.mark.parametrize("name", PIPELINES)
def test_what_was_recorded_plays_back_to_the_same_image(name):
    learner, computed = learner_for(name), []
    task, reused = learner.task, _OneStepReused(learner.task.description)

    def policy(step, site, compute, cache):
        return reused.policy(step, site, lambda: computed.append(step) or compute(), cache)

    with intercepted(task.pipe, task.graph, policy, reused):
        final = learner.sample_trajectory(0)
        assert computed
        computed.clear()
        reused.row = 10**6
        assert torch.equal(learner.sample_trajectory(0), final) and not computed, "everything is played back"


@torch.no_grad()
def brute_force(learner: HarmoniCaLearner, row: int) -> float:
    """What it does to the final image if every site holds its value at one row, by plain hooks."""
    pipe, denoiser = learner.task.pipe, learner.task.denoiser
    modules, values, position, recording = dict(denoiser.named_modules()), {}, 0, True

    def end_of_row(module, args, output):
        nonlocal position
        position += 1

    def swap_for(name):
        def swap(module, args, output):
            if recording:
                values[position, name] = output.clone()
                return None
            return values[row - 1, name] if position == row else None

        return swap

    hooks = [modules[name].register_forward_hook(swap_for(name)) for name in learner.task.graph.names]
    hooks.append(denoiser.register_forward_hook(end_of_row))
    images = []
    with without_decoder(pipe) as latents:
        for recording in (True, False):  # noqa: B007
            position = 0
            made = learner.sample_trajectory(0)
            images.append(latents[0].clone() if latents else made)
    for hook in hooks:
        hook.remove()
    full, held = images
    return relative_norm(held - full, full).mean().item()


@pytest.mark.parametrize(
    "name", ["DDIMPipeline", "DDPMPipeline", "DiTPipeline", pytest.param("Heun", marks=pytest.mark.slow)]
)
def test_weights_equal_a_recomputation(name):
    learner = learner_for(name)
    before = snapshot(denoiser_of(learner.task.pipe))
    ones, found = learner.step_facts()
    assert_unchanged(denoiser_of(learner.task.pipe), before)
    rows = learner.task.shape[0]
    assert found.shape == (rows,) and (ones == 1).all()
    moved = torch.tensor([brute_force(learner, row) for row in range(1, rows)]).square()
    assert torch.allclose(found[1:], moved / moved.mean(), rtol=1e-3)


def test_weights_between_probed_steps_are_interpolated_on_a_log_scale(monkeypatch):
    every = learner_for("DDIMPipeline", 7).step_facts()[1].log()
    monkeypatch.setattr(harmonica, "NUM_PROBED_STEPS", 3)
    some = learner_for("DDIMPipeline", 7).step_facts()[1].log()
    probed = np.unique(np.rint(np.linspace(1, 6, 3)).astype(int)).tolist()
    offset = some[probed] - every[probed]
    assert torch.allclose(offset, offset[:1].expand(3), atol=1e-4), "the same but for the common scale"
    between = torch.from_numpy(np.interp(np.arange(1, 7), probed, some[probed].numpy())).float()
    assert torch.allclose(some[1:], between, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "steps"), [("two calls, the second late", 5), ("DDIMPipeline", 1), ("DiTPipeline", 2)]
)
def test_where_nothing_can_be_probed_all_weigh_the_same(name, steps):
    """A stream begins late, or there is no row between the first and the last."""
    ones, found = learner_for(name, steps).step_facts()
    assert found.tolist() == ones.tolist() == [1.0] * steps
