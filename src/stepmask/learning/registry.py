"""The ways to learn, by name. Each is registered where it is defined: by stepmask, or by a plugin.

Registering imports no torch: what learns is named as a string and imported when it is asked to.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stepmask import plugins
from stepmask.errors import StepMaskError
from stepmask.learning.configuration import Configuration
from stepmask.learning.goals import Goals
from stepmask.words import did_you_mean

if TYPE_CHECKING:
    from stepmask.family import MaskFamily
    from stepmask.learning.job import Job
    from stepmask.mask import StepMask

DEFAULT = "end-to-end"
"""The way to learn where none is named."""


@dataclass(frozen=True, kw_only=True)
class Learner:
    """A way to learn masks.

    Attributes:
        name: As ``method=`` and ``--method`` take it.
        configuration: The class of its options; no other learner has the same one.
        learn: Takes a `Job` and returns the mask that it asks for, or a `MaskFamily` where it asks for ``targets``:
            a function, or a string ``"package.module:function"`` that is imported when it is needed.
        summary: What it does, in one sentence for ``--help``.
        goals: Names of the goals that it can be asked for; see `Goals`.
        needs_target: Whether one of the targets must be given.
        shares: Whether it shares its work out where several processes learn together, by the `Processes` of its job;
            else it runs in the first of them alone, and the others wait.
        nested: Whether it decides on blocks and lists of blocks too; else its task has the innermost sites alone.
        uneven: Whether it takes runs whose rows do not cost alike, or begin anew on the way, as a `Course` says.
    """

    name: str
    configuration: type[Configuration]
    learn: str | Callable[[Job], StepMask | MaskFamily]
    summary: str
    goals: frozenset[str] = frozenset({"target_macs"})
    needs_target: bool = True
    shares: bool = False
    nested: bool = False
    uneven: bool = False

    def __call__(self, job: Job) -> StepMask | MaskFamily:
        """Learn."""
        if callable(self.learn):
            return self.learn(job)
        module, _, function = self.learn.partition(":")
        return getattr(importlib.import_module(module), function)(job)

    def check(self, goals: Goals) -> None:
        """Raise unless it can be asked for these goals.

        Raises:
            StepMaskError: Names what it cannot, and the learners that can.
        """
        strangers = [name for name in goals.given if name not in self.goals]
        if strangers:
            able = [one.name for one in learners().values() if set(goals.given) <= one.goals]
            raise StepMaskError(
                f"method {self.name!r} does not know {', '.join(strangers)}; "
                + (f"{' and '.join(able)} does" if len(able) == 1 else f"ask {', '.join(able) or 'for less'}")
            )


_learners: dict[str, Learner] = {}


def register(learner: Learner) -> Learner:
    """Let `stepmask.learn` and the command line take this way to learn by its name."""
    _learners[learner.name] = learner
    return learner


def learners() -> dict[str, Learner]:
    """All ways to learn by name, those of plugins included, the default first."""
    plugins.load_plugins()
    return dict(_learners)


def learner_of(method: str | Configuration) -> Learner:
    """The way to learn of a name or of a configuration.

    Raises:
        StepMaskError: There is none.
    """
    if isinstance(method, str):
        if method not in _learners and method not in learners():
            raise StepMaskError(f"method must be one of {', '.join(learners())}, or a configuration, got {method!r}")
        return _learners[method]
    found = [one for one in learners().values() if type(method) is one.configuration]
    if not found:
        names = ", ".join(one.configuration.__name__ for one in learners().values())
        got = f"the class {method.__name__}" if isinstance(method, type) else type(method).__name__
        raise StepMaskError(f"method takes a name or a configuration, such as EndToEnd() ({names}), got {got}")
    return found[0]


def configured(
    method: str | Configuration, options: Mapping[str, Any], beside: Callable[..., Any] | None = None
) -> tuple[Learner, Configuration]:
    """The way to learn and its configuration, from ``method=`` and the single options beside it.

    Args:
        method: As `learner_of` takes it.
        options: Single options by name.
        beside: The function that was given them; whoever misspells one may have meant an argument of its own.

    Raises:
        StepMaskError: There is no such way or option, a value makes no sense, or both a configuration and options are
            given.
    """
    learner = learner_of(method)
    if isinstance(method, Configuration):
        if options:
            raise StepMaskError(f"give a configuration or single options, not both ({', '.join(options)})")
        return learner, method
    names = learner.configuration.names()
    strangers = sorted(set(options) - set(names))
    if strangers:
        meant = did_you_mean(strangers[0], [*names, *(inspect.signature(beside).parameters if beside else ())])
        raise StepMaskError(f"method={method!r} has no option {strangers[0]!r}; there are {', '.join(names)}{meant}")
    return learner, learner.configuration(**options)
