"""What all shipped rivals need: to be tried, and to be undone."""

from __future__ import annotations

import importlib.util
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from stepmask.errors import StepMaskError
from stepmask.evaluation import sampler_for
from stepmask.inspection.registry import denoiser_of
from stepmask.schedules import fora
from stepmask_lab.method import Subject, Unmasked
from stepmask_lab.unmasked import OtherSampler

TRIAL_STEPS = 8
"""Enough for every rival to skip something."""


class NotSupported(StepMaskError):
    """A rival has nothing to do in this model."""


@dataclass(frozen=True)
class Rival:
    """Something that can be enabled on a pipeline.

    Attributes:
        name: As tables call it.
        module: Where its code is; an error that goes through it is its own.
        settings: Options by the names that tables give them, for a subject.
        enable: Of a subject and the options of a setting: a context for one call of the pipeline. It need not undo
            what it does to the denoiser.
    """

    name: str
    module: str
    settings: Callable[[Subject], Mapping[str, Any]]
    enable: Callable[[Subject, Any], AbstractContextManager[None]]

    def method(self) -> Unmasked:
        """What the benchmark runs."""
        return Unmasked(self.name, lambda subject: list(self.settings(subject)), self.running, self.refusal)

    @contextmanager
    def running(self, subject: Subject, setting: str) -> Iterator[tuple[Any, int]]:
        """Enabled on the subject's pipeline for one call; the denoiser is restored whatever happens."""
        options = self.settings(subject)[setting]
        with restored(subject.pipe), self.enable(subject, options):
            yield subject.pipe, subject.steps

    def refusal(self, subject: Subject) -> str | None:
        """Why it cannot run: tries one image of a few steps; an error that does not come from it is raised."""
        package = self.module.partition(".")[0]
        if importlib.util.find_spec(package) is None:
            return f"needs the package {package}: pip install 'stepmask-lab[rivals]'"
        small = replace(subject, steps=min(subject.steps, TRIAL_STEPS))
        everything = fora(small.pipe, small.steps, 1)
        plain, seeds = sampler_for(small.pipe, everything, 1, small.steps, small.call_kwargs, small.conditions)
        plain.full(0, seeds)  # what fails without a rival is no rival's fault
        for setting in self.settings(small):
            try:
                OtherSampler(**vars(plain), running=partial(self.running, small, setting)).masked(0, seeds)
            except NotSupported as error:
                return str(error)
            except Exception as error:
                if not self._raised(error):
                    raise
                return f"fails on {type(denoiser_of(small.pipe)).__name__}: {type(error).__name__}: {_brief(error)}"
        return None

    def _raised(self, error: Exception) -> bool:
        trace, names = error.__traceback__, []
        while trace is not None:
            names.append(trace.tb_frame.f_globals.get("__name__", ""))
            trace = trace.tb_next
        return any(f"{name}.".startswith(f"{self.module}.") for name in names)


def num_rows(subject: Subject) -> int:
    """Denoiser calls of a run, which rivals want to be told as a number of steps."""
    return len(fora(subject.pipe, subject.steps, 1).compute)


@contextmanager
def restored(pipe: Any) -> Iterator[None]:
    """Put back a denoiser at the end: attributes, submodules, hooks and replaced forwards of all its modules.

    Rivals leave some behind when they are disabled, and all of them after an exception.
    """
    before = []
    for module in denoiser_of(pipe).modules():
        attributes = dict(vars(module))
        tables = {name: value.copy() for name, value in attributes.items() if type(value) in (dict, OrderedDict)}
        before.append((module, attributes, tables))
    try:
        yield
    finally:
        for module, attributes, tables in before:
            vars(module).clear()
            vars(module).update(attributes)
            for name, content in tables.items():  # the same tables: handles of hooks know them
                attributes[name].clear()
                attributes[name].update(content)


@contextmanager
def silent() -> Iterator[None]:
    """No log messages below errors for a while."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _brief(error: Exception) -> str:
    """The first line of a message, without its end."""
    return (str(error).strip() or "no message").splitlines()[0].rstrip(".")
