"""What pipelines hand to their denoisers, found without running them."""

from types import SimpleNamespace

import torch

import stepmask
from stepmask import measure_cost
from stepmask.inspection.first_step import first_step, one_sample
from stepmask.inspection.inputs import chosen_samples
from stepmask.inspection.sampler_loop import SamplerLoop
from stepmask.learning.end_to_end.gradients.chain import Chain
from tiny import ddim_pipeline, dit_pipeline, generator, random_mask


def never(*args, **kwargs):
    raise AssertionError("the denoiser computed something")


def test_one_sample_of_the_call(monkeypatch):
    pipe = dit_pipeline()
    before = pipe.scheduler, pipe.transformer.forward
    monkeypatch.setattr(pipe.transformer.transformer_blocks[0], "forward", never)
    state = torch.get_rng_state()
    found, forwards = first_step(pipe, {"class_labels": [3, 4], "guidance_scale": 2.0})
    assert forwards == 2
    assert torch.equal(torch.get_rng_state(), state), "random numbers are as they were"
    assert found["hidden_states"].shape == (1, 4, 8, 8) and found["class_labels"].tolist() == [3]
    assert pipe.scheduler is before[0] and pipe.scheduler.num_inference_steps is None
    assert not pipe.transformer._forward_pre_hooks
    monkeypatch.undo()
    assert pipe.transformer.forward == before[1]


def test_what_comes_once_for_each_frame_belongs_to_its_sample():
    """Texts of AnimateDiff, of two videos of three frames."""
    texts = torch.arange(6)[:, None, None].expand(6, 4, 8)
    given = {"sample": torch.zeros(2, 4, 3, 8, 8), "timestep": torch.tensor([7]), "encoder_hidden_states": texts}
    chosen = chosen_samples(given, [1, 0])
    assert chosen["encoder_hidden_states"][:, 0, 0].tolist() == [3, 4, 5, 0, 1, 2]
    assert chosen["sample"].shape == given["sample"].shape and chosen["timestep"].tolist() == [7]
    positions = torch.zeros(6, 3)
    assert chosen_samples({"sample": torch.zeros(2, 4, 8, 8), "ids": positions}, [0])["ids"] is positions
    # the same of copies that learning makes of images: of each text the first
    chain = SimpleNamespace(copies=2, num_images=1)
    assert Chain._first_copy(chain, texts, given["sample"])[:, 0, 0].tolist() == [0, 1, 2]


def test_conditions_may_come_in_any_sequence():
    pipe = dit_pipeline()
    one = measure_cost(pipe, call_kwargs={"class_labels": [3], "guidance_scale": 2.0})
    for labels in ([3, 4, 5], (3, 4, 5), torch.tensor([3, 4, 5])):
        cost = measure_cost(pipe, call_kwargs={"class_labels": labels, "guidance_scale": 2.0})
        assert (
            cost.step_macs == one.step_macs
            and cost.forwards_per_image == 2
            and cost.value_bytes.sum() == one.value_bytes.sum()
        )


def test_drawn_conditions_will_do():
    assert set(first_step(dit_pipeline()).inputs) >= {"hidden_states", "timestep", "class_labels"}
    assert first_step(ddim_pipeline()).inputs["sample"].shape == (1, 3, 16, 16)


def test_what_cannot_be_started_has_none():
    pipe = dit_pipeline()
    assert first_step(pipe, {"no_such_argument": 1}) == (None, 2), "by the default guidance"
    assert first_step(pipe.transformer) == (None, 1)
    assert first_step(SamplerLoop(pipe.transformer, pipe.scheduler)) == (None, 1)


def test_a_denoiser_that_cannot_run_without_numbers():
    """Its inputs are known by then; how many forwards there are is left to the arguments of the call."""
    pipe = dit_pipeline()

    class ByValue(type(pipe.transformer)):
        def forward(self, hidden_states, **kwargs):
            assert hidden_states.sum().item()
            return super().forward(hidden_states, **kwargs)

    pipe.transformer.__class__ = ByValue
    inputs, forwards = first_step(pipe, {"class_labels": [3], "guidance_scale": 2.0})
    assert forwards == 2 and inputs["hidden_states"].shape == (1, 4, 8, 8)


def test_one_sample_of_a_batch_or_a_list():
    model, tensor, labels = dit_pipeline().transformer, torch.ones(2, 4, 8, 8), torch.ones(2)
    assert one_sample(model, (tensor,), {"class_labels": labels})["class_labels"].shape == (1,)
    others = {"class_labels": labels, "timestep": list(torch.ones(2, 3, 5)), "cross_attention_kwargs": {"a": labels}}
    found = one_sample(model, (list(tensor),), others)
    assert [one.shape for one in found["hidden_states"]] == [(4, 8, 8)] and found["class_labels"].shape == (1,)
    assert [one.shape for one in found["timestep"]] == [(3, 5)] and found["cross_attention_kwargs"]["a"].shape == (1,)
    residuals = one_sample(model, (tensor,), {"class_labels": list(torch.ones(2, 2, 3))})["class_labels"]
    assert [one.shape for one in residuals] == [(1, 3)] * 2, "several tensors with a batch, beside a batch"
    assert one_sample(model, (labels,), {"class_labels": labels}) is None


def test_one_sample_of_lists_of_pictures():
    """Each sample of Z-Image Omni is a list: the pictures it is made from, and its own noise."""
    pictures = [[torch.zeros(4, 1, 2, 2), torch.ones(4, 1, 4, 4)], [torch.ones(4, 1, 4, 4)]]
    chosen = chosen_samples({"x": pictures, "t": torch.tensor([1.0, 2.0]), "noisy": [[0, 1], [1]], "seen": None}, [1])
    assert len(chosen["x"]) == 1 and chosen["x"][0][0] is pictures[1][0]
    assert chosen["t"].tolist() == [2.0] and chosen["noisy"] == [[1]] and chosen["seen"] is None


def test_costs_are_those_of_the_sizes_that_run():
    pipe = ddim_pipeline()
    small = measure_cost(pipe)
    pipe.unet.register_to_config(sample_size=32)
    large = measure_cost(pipe)
    # 4 times the pixels: convolutions cost 4 times as much, attention more
    assert 4 < large.step_macs / small.step_macs < 6
    assert large.value_bytes.sum() == 4 * small.value_bytes.sum()


def test_an_applied_mask_does_not_notice():
    pipe = ddim_pipeline()
    mask = random_mask(pipe, pipe.scheduler, 4)
    with stepmask.apply(pipe, mask) as run:
        wanted = pipe(num_inference_steps=4, generator=generator(), output_type="np").images
        first = run.summary()
        assert (pipe(num_inference_steps=4, generator=generator(), output_type="np").images == wanted).all()
        assert run.summary() == first
