"""What a method of the benchmark is, and what it is run on. Knows no method in particular."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepmask.inspection.describe import describe
from stepmask.liveness import Plan
from stepmask.mask import StepMask
from stepmask.recipe import Recipe

TARGETS = (0.7, 0.6, 0.5, 0.4, 0.3)


@dataclass(frozen=True)
class Subject:
    """What masks are made for.

    Attributes:
        pipe: The pipeline.
        steps: Number of inference steps.
        call_kwargs: For its call.
        conditions: What is learned on; None for random classes or our prompts.
        targets: Budgets of methods that take one.
        state: Names a file for the state of a learning by its label; None keeps none.
    """

    pipe: Any
    steps: int
    call_kwargs: Mapping[str, Any] = field(default_factory=dict)
    conditions: Any = None
    targets: tuple[float, ...] = field(default_factory=lambda: TARGETS)
    state: Callable[[str], Path | None] = lambda label: None


@dataclass(frozen=True)
class Method:
    """A way to make masks.

    Attributes:
        name: As tables call it.
        settings: Of a subject: intervals, or budgets.
        make: Mask of a subject at a setting; learns or calibrates where it has to.
        seeds: Of learning; None alone where nothing is drawn.
        fits: Why a subject has no such masks; None where it has.
        refine: Makes the plan or the recipe that runs, where that is more than the mask.
    """

    name: str
    settings: Callable[[Subject], Sequence[str]]
    make: Callable[[Subject, str, int | None], StepMask]
    seeds: tuple[int | None, ...] = (None,)
    fits: Callable[[Subject], str | None] = lambda subject: None
    refine: Callable[[Subject, StepMask], Plan | Recipe] | None = None


@dataclass(frozen=True)
class Unmasked:
    """No mask: a pipeline that runs something of its own, from the same noise.

    Attributes:
        name: As tables call it.
        settings: Of a subject.
        running: Of a subject and a setting, for one call of the pipeline: a context manager that gives the pipeline to
            call and its number of steps. At its end, by an exception too, the subject's pipeline is as it was.
        fits: Why a subject cannot run so; None where it can.
    """

    name: str
    settings: Callable[[Subject], Sequence[str]]
    running: Callable[[Subject, str], AbstractContextManager[tuple[Any, int]]]
    fits: Callable[[Subject], str | None] = lambda subject: None
    seeds: tuple[None] = (None,)


@dataclass(frozen=True)
class Adaptive(Unmasked):
    """No mask either: whether a step computes is decided while it runs, and may differ from image to image.

    Attributes:
        deciding: As `running`, with a list besides, which gets the share of steps that each image computed.
    """

    deciding: Callable[[Subject, str, list[float]], AbstractContextManager[tuple[Any, int]]] = None

    @classmethod
    def of(cls, name: str, settings: Any, deciding: Any, fits: Any) -> Adaptive:
        """A method by what decides."""
        return cls(name, settings, lambda subject, setting: deciding(subject, setting, []), fits, deciding=deciding)


def budgets(subject: Subject) -> list[str]:
    """Settings of methods that take a budget."""
    return [f"{target:g}" for target in subject.targets]


def is_unet(pipe: Any) -> bool:
    """Whether the sites have levels, which DeepCache needs."""
    return describe(pipe).innermost.has_levels
