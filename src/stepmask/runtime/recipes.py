"""Runs a recipe inside the user's own pipeline.

The scheduler is told the run, the mask is applied as ever, and what the recipe says of resolution and guidance is done
around the calls of the denoiser, outside of the mask: where the size changes, its caches begin anew by themselves.
"""

from __future__ import annotations

import contextlib
from types import MethodType, TracebackType
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from stepmask.errors import StepMaskError, UnsupportedModelError
from stepmask.gate import Gates
from stepmask.inspection.registry import denoiser_of, denoisers_of
from stepmask.mask import check_scheduler
from stepmask.recipe import Recipe
from stepmask.runtime import apply as masks
from stepmask.runtime.callers import is_caller
from stepmask.runtime.compiled import is_compiled
from stepmask.runtime.given_run import GivenRun, follows_recipe
from stepmask.runtime.guided import Guided
from stepmask.runtime.handle import Handle
from stepmask.runtime.low_resolution import LowResolution
from stepmask.runtime.position import PositionTracker, timestep_of

_applied: WeakKeyDictionary[nn.Module, ref[RecipeHandle]] = WeakKeyDictionary()

MOST_SAID = 200
"""So many letters of what a denoiser raises are passed on."""
CALL = "_call_impl"
"""What calls a module's forward with its hooks around it."""


class RecipeHandle:
    """A recipe that is applied to a pipeline; a context manager that removes it.

    Attributes:
        recipe: What runs.
        mask: The handle of its mask, or None.
        changes_calls: Whether the denoiser is called with something else than the pipeline gives it.
    """

    def __init__(self, pipe: Any, recipe: Recipe, **options: Any) -> None:
        self.pipe, self.recipe = pipe, recipe
        self.mask: Handle | None = None
        self._denoiser, self._is_there = denoiser_of(pipe), False
        self._tracker = PositionTracker(lambda: is_caller(pipe))
        self._row = 0
        self._check()
        low, guidance = recipe.resolution, recipe.guidance
        self._low = None if low is None else LowResolution(low, self._denoiser, pipe.scheduler)
        name = type(pipe).__name__
        self._guided = None if guidance is None else Guided(guidance, recipe.mask is not None, self.release, name)
        self.changes_calls = self._low is not None or self._guided is not None
        self._call: MethodType | None = None
        self._gates: Gates | None = None
        self._hook: Any = None
        self._run = GivenRun(pipe.scheduler, recipe, self if self.changes_calls else None)
        try:
            if recipe.mask is not None:
                self.mask = masks.apply(pipe, recipe.mask, **options)
            self._put_around()
        except BaseException:
            self.remove()
            raise
        self._is_there = True

    def _check(self) -> None:
        """See that the pipeline has what the recipe needs.

        Raises:
            MaskMismatchError: It has another scheduler.
            UnsupportedModelError: It is compiled as a whole, or has a second denoiser.
        """
        recipe, name = self.recipe, type(self.pipe).__name__
        if recipe.scheduler is not None:
            check_scheduler(recipe.scheduler, self.pipe.scheduler, "recipe")
        if recipe.resolution is None and recipe.guidance is None:
            return
        if len(denoisers_of(self.pipe)) > 1:
            raise UnsupportedModelError(
                f"{name} has several denoisers, and a recipe's resolution and guidance are for one: leave them out"
            )
        parts = vars(self.pipe).values()
        if is_compiled(self._denoiser) or any(getattr(part, "_orig_mod", None) is self._denoiser for part in parts):
            raise UnsupportedModelError(
                f"the {type(self._denoiser).__name__} is compiled as a whole, and a recipe's resolution and guidance "
                "change what it is called with: compile its blocks instead, or leave them out"
            )

    def _put_around(self) -> None:
        """Come before each call of the denoiser, hooks and the gates of a mask included."""
        if not self.changes_calls:  # a hook does, which leaves compiled denoisers as they are
            self._hook = self._denoiser.register_forward_pre_hook(lambda *_: self._check_scheduler())
            return
        if CALL in vars(self._denoiser):
            raise UnsupportedModelError(
                f"something else answers the calls of the {type(self._denoiser).__name__}: undo that before a recipe "
                "is applied"
            )

        @torch.compiler.disable
        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            own = MethodType(getattr(type(module), CALL), module)
            if module is not self._denoiser:  # a copy is none of ours
                return own(*args, **kwargs)
            return self._called(own, args, kwargs)

        self._call = MethodType(call, self._denoiser)
        if self._low is not None and self._low.relabels:  # within the mask, which knows the rows by their timesteps
            self._gates = Gates([(type(self._denoiser).__name__, self._denoiser, self._relabel)])
        setattr(self._denoiser, CALL, self._call)

    def _called(self, compute: Any, args: tuple, kwargs: dict) -> Any:
        self._check_scheduler()
        position = self._tracker.locate(self.pipe.scheduler, timestep_of(args, kwargs))
        self._row = position.row
        if position.new_run:
            self._begin(position.row, args, kwargs)
        if self._guided is not None and position.stream > 0:
            raise self._guided.not_guided()
        if self._low is None or not self._low.is_low(position.row):
            return self._guide(compute, args, kwargs)
        args, kwargs = self._low.small(args, kwargs)
        try:
            output = self._guide(compute, args, kwargs)
        except RuntimeError as error:
            reason = next(iter(str(error).splitlines()), "")[:MOST_SAID]
            raise UnsupportedModelError(
                f"the {type(self._denoiser).__name__} cannot run at low resolution as {type(self.pipe).__name__} calls "
                f"it ({reason}): leave the recipe's resolution out"
            ) from error
        return self._low.large(output)

    @torch.compiler.disable
    def _check_scheduler(self) -> None:
        if not follows_recipe(self.pipe.scheduler):
            raise StepMaskError(
                "the pipeline has another scheduler than when the recipe was applied, so that it runs without it: "
                "remove the recipe, and apply it again"
            )

    def _relabel(self, compute: Any, args: tuple, kwargs: dict) -> Any:
        if not self._low.is_low(self._row):
            return compute()
        return self._low.relabelled(self.pipe.scheduler, self._row, compute, args, kwargs)

    def _guide(self, compute: Any, args: tuple, kwargs: dict) -> Any:
        if self._guided is None:
            return compute(*args, **kwargs)
        return self._guided.call(self._row, compute, args, kwargs)

    def _begin(self, row: int, args: tuple, kwargs: dict) -> None:
        if row != 0:
            raise StepMaskError(
                f"the run begins at step {row} (image to image?), and a recipe's resolution and guidance are for runs "
                "that begin with noise: leave them out"
            )
        if self._low is not None:
            self._low.begin(args, kwargs)
        if self._guided is not None:
            self._guided.begin(kwargs)

    def stepping(self, scheduler: Any) -> contextlib.AbstractContextManager[None]:
        """Around a step of the scheduler."""
        return contextlib.nullcontext() if self._low is None else self._low.stepping(scheduler, self._row)

    def after_step(self, scheduler: Any, output: Tensor, sample: Tensor, following: Tensor) -> Tensor:
        """The sample that follows a step; see `LowResolution.after_step`."""
        if self._guided is not None:
            small = self._low is not None and self._low.is_low(self._row)
            self._guided.after_step(self._row, self._low.picked(output) if small else output)
        if self._low is None:
            return following
        return self._low.after_step(scheduler, self._row, output, sample, following)

    def release(self) -> None:
        """Let go of all cached values; the recipe stays applied."""
        if self.mask is not None:
            self.mask.release()

    def remove(self) -> None:
        """Restore the pipeline; a second call does nothing."""
        if self._call is not None and vars(self._denoiser).get(CALL) is self._call:
            delattr(self._denoiser, CALL)
        if self._hook is not None:
            self._hook.remove()
        if self._gates is not None:
            self._gates.remove()
        if self.mask is not None:
            self.mask.remove()
        self._run.remove()
        self._is_there = False
        found = _applied.get(self._denoiser)
        if found is not None and found() is self:
            del _applied[self._denoiser]

    def __enter__(self) -> RecipeHandle:
        if not self._is_there:
            raise StepMaskError("this recipe was removed from the pipeline: apply it again")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def apply_recipe(pipe: Any, recipe: Recipe, **options: Any) -> RecipeHandle:
    """`stepmask.apply` for a recipe; options are those for its mask."""
    masks.remove(pipe)
    handle = RecipeHandle(pipe, recipe, **options)
    _applied[denoiser_of(pipe)] = ref(handle)
    return handle


def remove_recipe(pipe: Any) -> None:
    """Remove the recipe that is applied to a pipeline, whoever holds its handle; none is fine too."""
    handle = recipe_on(denoiser_of(pipe))
    if handle is not None:
        handle.remove()


def recipe_on(denoiser: nn.Module) -> RecipeHandle | None:
    """The handle of the recipe that is applied to a denoiser."""
    found = _applied.get(denoiser)
    return None if found is None else found()
