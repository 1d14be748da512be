"""Random models whose sites nest: lists of blocks, blocks and branches, with skips, residuals and two streams."""

import numpy as np
import torch
from torch import Tensor, nn

WIDTH = 4


class Branch(nn.Module):
    """An innermost site: a layer of several values."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.layer = nn.Linear(count * WIDTH, WIDTH)

    def forward(self, *values: Tensor) -> Tensor:
        return self.layer(torch.cat(values, -1)).tanh()


class Block(nn.Module):
    """Parts that read each other; returns one value, or two, perhaps twice the same."""

    def __init__(self, random: np.random.Generator, depth: int, two_streams: bool) -> None:
        super().__init__()
        self._reads, self._two_streams, self._names = [], two_streams, []
        for number in range(random.integers(1, 3)):
            # at most the last few, so that what was made before is dead at times
            reads = random.permutation(np.arange(number + 3))[: random.integers(1, 3)].tolist()
            inner = depth > 0 and random.random() < 0.3
            part = piece(random, depth - 1, two_streams) if inner else Branch(len(reads))
            self._names.append(f"{'inner' if inner else 'branch'}{number}")
            self.add_module(self._names[-1], part)
            self._reads.append((reads, bool(random.random() < 0.4)))
        self._last = random.integers(0, len(self._reads) + 1, 2).tolist()
        self._returns_alias = bool(random.random() < 0.3)

    def forward(self, main: Tensor, other: Tensor, step: Tensor):
        pool = [step, other, main]
        for name, (reads, residual) in zip(self._names, self._reads, strict=True):
            part = getattr(self, name)
            if isinstance(part, Branch):
                made = part(*(pool[i] for i in reads))
            else:
                made, other = run(part, pool[reads[0]], other, step)
            pool.append(pool[reads[0]] + made if residual else made)
        main = pool[-1] if self._returns_alias else pool[-1] + pool[2 + self._last[0]]
        if not self._two_streams:
            return main
        return main, (main if self._returns_alias else other + pool[2 + self._last[1]])


def piece(random: np.random.Generator, depth: int, two_streams: bool) -> nn.Module:
    """A block, or a list of them."""
    if random.random() < 0.5:
        return Block(random, depth, two_streams)
    return nn.ModuleList(Block(random, depth, two_streams) for _ in range(2))


def run(part: nn.Module, main: Tensor, other: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Both streams after a block or a list of them."""
    for block in part if isinstance(part, nn.ModuleList) else [part]:
        made = block(main, other, step)
        main, other = made if isinstance(made, tuple) else (made, other)
    return main, other


class Nest(nn.Module):
    """A denoiser of such parts, one after the other, that read each other's values too."""

    def __init__(self, seed: int, two_streams: bool = False) -> None:
        super().__init__()
        torch.manual_seed(seed)
        random = np.random.default_rng(seed)
        self.embed, self.head = nn.Linear(1, WIDTH), nn.Linear(WIDTH, WIDTH)
        self._count, self._skips = int(random.integers(1, 4)), []
        for number in range(self._count):
            self.add_module(f"part{number}", piece(random, 1, two_streams))
            self._skips.append(int(random.integers(0, number + 1)) if random.random() < 0.5 else None)
        self._takes_other = two_streams and bool(random.random() < 0.5)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        step = self.embed(t[:, None].to(x) / 1000)
        known, main, other = [x], x, step
        for number, skip in enumerate(self._skips):
            if skip is not None:
                main = main + known[skip]
            main, other = run(getattr(self, f"part{number}"), main, other, step)
            known.append(main)
        return self.head(main + other if self._takes_other else main)

    @property
    def branches(self) -> list[str]:
        """Names of the innermost sites."""
        return [name for name, module in self.named_modules() if isinstance(module, Branch)]
