"""What is compared: learned masks at several budgets, and the rivals at their settings."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stepmask.architectures import describe
from stepmask.errors import StepMaskError
from stepmask.family import MaskFamily
from stepmask.learning import learn, learn_family
from stepmask.mask import StepMask
from stepmask.schedules import deepcache, fora

TARGETS = (0.7, 0.6, 0.5, 0.4, 0.3)
INTERVALS = (2, 3, 4, 5)
SEEDS = (0, 1)
BINARY_SEEDS = (0,)
ROUNDS: int | None = 3
"""Refining rounds at each target; None for the default."""
TRAJECTORIES = 8
PAPER_STEPS = 20
"""The paper's learner is compared up to so many steps: it costs as much as ours."""


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
    """

    name: str
    settings: Callable[[Subject], Sequence[str]]
    make: Callable[[Subject, str, int | None], StepMask]
    seeds: tuple[int | None, ...] = (None,)
    fits: Callable[[Subject], str | None] = lambda subject: None


@dataclass(frozen=True)
class FamilyMethod:
    """A method whose masks of all budgets come from one pass.

    Attributes:
        name: As tables call it.
        forecast: Whether cells may forecast.
        seeds: Of learning.
    """

    name: str
    forecast: bool
    seeds: tuple[int, ...]

    def settings(self, subject: Subject) -> Sequence[str]:
        """The budgets."""
        return [f"{target:g}" for target in subject.targets]

    def family(self, subject: Subject, seed: int) -> MaskFamily:
        """Learn all budgets."""
        options = {} if ROUNDS is None else {"rounds": ROUNDS}
        return learn_family(
            subject.pipe,
            subject.steps,
            subject.targets,
            seed=seed,
            call_kwargs=subject.call_kwargs,
            conditions=subject.conditions,
            resume=subject.state(f"{self.label}-seed{seed}"),
            forecast=self.forecast,
            **options,
        )

    @property
    def label(self) -> str:
        """Of its files."""
        return "family" if self.forecast else "family-hold-only"

    def fits(self, subject: Subject) -> str | None:
        """Always."""
        return None


def methods() -> list[Method | FamilyMethod]:
    """All methods, in the order of tables."""
    intervals = lambda subject: [f"1:{k}" for k in INTERVALS]  # noqa: E731
    found: list[Method | FamilyMethod] = []
    for forecast, suffix in ((None, ""), ("linear", " + forecast")):
        for name, schedule, fits in (("FORA", fora, lambda subject: None), ("DeepCache", deepcache, _needs_levels)):

            def make(
                subject: Subject, setting: str, seed: int | None, rule: Any = schedule, how: Any = forecast
            ) -> Any:
                return rule(subject.pipe, subject.steps, int(setting.removeprefix("1:")), forecast=how)

            found.append(Method(f"{name}{suffix}", intervals, make, fits=fits))
    found.append(FamilyMethod("learned", True, SEEDS))
    found.append(FamilyMethod("learned, hold only", False, BINARY_SEEDS))
    found.append(Method("paper's learner", lambda subject: ["0.5"], paper, (0,), _few_steps))
    return found


def chosen_methods(names: str | None = None) -> list[Method | FamilyMethod]:
    """Methods by the names that the command line takes, ``fora,learned`` for example; None for all.

    Raises:
        StepMaskError: There is no method of a name.
    """
    known = {short_name(method): method for method in methods()}
    if names is None:
        return list(known.values())
    wanted = [name.strip().lower() for name in names.split(",")]
    for name in wanted:
        if name not in known:
            raise StepMaskError(f"no method {name!r}; there are {', '.join(known)}")
    return [method for name, method in known.items() if name in wanted]


def short_name(method: Method | FamilyMethod) -> str:
    """The name of a method as the command line takes it."""
    return re.sub(r"[^a-z0-9]+", "-", method.name.lower().replace("'", ""))


def paper(subject: Subject, setting: str, seed: int | None) -> StepMask:
    """A mask from the paper's learner as we read it."""
    return learn(
        subject.pipe,
        subject.steps,
        float(setting),
        method="paper",
        seed=seed,
        call_kwargs=subject.call_kwargs,
        conditions=subject.conditions,
        num_trajectories=TRAJECTORIES,
    )


def random_mask(pipe: Any, steps: int, share: float = 0.5, seed: int = 0) -> StepMask:
    """Every block's cells compute with probability `share`: no method, but what an executor may have to run."""
    mask = fora(pipe, steps, 1)
    graph = describe(pipe)
    compute = mask.compute.copy()
    blocks = list(graph.blocks)
    compute[1:, blocks] = np.random.default_rng(seed).random((len(compute) - 1, len(blocks))) < share
    return StepMask(
        compute=compute,
        sites=mask.sites,
        timesteps=mask.timesteps,
        scheduler=mask.scheduler,
        graph=mask.graph,
        provenance={"method": "random", "num_inference_steps": steps},
    )


def is_unet(pipe: Any) -> bool:
    """Whether the sites have levels, which DeepCache needs."""
    return all(site.depth is not None for site in describe(pipe).sites)


def _needs_levels(subject: Subject) -> str | None:
    return None if is_unet(subject.pipe) else "needs the levels of a U-Net"


def _few_steps(subject: Subject) -> str | None:
    return None if subject.steps <= PAPER_STEPS else f"compared up to {PAPER_STEPS} steps: it costs as much as ours"
