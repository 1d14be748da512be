"""Rules that decide during the run, at each step and for each image, whether the denoiser is called.

Images of a batch decide each for itself, as if it were sampled alone: those that compute are called together, the
others get what their rule gives. The two halves of a guided batch are one image. Positions and gates are stepmask's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from stepmask.gate import gated
from stepmask.inspection.registry import denoiser_of
from stepmask.runtime.position import PositionTracker, timestep_of
from stepmask.values import put_together, take_apart


class Rule(Protocol):
    """What one image does in one run; a sample has the shape (C, ...)."""

    def computes(self, row: int, sample: Tensor) -> bool:
        """Whether the denoiser is called at a row; asked once for each row, in order, from row 0 on."""
        ...

    def computed(self, row: int, sample: Tensor, output: Tensor) -> None:
        """Take notice of the output (H, C, ...) of the H conditions of the image, where it was."""
        ...

    def correction(self, row: int, sample: Tensor) -> Tensor | None:
        """What is added to the first C channels of the last output where it was not called; None for nothing."""
        ...


class AdaptiveRun:
    """Takes the place of every denoiser call.

    Args:
        scheduler: Returns the scheduler that drives the run.
        rule: Makes the rule of an image in a run of so many rows.

    Attributes:
        work: Of the images of all runs so far, the share of rows that were computed.
    """

    def __init__(self, scheduler: Callable[[], Any], rule: Callable[[int], Rule]) -> None:
        self._scheduler, self._rule = scheduler, rule
        self._tracker = PositionTracker()
        self._rules: list[Rule] = []
        self._outputs: dict[int, Any] = {}  # by stream, the latest for each image
        self._now: list[bool] = []
        self._count: list[list[bool]] = []

    @property
    def work(self) -> list[float]:
        """As above, of the run that goes on too."""
        images = [image for run in self._count for image in zip(*run, strict=True)]
        return [sum(image) / len(image) for image in images]

    def __call__(self, compute: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        """Call the denoiser for the images that compute, and put their outputs among the latest."""
        scheduler = self._scheduler()
        position = self._tracker.locate(scheduler, timestep_of(args, kwargs))
        sample = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.dim() > 1)
        if position.new_run:
            half = len(sample) // 2
            paired = len(sample) % 2 == 0 and torch.equal(sample[:half], sample[half:])
            self._rules = [self._rule(len(scheduler.timesteps)) for _ in range(half if paired else len(sample))]
            self._outputs = {}
            self._count.append([])
        images = len(self._rules)
        if position.stream == 0:
            self._now = [rule.computes(position.row, sample[i]) for i, rule in enumerate(self._rules)]
            self._count[-1].append(self._now)
        asked = [i for i in range(len(sample)) if self._now[i % images] or position.stream not in self._outputs]
        if len(asked) == len(sample):
            self._outputs[position.stream] = compute()
        elif asked:
            some = _taken((args, kwargs), asked, len(sample))
            found, _ = take_apart(compute(*some))
            latest, layout = take_apart(self._outputs[position.stream])
            index = torch.tensor(asked, device=sample.device)
            merged = [old.index_copy(0, index, new) for old, new in zip(latest, found, strict=True)]
            self._outputs[position.stream] = put_together(merged, layout)
        return self._handed_out(position.row, position.stream, sample, set(asked))

    def _handed_out(self, row: int, stream: int, sample: Tensor, asked: set[int]) -> Any:
        (output, *others), layout = take_apart(self._outputs[stream])
        images = len(self._rules)
        corrected = output
        for i, rule in enumerate(self._rules):
            places = list(range(i, len(sample), images))
            if i in asked:
                if stream == 0:
                    rule.computed(row, sample[i], output[places])
                continue
            correction = rule.correction(row, sample[i])
            if correction is not None:
                corrected = corrected.clone() if corrected is output else corrected
                for place in places:
                    corrected[place, : len(correction)] += correction
        return put_together([corrected, *others], layout)


@contextmanager
def adaptive(pipe: Any, rule: Callable[[int], Rule]) -> Iterator[AdaptiveRun]:
    """Let a rule decide which images the denoiser of a pipeline is called for, for a while.

    Args:
        pipe: A pipeline, or a `SamplerLoop`.
        rule: Makes the rule of an image in a run of so many rows.
    """
    run, denoiser = AdaptiveRun(lambda: pipe.scheduler, rule), denoiser_of(pipe)
    with gated([(type(denoiser).__name__, denoiser, run)]):
        yield run


def _taken(arguments: Any, places: list[int], size: int) -> Any:
    """The same arguments for some places of a batch: of each tensor that has one value for each place, those."""
    return tree_map_only(
        Tensor, lambda tensor: tensor[places] if tensor.dim() and len(tensor) == size else tensor, arguments
    )
