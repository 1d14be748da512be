"""Guidance step by step: which of the two halves of a guided call compute, and what stands for the other.

Pipelines that guide in one call give the denoiser each image twice, once with its conditions and once without. Where
the half without is not to compute, what is handed out for it makes the pipeline's own formula come out right: the
conditional half itself for no guidance, or that less the difference of the halves at an earlier step. Which half is
which is seen at the first step, from what the pipeline makes of both.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from stepmask.errors import StepMaskError
from stepmask.inspection.inputs import first_sample, rows_per_sample
from stepmask.recipe import FORECAST, FULL, OFF
from stepmask.values import put_together, take_apart

Compute = Callable[..., Any]

ON_LINE = 0.02
"""What a pipeline makes of both halves may be so far off the line through them, as a share of its length."""


class Guided:
    """What a recipe's guidance does at the calls of a denoiser, run by run.

    Args:
        letters: One for each step, as `Recipe.guidance` has them.
        apart: Whether the halves are two calls of their own at all steps, so that a mask has values of its own for
            each.
        on_wrong_guess: Called where the halves are not in the order in which they were called apart so far.
        name: What errors call the pipeline.
    """

    def __init__(self, letters: str, apart: bool, on_wrong_guess: Callable[[], None], name: str) -> None:
        self._letters, self._apart, self._on_wrong_guess, self._name = letters, apart, on_wrong_guess, name
        self._conditional = 1  # which half, as most have it; what a run has shown stays
        self._known: list[tuple[int, list[Tensor]]] = []  # differences, the newest first, with their rows
        self._first: tuple[Tensor, Tensor] | None = None  # both halves at the first step, until they are told apart

    def begin(self, kwargs: dict) -> None:
        """A run begins with these arguments of the denoiser's call."""
        self._known, self._first = [], None
        labels = kwargs.get("class_labels")
        if isinstance(labels, Tensor) and labels.numel() and bool((labels.chunk(2)[-1] == labels.max()).all()):
            self._conditional = 0  # DiT has the null class, which is the last, in the second half

    def call(self, row: int, compute: Compute, args: tuple, kwargs: dict) -> Any:
        """What the denoiser hands out at a row.

        Raises:
            StepMaskError: The call does not hold two halves.
        """
        letter, which = self._letters[row], self._conditional
        if letter != FULL:
            conditional, layout = take_apart(self._half(which, compute, args, kwargs))
            difference = [torch.zeros_like(one) for one in conditional]
            if letter != OFF:
                difference = self._difference(row, letter)
            other = [one - apart for one, apart in zip(conditional, difference, strict=True)]
            return put_together([_joined(pair, which) for pair in zip(conditional, other, strict=True)], layout)
        if self._apart:
            conditional, layout = take_apart(self._half(which, compute, args, kwargs))
            other, _ = take_apart(self._half(1 - which, compute, args, kwargs))
            pairs = [_joined(pair, which) for pair in zip(conditional, other, strict=True)]
        else:
            pairs, layout = take_apart(compute(*args, **kwargs))
            halves = [pair.chunk(2) for pair in pairs]
            conditional, other = [half[which] for half in halves], [half[1 - which] for half in halves]
        if row == 0:
            self._first = conditional[0], other[0]
        self._known = [(row, [c - u for c, u in zip(conditional, other, strict=True)]), *self._known[:1]]
        return put_together(pairs, layout)

    def after_step(self, row: int, output: Tensor) -> None:
        """See, after the first step, what the pipeline has made of both halves.

        Raises:
            StepMaskError: It was no guidance of two halves of one call.
        """
        if row or self._first is None:
            return
        (conditional, other), self._first = self._first, None
        guided = output[:, : conditional.shape[1]]
        doubled = len(guided) == 2 * len(conditional)  # DiT carries each image twice
        if doubled and torch.equal(*guided.chunk(2)):
            guided = guided.chunk(2)[0]
        if guided.shape[0] != conditional.shape[0]:
            raise self.not_guided()
        conditional, other = (half[:, : guided.shape[1]].float() for half in (conditional, other))
        line = conditional - other
        scale = ((guided.float() - other) * line).sum() / line.square().sum().clamp_min(1e-30)
        off = (guided.float() - other - scale * line).norm() / (scale * line).norm().clamp_min(1e-30)
        if not off < ON_LINE:
            raise StepMaskError(
                f"{self._name} does more with the two halves of guidance than to go along the line through them "
                "(rescaled guidance?), so that no half can be left out: leave the recipe's guidance out"
            )
        if scale < 0.5:  # beyond the other half: that is the conditional one
            self._conditional = 1 - self._conditional
            self._known = [(at, [-one for one in difference]) for at, difference in self._known]
            if self._apart:
                self._on_wrong_guess()

    def _half(self, which: int, compute: Compute, args: tuple, kwargs: dict) -> Any:
        """What the denoiser computes for one half of the batch."""
        sample = first_sample([*args, *kwargs.values()])
        if not isinstance(sample, Tensor) or len(sample) % 2:
            raise self.not_guided()

        def half(value: Tensor) -> Tensor:
            return value.chunk(2)[which] if rows_per_sample(value, sample) else value

        with warnings.catch_warnings():  # that some rows have one call and others two is meant
            warnings.filterwarnings("ignore", message="the denoiser was called .* times at row 0")
            return compute(*tree_map_only(Tensor, half, args), **tree_map_only(Tensor, half, kwargs))

    def _difference(self, row: int, letter: str) -> list[Tensor]:
        newest_row, newest = self._known[0]
        fits = len(self._known) > 1 and self._known[1][1][0].shape == newest[0].shape
        if letter != FORECAST or not fits:
            return newest
        older_row, older = self._known[1]
        distance = (row - newest_row) / (newest_row - older_row)
        return [new + distance * (new - old) for new, old in zip(newest, older, strict=True)]

    def not_guided(self) -> StepMaskError:
        """What to raise where a call does not hold two halves."""
        return StepMaskError(
            f"guidance step by step needs both halves in one call of the denoiser, and {self._name} does not call it "
            "so (guidance is off, runs as two calls, or has more than two parts): leave the recipe's guidance out"
        )


def _joined(pair: tuple[Tensor, Tensor], which: int) -> Tensor:
    """Both halves in the pipeline's order; the first of the pair is number `which`."""
    return torch.cat(pair if which == 0 else pair[::-1])
