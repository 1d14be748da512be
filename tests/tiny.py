"""Tiny models and pipelines with random weights, random masks, and a reference that runs masks without stepmask."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import diffusers
import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, DiTPipeline
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from stepmask import BlockGraph, StepMask, describe
from stepmask.inspection.registry import registered_architectures
from stepmask.mask import Action, scheduler_identity
from tiny_configs import TINY

OUTSIDE = ("sample", "hidden_states", "timestep")
"""What a sampling loop passes by itself."""

FEW = {"gains": 1, "num_probes": 1, "num_validation": 3, "num_held_back": 2, "num_moves": 0, "shrink": 0.4}
"""Options of a search on tiny models: few images, large steps, no moves of key steps."""

FEWEST = {**FEW, "gains": 0, "shrink": 0.7}
"""Where only that something is learned matters."""


def tiny_model(class_name: str, seed: int = 0) -> nn.Module:
    """A fresh instance of a registered family, in eval mode."""
    torch.manual_seed(seed)
    return getattr(diffusers, class_name)(**TINY[class_name]).eval()


def conditions(model: nn.Module, batch_size: int) -> dict:
    """Forward arguments that a sampling loop does not pass by itself, one value per image."""
    family = registered_architectures()[type(model).__name__]
    return {name: value for name, value in family.example_inputs(model, batch_size).items() if name not in OUTSIDE}


def ddim_pipeline(seed: int = 0) -> DDIMPipeline:
    return quiet(DDIMPipeline(unet=tiny_model("UNet2DModel", seed), scheduler=DDIMScheduler()))


def ddpm_pipeline(scheduler=None, seed: int = 0) -> DDPMPipeline:
    return quiet(DDPMPipeline(unet=tiny_model("UNet2DModel", seed), scheduler=scheduler or DDPMScheduler()))


def dit_pipeline(seed: int = 0) -> DiTPipeline:
    torch.manual_seed(seed)
    vae = AutoencoderKL(block_out_channels=(8,), latent_channels=4, norm_num_groups=4, sample_size=8).eval()
    transformer = tiny_model("DiTTransformer2DModel", seed)
    return quiet(DiTPipeline(transformer=transformer, vae=vae, scheduler=DDIMScheduler(clip_sample=False)))


def sample_of(args: tuple, kwargs: dict) -> torch.Tensor:
    """The noisy sample among the arguments of a denoiser call."""
    return args[0] if args else next(iter(kwargs.values()))


def nan_like(value):
    """NaN of the same shape; a tensor that stands there twice does so still."""
    made = {}
    return tree_map_only(Tensor, lambda t: made.setdefault(id(t), torch.full_like(t, torch.nan)), value)


def module_of(model: nn.Module, site: str) -> nn.Module:
    """The module that returns a site's value: of a list of blocks its last."""
    module = model.get_submodule(site)
    return module[-1] if isinstance(module, nn.ModuleList) else module


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_mask(
    model,
    scheduler,
    steps: int,
    seed: int = 0,
    share: float = 0.5,
    only_blocks: bool = False,
    forecasts: float = 0.0,
    nested: bool = True,
) -> StepMask:
    """Each cell computes with probability `share`, or halfway to 1 where the site contains others.

    Samplers take part unless `only_blocks`; sites that contain others unless not `nested`. Of the cells that do not
    compute, a share of `forecasts` extrapolates, with gains around 1.
    """
    graph = describe(model) if nested else describe(model).innermost
    scheduler.set_timesteps(steps)
    random = np.random.default_rng(seed)
    compute = random.random((len(scheduler.timesteps), len(graph))) < shares_of(graph, share)
    compute[0] = True
    if only_blocks:
        compute[:, [site.kind == "sampler" for site in graph.sites]] = True
    forecast = ~compute & (random.random(compute.shape) < forecasts)
    return mask_of(compute, graph, scheduler, forecast, random.uniform(0.5, 1.5, compute.shape))


def shares_of(graph, share: float) -> list[float]:
    return [(1 + share) / 2 if site in graph.within else share for site in range(len(graph))]


def mask_of(
    compute: np.ndarray, graph, scheduler, forecast: np.ndarray | None = None, gains: np.ndarray | None = None
) -> StepMask:
    return StepMask(
        compute=compute, forecast=forecast, gains=gains, sites=graph.names, timesteps=scheduler.timesteps,
        scheduler=scheduler_identity(scheduler), graph=graph.fingerprint,
    )  # fmt: skip


def with_channel_gains(mask: StepMask, model: nn.Module, run: Callable[[], object], seed: int = 0) -> StepMask:
    """The mask with random gains for the channels of its sites; `run` calls the model, to see how many there are."""
    random, widths = np.random.default_rng(seed), widths_of(model, mask.sites, run)
    return replace(mask, channel_gains={site: random.uniform(0.5, 1.5, width) for site, width in widths.items()})


def widths_of(model: nn.Module, sites: Sequence[str], run: Callable[[], object]) -> dict[str, int]:
    """By site how many channels its value has; `run` calls the model."""
    widths = {}

    def measure(site):
        def hook(module, args, output):
            parts = {id(part): part for part in tree_leaves(output) if isinstance(part, Tensor)}.values()
            widths[site] = sum(part.shape[1 if part.dim() > 3 else -1] for part in parts)

        return hook

    hooks = [module_of(model, site).register_forward_hook(measure(site)) for site in sites]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return widths


def with_weights(
    mask: StepMask,
    model: nn.Module,
    run: Callable[[], object],
    sites: Sequence[str],
    num_values: int = 3,
    seed: int = 0,
) -> StepMask:
    """The mask with random weights around those of a line for the forecasts of some sites, one for each channel."""
    widths = widths_of(model, sites, run)
    random = np.random.default_rng(seed)
    line = (np.arange(num_values) < 2)[:, None]
    weights = {site: line + random.uniform(-0.5, 0.5, (mask.num_rows, num_values, widths[site])) for site in sites}
    return replace(mask, weights=weights)


def computes_of(actions: np.ndarray, sites: Sequence[str]) -> np.ndarray:
    """(T, B) bool: what computes. Within a site that does not compute nothing does: a 1 there counts for nothing."""
    computes = actions == Action.compute
    for i, inner in enumerate(sites):
        for j, outer in enumerate(sites):
            if inner.startswith(f"{outer}."):
                computes[:, i] &= actions[:, j] == Action.compute
    return computes


def spread(factors: np.ndarray, value):
    """The value times (C,) factors, those of the channels of its tensors one after the other; or one for all."""
    rest, made = list(factors), {}

    def times(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            dim = 1 if tensor.dim() > 3 else -1
            mine = factors if len(factors) == 1 else [rest.pop(0) for _ in range(tensor.shape[dim])]
            made[id(tensor)] = (tensor.movedim(dim, -1) * torch.tensor(mine).to(tensor)).movedim(-1, dim)
        return made[id(tensor)]

    product = tree_map_only(Tensor, times, value)
    assert len(factors) == 1 or not rest
    return product


def newton(known: Sequence[tuple[int, object]], row: int, weights: np.ndarray):
    """A weighted forecast, by divided differences.

    Args:
        known: Values, the newest first, each with its row.
        row: Where it is asked for.
        weights: (K, C) factors of its terms, C may be 1.
    """
    rows, differences = [at for at, _ in known], [value for _, value in known]
    total, distance = spread(weights[0], differences[0]), 1.0
    for order in range(1, min(len(weights), len(known))):
        differences = [
            map_pairs(lambda older, newer, apart=newer_row - older_row: (newer - older) / apart, older, newer)
            for newer, older, newer_row, older_row in zip(
                differences, differences[1:], rows, rows[order:], strict=False
            )
        ]
        distance *= row - rows[order - 1]
        term = spread(weights[order], differences[0])
        total = map_pairs(lambda t, sum_, far=distance: sum_ + far * t, term, total)
    return total


def copies(value):
    """Copies of the tensors in a value; one that stands there twice is copied once."""
    made = {}
    return tree_map_only(Tensor, lambda tensor: made.setdefault(id(tensor), tensor.clone()), value)


def map_pairs(function: Callable, first, second):
    """The second value, each of its tensors in the place of that function of the first's and its own."""
    tensors, made = iter(leaf for leaf in tree_leaves(first) if isinstance(leaf, Tensor)), {}

    def map_pair(tensor):
        other = next(tensors)
        if id(tensor) not in made:
            made[id(tensor)] = function(other, tensor)
        return made[id(tensor)]

    return tree_map_only(Tensor, map_pair, second)


class Reference:
    """Runs a mask in the most obvious way: every site computes always, a hook swaps in the value of its last 1.

    Where the mask forecasts, it swaps in the line through the values of its last two, or a weighted sum of the last
    few. Within a site that does not compute nothing does: a 1 there counts for nothing. The loop that uses it sets
    `row`; a `stream` of its own has values of its own.
    """

    def __init__(self, model: nn.Module, mask: StepMask) -> None:
        self.row, self.stream = 0, 0
        self._mask, self._computed = mask, {}
        self._computes = computes_of(mask.actions, mask.sites)
        self._hooks = [module_of(model, name).register_forward_hook(self._hook(i)) for i, name in enumerate(mask.sites)]

    def _hook(self, site: int) -> Callable:
        def swap(module, args, output):
            values = self._computed.setdefault((self.stream, site), [])
            if self._computes[self.row, site]:
                values.append((self.row, output))
            row_1, newest = values[-1]
            if self._mask.forecast[self.row, site] and len(values) > 1:
                weights = (self._mask.weights or {}).get(self._mask.sites[site])
                if weights is not None:
                    return newton(values[::-1], self.row, weights[self.row])
                row_2, second = values[-2]
                gain = 1.0 if self._mask.gains is None else float(self._mask.gains[self.row, site])
                distance = gain * (self.row - row_1) / (row_1 - row_2)
                factors = (self._mask.channel_gains or {}).get(self._mask.sites[site])
                if factors is None:
                    return map_pairs(lambda a, b: torch.lerp(a, b, 1 + distance), second, newest)
                rest = list(factors)

                def line(old, new):
                    dim = 1 if new.dim() > 3 else -1
                    mine = torch.tensor([rest.pop(0) for _ in range(new.shape[dim])]).to(new)
                    weights = torch.ones_like(new).movedim(dim, -1).mul(1 + distance * mine).movedim(-1, dim)
                    return torch.lerp(old, new, weights)

                return map_pairs(line, second, newest)
            return newest

        return swap

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()


@contextlib.contextmanager
def reference(model: nn.Module, mask: StepMask) -> Iterator[Reference]:
    running = Reference(model, mask)
    try:
        yield running
    finally:
        running.remove()


def suffix(mask: StepMask, start: int) -> StepMask:
    """The mask as a run that starts late sees it: rows before are all ones and never run."""
    actions = mask.actions
    actions[: start + 1] = Action.compute
    return mask.with_actions(actions, **mask.forecasting())


@contextlib.contextmanager
def count_computes(model: nn.Module, names: Sequence[str], poison: tuple[int, str] | None = None) -> Iterator[list]:
    """Log (call, name) of every module among the sites that has run; `poison` turns the value of one of them into NaN.

    Wraps forwards, so enter it before a mask is applied and leave it after. A list of blocks runs where its first does.
    """
    log: list[tuple[int, str]] = []
    call = -1

    def next_call(module, args, kwargs):
        nonlocal call
        call += 1

    def wrap(module: nn.Module, names: Sequence[str]) -> None:
        original = module.forward

        def forward(*args, **kwargs):
            value = original(*args, **kwargs)
            log.extend((call, name) for name in names)
            return nan_like(value) if poison in [(call, name) for name in names] else value

        module.forward = forward

    modules = dict(model.named_modules())
    counted: dict[nn.Module, list[str]] = {}
    for name in names:
        module = modules[name]
        counted.setdefault(module[0] if isinstance(module, nn.ModuleList) else module, []).append(name)
    hook = model.register_forward_pre_hook(next_call, with_kwargs=True)
    for module, of_module in counted.items():
        wrap(module, of_module)
    try:
        yield log
    finally:
        hook.remove()
        for module in counted:
            del module.forward


def modules_of(graph: BlockGraph) -> list[str]:
    """Names of the sites that are modules with a forward of their own: all but lists of blocks."""
    return [site.name for site in graph.sites if site.kind != "stack"]
