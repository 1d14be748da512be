"""A model that stepmask has never seen, and that is not from diffusers: patterns say which of its layers are sites."""

import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor, nn

import stepmask


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.norm1(x + embedding)
        x = x + self.attn(h, h, h, need_weights=False)[0]
        return x + self.mlp(self.norm2(x + embedding))


class Denoiser(nn.Module):
    """A transformer over 8 x 8 patches of a 32 x 32 image, as you would write it yourself; here with random weights."""

    def __init__(self, width: int = 96, depth: int = 4) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, 4)
        self.position = nn.Parameter(torch.randn(64, width) / 10)
        self.time = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width))
        self.layers = nn.ModuleList(Block(width, 4) for _ in range(depth))
        self.out = nn.ConvTranspose2d(width, 3, 4, 4)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h = self.patch(x).flatten(2).transpose(1, 2) + self.position
        embedding = self.time(t[:, None].float() / 1000)[:, None]
        for layer in self.layers:
            h = layer(h, embedding)
        return self.out(h.transpose(1, 2).unflatten(2, (8, 8)))


def main(steps: int = 20, **options) -> None:
    torch.manual_seed(0)
    model, scheduler = Denoiser().eval(), DPMSolverMultistepScheduler()
    inputs = {"x": torch.randn(1, 3, 32, 32), "t": torch.tensor([500])}
    graph = stepmask.register_sites(model, ["layers.*.attn", "layers.*.mlp"], example_inputs=inputs)
    print(f"{len(graph)} sites; the first is read by {graph.readers(0)}, where -1 is the output")

    mask = stepmask.learn(model, steps, target_macs=0.5, scheduler=scheduler, **options)
    scheduler.set_timesteps(steps)
    sample = torch.randn(2, 3, 32, 32)
    with torch.no_grad(), stepmask.apply(model, mask, scheduler=scheduler) as run:
        for timestep in scheduler.timesteps:
            sample = scheduler.step(model(sample, timestep.expand(2)), timestep, sample).prev_sample
    print(run.summary())


if __name__ == "__main__":
    main()
