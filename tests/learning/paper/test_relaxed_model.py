"""The relaxed model: the hard mask at scores 0 and 1, and gradients equal to autograd's through a written-out mixture.

`fakes.Mixture` keeps the whole graph that the learner does not keep.
"""

import copy
import gc

import pytest
import torch
from diffusers import DDIMScheduler, HeunDiscreteScheduler
from torch.utils._pytree import tree_leaves

import stepmask
from fakes import GrowingBatch, Mixture, TwoCalls, frozen
from gate import in_gate
from jobs import job_for
from stepmask import describe
from stepmask.inspection.describe import description_of
from stepmask.inspection.overrides import without_decoder
from stepmask.inspection.pipeline_call import PipelineCall
from stepmask.inspection.registry import denoiser_of
from stepmask.inspection.sampler_loop import SamplerLoop
from stepmask.learning import Paper
from stepmask.learning.interception import intercepted
from stepmask.learning.paper.learner import PaperLearner, _loss_scale, _Student
from stepmask.learning.paper.losses import feature_loss
from stepmask.learning.paper.relaxations import Draw, draw
from stepmask.learning.paper.relaxed_model import RelaxedPolicy
from stepmask.runtime.cache import Cache, Meter
from stepmask.runtime.sampling import sample
from tiny import conditions, ddim_pipeline, ddpm_pipeline, dit_pipeline, generator, random_mask, sample_of, tiny_model

FAMILIES = ("UNet2DModel", "DiTTransformer2DModel")
IMAGES = 2
PIPELINES = {
    "DDIMPipeline": ddim_pipeline,
    "DDPMPipeline": ddpm_pipeline,
    "DiTPipeline": dit_pipeline,
    "U-Net, Heun": lambda: SamplerLoop(tiny_model("UNet2DModel"), HeunDiscreteScheduler()),
    "DiT, DDIM": lambda: SamplerLoop(tiny_model("DiTTransformer2DModel"), DDIMScheduler()),
    "two calls": lambda: TwoCalls(tiny_model("DiTTransformer2DModel"), DDIMScheduler()),
    "two calls, the second late": lambda: TwoCalls(tiny_model("DiTTransformer2DModel"), DDIMScheduler(), begin=2),
    "the batch grows": lambda: GrowingBatch(tiny_model("DiTTransformer2DModel"), DDIMScheduler(), begin=2),
}


# --- scores of 0 and 1


@pytest.mark.parametrize("name", in_gate(PIPELINES, *list(PIPELINES)[::3]))
def test_scores_of_0_and_1_run_the_hard_mask(name):
    pipe = PIPELINES[name]()
    learner = learner_for(pipe, steps=4)
    mask = random_mask(denoiser_of(pipe), pipe.scheduler, 4, nested=False)
    with stepmask.apply(pipe, mask, eliminate_dead=False), without_decoder(pipe):
        hard = learner.sample_trajectory(1)
    with without_decoder(pipe):
        assert not torch.equal(hard, learner.sample_trajectory(1))
    for sampling in ("random", "interpolation"):
        learner = learner_for(pipe, steps=4, sampling=sampling)
        student = student_of(learner, torch.tensor(mask.compute).float())
        with torch.inference_mode(False), intercepted(pipe, learner.task.graph, learner.policy, student):
            assert torch.equal(learner.sample_trajectory(1), hard)
        assert student.mean_loss > 0


def learner_for(pipe, steps: int, **options) -> PaperLearner:
    conditional = {"class_labels": [3, 7]} if isinstance(pipe, TwoCalls) else {}
    return PaperLearner(job_for(pipe, steps, Paper(batch_size=IMAGES, **options), call_kwargs=conditional))


def student_of(learner: PaperLearner, scores: torch.Tensor) -> _Student:
    learner.tensors = {"scores": scores, "importance": torch.ones(len(scores))}
    return _Student(learner, 0)


# --- gradients


def used_output(model, output) -> torch.Tensor:
    """The part of a denoiser's output that the sampler uses."""
    return description_of(model).used_output(output)


def run_relaxed(model, weights: list[Draw | None]):
    """Run the relaxed model with given draws; returns the gradient, and each row's input, timestep and original."""
    calls = []
    policy = RelaxedPolicy(len(weights), len(describe(model).innermost))

    def on_call(position, forward):
        policy.row, policy.stream, policy.draw = position.row, position.stream, weights[position.row]
        policy.teacher = True
        original = forward()
        policy.teacher = False
        with torch.enable_grad():
            masked = forward()
            if position.row > 0:
                feature_loss(used_output(model, masked), used_output(model, original)).backward()
        calls.append(used_output(model, original))
        return (masked[0].detach(),)

    loop = SamplerLoop(model, DDIMScheduler())
    inputs = []
    hook = model.register_forward_pre_hook(
        lambda module, args, kwargs: inputs.append((sample_of(args, kwargs).clone(), kwargs["timestep"])),
        with_kwargs=True,
    )
    with intercepted(loop, describe(model).innermost, policy, on_call):
        loop(IMAGES, len(weights), generator(5), **conditions(model, IMAGES))
    hook.remove()
    return policy, inputs, calls


def losses_of(model, weights: torch.Tensor, inputs, originals, loss=feature_loss) -> list[torch.Tensor]:
    """Loss of every row after the first, differentiable by all weights (T, N, B)."""
    mixture = Mixture(model, weights)
    losses = []
    for mixture.row, ((x, t), original) in enumerate(zip(inputs, originals, strict=True)):
        output = model(x, timestep=t, return_dict=False, **conditions(model, IMAGES))
        if mixture.row > 0:
            losses.append(loss(used_output(model, output), original))
    mixture.remove()
    return losses


@pytest.mark.parametrize("name", FAMILIES)
def test_gradient_of_hard_draws_equals_autograd(name):
    """Four rows; images draw for themselves, with the straight-through gradient."""
    model = frozen(tiny_model(name))
    count = len(describe(model).innermost)
    scores = 0.2 + 0.6 * torch.rand(4, count, generator=generator(1))
    draws = [draw(row, IMAGES, "random", 0.5, generator(10 + i)) for i, row in enumerate(scores)]
    policy, inputs, originals = run_relaxed(model, draws)

    leaf = scores.clone().requires_grad_()
    hard = torch.stack([one.weight for one in draws])
    weights = hard + (leaf - leaf.detach())[:, None]
    (expected,) = torch.autograd.grad(sum(losses_of(copy.deepcopy(model), weights, inputs, originals)), leaf)
    assert (expected[1:] != 0).any(1).all()
    assert torch.allclose(policy.gradient, expected, rtol=2e-3, atol=1e-6 * expected.abs().max().item() + 1e-7)


@pytest.mark.parametrize("sampling", ["interpolation", "gumbel"])
@pytest.mark.parametrize("name", FAMILIES)
def test_gradient_of_soft_draws_equals_autograd(name, sampling):
    model = frozen(tiny_model(name))
    scores = 0.2 + 0.6 * torch.rand(2, len(describe(model).innermost), generator=generator(1))
    drawn = draw(scores[1], IMAGES, sampling, 0.5, generator(3))
    policy, inputs, originals = run_relaxed(model, [None, drawn])

    leaf = scores.clone().requires_grad_()
    if sampling == "interpolation":
        weights = leaf[:, None].expand(-1, IMAGES, -1)
    else:
        uniform = torch.rand(IMAGES, scores.shape[1], generator=generator(3))
        weights = torch.sigmoid((torch.logit(leaf)[:, None] + torch.logit(uniform)) / 0.5)
    (expected,) = torch.autograd.grad(sum(losses_of(copy.deepcopy(model), weights, inputs, originals)), leaf)
    scale = expected.abs().max().item()
    assert torch.allclose(policy.gradient, expected, rtol=2e-3, atol=1e-5 * scale)
    assert (policy.gradient[1] != 0).all() and (policy.gradient[0] == 0).all()


def test_gradient_of_interpolation_equals_finite_differences():
    """No autograd in the check: the loss is evaluated at shifted scores, in double precision."""
    model = frozen(tiny_model("DiTTransformer2DModel").double())
    scores, eps = torch.full((6,), 0.4), 1e-5
    policy, inputs, originals = run_relaxed(model, [None, draw(scores, IMAGES, "interpolation", 0.5, generator())])
    twin = copy.deepcopy(model)

    def loss(masked, original):  # Eq. 5, without the detour over float32
        return ((masked - original).flatten(1).norm(dim=1) / original.flatten(1).norm(dim=1)).mean()

    for site in range(6):
        values = []
        for shift in (-eps, eps):
            weights = scores.double().expand(2, IMAGES, -1).clone()
            weights[:, :, site] += shift
            with torch.no_grad():
                values.append(losses_of(twin, weights, inputs, originals, loss)[0].item())
        numerical = (values[1] - values[0]) / (2 * eps)
        assert policy.gradient[1, site].item() == pytest.approx(numerical, rel=1e-4)


# --- guidance


class Site:
    """One site on its own: hands the policy a feature per row."""

    def __init__(self, policy: RelaxedPolicy) -> None:
        self.policy = policy
        self.caches = {0: Cache(Meter()), 1: Cache(Meter())}

    def __call__(self, row, feature, stream=0):
        self.policy.row, self.policy.stream, self.policy.teacher = row, stream, False
        return self.policy(row, 0, lambda: feature, self.caches[stream])


def hard(*weights: float) -> Draw:
    weight = torch.tensor(weights)[:, None]
    return Draw(weight, torch.ones_like(weight), weight > 0.5)


def four_rows(**settings):
    """A site whose first of two images computes, in a batch of four."""
    policy = RelaxedPolicy(2, 1)
    for name, setting in settings.items():
        setattr(policy, name, setting)
    site = Site(policy)
    old, new = torch.zeros(4, 3), torch.arange(1.0, 13.0).view(4, 3)
    site(0, old)
    policy.draw = hard(1, 0)
    return policy, site, old, new, site(1, new)


def test_both_halves_of_batched_guidance_share_an_images_draw():
    policy, site, old, new, value = four_rows(copies=2)
    assert torch.equal(value.detach(), torch.stack([new[0], old[1], new[2], old[3]]))
    g = torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None].expand(4, 3)
    value.backward(g)
    assert policy.gradient[1, 0].item() == (g * new).sum().item()
    assert torch.equal(site.caches[0].get(0), value.detach())


def test_frames_share_the_draw_of_their_video():
    policy, _, old, new, value = four_rows(loss_scale=8.0)
    assert torch.equal(value.detach(), torch.stack([new[0], new[1], old[2], old[3]]))
    value.backward(8 * torch.ones(4, 3))
    assert policy.gradient[1, 0].item() == new.sum().item(), "the scale of the loss is taken back"


@pytest.mark.parametrize("size", [3 * 32 * 32, 4 * 128 * 128, 16 * 128 * 128])
def test_gradients_of_a_float16_output_do_not_vanish(size):
    output = torch.randn(1, size, generator=torch.Generator().manual_seed(0)).half()
    masked = (output + 0.02 * torch.randn(output.shape, generator=torch.Generator().manual_seed(1))).half()
    gradients = []
    for dtype in (torch.float16, torch.float64):
        value = masked.to(dtype).detach().clone().requires_grad_()
        scale = _loss_scale(value, 0.01)
        (feature_loss(value, output.to(dtype)) * 0.01 * scale).backward()
        gradients.append(value.grad.double() / scale)
    assert (gradients[0] - gradients[1]).norm() < 0.01 * gradients[1].norm()


def test_two_streams_have_caches_of_their_own():
    policy = RelaxedPolicy(3, 1)
    site = Site(policy)
    for stream in (0, 1):
        site(0, torch.full((1, 1), 100.0 * stream), stream)
    policy.draw = hard(1)
    for stream in (0, 1):
        site(1, torch.full((1, 1), 100.0 * stream + 1 + stream), stream)
    policy.draw = hard(0)
    values = [site(2, torch.full((1, 1), 100.0 * stream + 7), stream) for stream in (0, 1)]
    assert [value.item() for value in values] == [1, 102]
    values[0].backward(torch.tensor([[10.0]]))
    assert policy.gradient[:, 0].tolist() == [0, 0, 10 * (7 - 1)]
    values[1].backward(torch.tensor([[10.0]]))
    assert policy.gradient[:, 0].tolist() == [0, 0, 60 + 10 * (107 - 102)]


def test_tuples_of_tensors_are_mixed_part_by_part():
    policy = RelaxedPolicy(2, 1)
    site = Site(policy)
    site(0, (torch.zeros(2, 1), torch.zeros(2, 1, 1)))
    policy.draw = hard(0, 1)
    first, second = site(1, (torch.ones(2, 1), 2 * torch.ones(2, 1, 1)))
    assert first.flatten().tolist() == [0, 1] and second.flatten().tolist() == [0, 2]
    (first.sum() + 3 * second.sum()).backward()
    assert policy.gradient[1, 0].item() == 2 * 1 + 2 * 3 * 2, "every part and image, held ones too"


def test_gradients_of_a_stream_that_begins_late_land_in_their_rows():
    pipe = PIPELINES["two calls, the second late"]()
    learner = learner_for(pipe, steps=4, trajectory="teacher")
    gradients = {}
    for begin in (9, 2):
        pipe.begin = begin
        learner.policy.gradient.zero_()
        student = student_of(learner, torch.full((4, 6), 0.5))
        with intercepted(pipe, learner.task.graph, learner.policy, student):
            learner.sample_trajectory(1)
        gradients[begin] = learner.policy.gradient.clone()
        assert len(student._losses) == (3 if begin == 9 else 4), "no loss where a stream begins"
    assert torch.equal(gradients[9][:3], gradients[2][:3]), "the second stream begins at row 2 and mixes from row 3"
    assert not torch.equal(gradients[9][3], gradients[2][3])


# --- memory


@pytest.fixture
def others_frozen():
    """What was there before is not looked through: that takes long."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def live_tensors() -> int:
    gc.collect()
    return sum(type(thing) is torch.Tensor for thing in gc.get_objects())


def run_and_watch(steps: int, watch) -> None:
    pipe = dit_pipeline()
    learner = learner_for(pipe, steps)
    student = student_of(learner, torch.full((steps, 6), 0.7))

    def on_call(position, forward):
        output = student(position, forward)
        watch(position.row, learner.policy, output)
        return output

    with intercepted(pipe, learner.task.graph, learner.policy, on_call):
        sample(pipe, PipelineCall(pipe).drawn(IMAGES, generator()), range(IMAGES), steps)


def test_nothing_keeps_the_graph_of_a_step():
    caches = {}

    class Spy(Cache):
        def put(self, site, feature):
            super().put(site, feature)
            caches[id(self)] = self

    def watch(row, policy, output):
        leaves = tree_leaves([cache._values for cache in caches.values()])
        kept = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        assert len(kept) == 6
        assert not any(tensor.requires_grad for tensor in [*kept, policy.gradient, *tree_leaves(output)])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stepmask.runtime.executor.Cache", Spy)
        run_and_watch(5, watch)
    assert len(caches) == 1


def test_what_is_kept_does_not_grow_with_the_number_of_steps(others_frozen):
    counts: dict[int, dict[int, int]] = {6: {}, 12: {}}
    for steps, seen in counts.items():

        def watch(row, policy, output, seen=seen, last=steps - 1):
            if row in (0, 5, last):
                seen[row] = live_tensors()

        run_and_watch(steps, watch)
    assert counts[12][5] == counts[12][11], "from row 3 on everything is there that ever will be"
    assert counts[12][11] - counts[12][0] == counts[6][5] - counts[6][0] > 0
