"""Pipelines that no one ships, and a written-out differentiable mixture to hold the learner to."""

import warnings
from collections.abc import Iterator
from types import SimpleNamespace

import torch
from diffusers import DDIMScheduler, DiTTransformer2DModel
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from stepmask import describe
from tiny import dit_pipeline, tiny_model


class TwoCalls:
    """A class-conditional sampling loop whose guidance is a second denoiser call, from row `begin` on."""

    def __init__(self, transformer: nn.Module, scheduler, begin: int = 0) -> None:
        self.transformer, self.scheduler, self.begin = transformer, scheduler, begin

    @torch.no_grad()
    def __call__(self, class_labels, num_inference_steps=50, generator=None, guidance_scale=3.0):
        model, count = self.transformer, len(class_labels)
        size = model.config.sample_size
        self.scheduler.set_timesteps(num_inference_steps)
        sample = randn_tensor((count, model.config.in_channels, size, size), generator=generator, dtype=model.dtype)
        for row, t in enumerate(self.scheduler.timesteps):
            output = self._step_output(row, sample, t, torch.tensor(class_labels), guidance_scale)
            sample = self.scheduler.step(output, t, sample).prev_sample
        return SimpleNamespace(images=sample)

    def _step_output(self, row: int, sample: Tensor, t: Tensor, labels: Tensor, scale: float) -> Tensor:
        output = self._predict(sample, t, labels)
        if row < self.begin:
            return output
        null = self._predict(sample, t, torch.full_like(labels, 1000))
        return null + scale * (output - null)

    def _predict(self, sample: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        output = self.transformer(sample, timestep=t.expand(len(sample)), class_labels=labels).sample
        return output[:, : sample.shape[1]]


GUIDED = {  # pipeline and arguments of its call
    "guidance": lambda: (dit_pipeline(), {"guidance_scale": 3.0}),
    "two calls": lambda: (
        TwoCalls(tiny_model("DiTTransformer2DModel"), DDIMScheduler(clip_sample=False)), {"class_labels": [3, 7]},
    ),
}  # fmt: skip


class GrowingBatch(TwoCalls):
    """Guidance as one call of twice the batch, from row `begin` on."""

    def _step_output(self, row: int, sample: Tensor, t: Tensor, labels: Tensor, scale: float) -> Tensor:
        if row < self.begin:
            return self._predict(sample, t, labels)
        both = torch.cat([labels, torch.full_like(labels, 1000)])
        output, null = self._predict(torch.cat([sample] * 2), t, both).chunk(2)
        return null + scale * (output - null)


class DiTOfLists(DiTTransformer2DModel):
    """Takes samples and labels as lists too, and returns one."""

    def forward(self, hidden_states, timestep=None, class_labels=None, return_dict=True):
        if not isinstance(hidden_states, list):
            return super().forward(hidden_states, timestep, class_labels, return_dict=return_dict)
        labels = torch.stack(class_labels)[:, 0, 0]
        output = super().forward(torch.stack(hidden_states), timestep, labels, return_dict=False)[0]
        return (list(output.unbind()),)


class OneByOne(TwoCalls):
    """Without guidance; samples and labels come and go as lists, as Z-Image has them."""

    def __init__(self, transformer: DiTTransformer2DModel, scheduler) -> None:
        super().__init__(transformer, scheduler)
        transformer.__class__ = DiTOfLists

    def _step_output(self, row: int, sample: Tensor, t: Tensor, labels: Tensor, scale: float) -> Tensor:
        labels = list(labels[:, None, None])
        output = self.transformer(list(sample.unbind()), timestep=t.expand(len(sample)), class_labels=labels)[0]
        assert isinstance(output, list)
        return torch.stack(output)[:, : sample.shape[1]]


class Mixture:
    """Hooks on a model whose sites hand out ``w * fresh + (1 - w) * held``, differentiable by every row's weights.

    Held values, ``held' = w * fresh + (1 - w) * held``, are constants for the rows after: what `RelaxedPolicy` promises
    to compute without keeping any graph.
    """

    def __init__(self, model: nn.Module, weights: Tensor) -> None:
        """`weights` is (T, N, B) and may require grad."""
        self.row, self._weights = 0, weights
        self._held: dict[int, Tensor] = {}
        modules, names = dict(model.named_modules()), describe(model).innermost.names
        self._hooks = [modules[name].register_forward_hook(self._hook(i)) for i, name in enumerate(names)]

    def _hook(self, site: int):
        def swap(module, args, fresh):
            if self.row == 0:
                self._held[site] = fresh.detach()
                return fresh
            weight = self._weights[self.row, :, site]
            weight = weight.repeat(len(fresh) // len(weight)).view(-1, *[1] * (fresh.dim() - 1))
            held = self._held[site]
            self._held[site] = (weight * fresh + (1 - weight) * held).detach()
            return weight * fresh + (1 - weight) * held

        return swap

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()


def quantised_pipeline():
    """A DiT whose linear layers are of 8 bits, which let no gradient through."""
    pipe = dit_pipeline()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # announced to move to torchao
        pipe.transformer = torch.ao.quantization.quantize_dynamic(pipe.transformer, {torch.nn.Linear}, torch.qint8)
    return pipe


def frozen(model: nn.Module) -> nn.Module:
    return model.requires_grad_(False).eval()


def forwards(model: nn.Module) -> Iterator[tuple[str, bool, object]]:
    """What a learner must leave as it found it, module by module."""
    for name, module in model.named_modules():
        yield name, module.training, module.__dict__.get("forward")


def snapshot(model: nn.Module) -> tuple:
    """Weights, flags and forwards of a model, to compare before and after."""
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()]
    names = ("gradient_checkpointing", "_gradient_checkpointing_func")
    checkpointing = [{name: vars(m)[name] for name in names if name in vars(m)} for m in model.modules()]
    flags = [(name, p.requires_grad, p.grad is None) for name, p in model.named_parameters()]
    weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
    return list(forwards(model)), hooks, checkpointing, flags, weights


def assert_unchanged(model: nn.Module, before: tuple) -> None:
    after = snapshot(model)
    assert after[:-1] == before[:-1]
    for name, value in before[-1].items():
        assert torch.equal(value, after[-1][name]), name
