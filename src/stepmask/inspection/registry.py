"""Finds the family of a model by the name of its class; families register where they are defined.

Importing a family imports neither diffusers nor its model class, so that looking one up stays cheap.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from stepmask.errors import StepMaskError, UnknownArchitectureError
from stepmask.inspection.architecture import Architecture
from stepmask.plugins import load_plugins

PLACES = ("denoiser", "unet", "transformer", "prior", "decoder")
"""What pipelines call their denoiser; the last two (Kandinsky, Stable Cascade) only beside a ``scheduler``."""

TAKES_OVER = "transformer_2"
"""What pipelines call a second denoiser that takes over in mid-run."""

_architectures: dict[str, Architecture] = {}
_of_instances: WeakKeyDictionary[nn.Module, Architecture] = WeakKeyDictionary()
"""What `stepmask.register_sites` said of instances."""


def register(*class_names: str) -> Callable[[type[Architecture]], type[Architecture]]:
    """Class decorator: this family describes models whose class, or a base of it, has one of these names."""

    def decorate(family: type[Architecture]) -> type[Architecture]:
        for class_name in class_names:
            _architectures[class_name] = family(class_name)
        return family

    return decorate


def registered_architectures() -> dict[str, Architecture]:
    """All families, those of plugins included, by the name of their model class."""
    _import_families()
    load_plugins()
    return dict(_architectures)


@cache
def _import_families() -> None:
    package = importlib.import_module("stepmask.architectures")
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{package.__name__}.{module.name}")


def register_instance(denoiser: nn.Module, architecture: Architecture) -> None:
    """Let one instance have an architecture of its own; `stepmask.register_sites` is the public way to do so."""
    _of_instances[denoiser] = architecture


def architecture_of(denoiser: nn.Module) -> Architecture:
    """The architecture of a denoiser: the one registered for this instance, else the family of its class.

    Raises:
        UnknownArchitectureError: None is registered for its class or a base of it.
    """
    return _of_instances.get(denoiser) or class_architecture_of(denoiser)


def class_architecture_of(denoiser: nn.Module) -> Architecture:
    """The family of a denoiser's class, whatever was registered for the instance.

    Raises:
        UnknownArchitectureError: None is registered for its class or a base of it.
    """
    known = registered_architectures()
    for class_ in type(denoiser).__mro__:
        if class_.__name__ in known:
            return known[class_.__name__]
    if isinstance(getattr(denoiser, "module", None), nn.Module):
        raise UnknownArchitectureError(
            f"{type(denoiser).__name__} wraps a {type(denoiser.module).__name__}: give stepmask that, its .module"
        )
    raise UnknownArchitectureError(
        f"no architecture is registered for {type(denoiser).__name__}; supported are {', '.join(sorted(known))}. "
        "Of any other give the pipeline, which shows what it is called with, or call stepmask.register_sites(model, "
        "sites=[patterns], example_inputs={...}) first; CONTRIBUTING.md shows how to add a family in a few lines"
    )


def denoiser_of(model: Any) -> nn.Module:
    """The denoiser of a pipeline (its ``unet``, ``transformer`` or ``prior``), or the model itself.

    Raises:
        StepMaskError: It is neither a denoiser nor a pipeline with one, or a pipeline without a scheduler.
    """
    denoiser = model
    if not isinstance(model, nn.Module):
        places = PLACES if hasattr(model, "scheduler") else PLACES[:3]
        candidates = [getattr(model, name, None) for name in places]
        found = [candidate for candidate in candidates if isinstance(candidate, nn.Module)]
        if not found:
            parts = [f"{name} ({type(part).__name__})" for name, part in _parts_of(model)]
            rest = f" with {', '.join(parts)}: give the denoiser alone, with its scheduler" if parts else ""
            raise StepMaskError(
                "expected a diffusers pipeline with a unet or transformer, or a denoiser, got "
                f"{type(model).__name__}{rest}"
            )
        if hasattr(model, "register_modules") and not hasattr(model, "scheduler"):  # of diffusers
            raise StepMaskError(
                f"{type(model).__name__} has no scheduler, and a mask follows the steps of one: where it has several "
                "by other names, give stepmask the denoiser alone, with its scheduler"
            )
        denoiser = found[0]
    return _itself(denoiser)


def _parts_of(model: Any) -> list[tuple[str, nn.Module]]:
    """The models of a pipeline that calls its denoiser something else, by name."""
    return [(name, part) for name, part in getattr(model, "__dict__", {}).items() if isinstance(part, nn.Module)]


def denoisers_of(model: Any) -> tuple[nn.Module, ...]:
    """All denoisers of a pipeline: the first, the one that takes over in mid-run (Wan 2.2), and those of every step.

    Raises:
        StepMaskError: It is neither a denoiser nor a pipeline with one.
    """
    first = denoiser_of(model)
    if isinstance(model, nn.Module):
        return (first,)
    parts = {name: part for name, part in vars(model).items() if type(_itself(part)) is type(first)}
    second = parts.pop(TAKES_OVER, None) or getattr(model, TAKES_OVER, None)
    others = [second] if runs_in_turns(model) else []
    others += [part for part in parts.values() if isinstance(part, nn.Module) and part is not second]
    return first, *(other for other in dict.fromkeys(map(_itself, others)) if other is not first)


def runs_in_turns(model: Any) -> bool:
    """Whether a second denoiser of a pipeline takes over from the first in mid-run."""
    ratio = getattr(getattr(model, "config", None), "boundary_ratio", None)
    return ratio is not None and getattr(model, TAKES_OVER, None) is not None


def _itself(denoiser: nn.Module) -> nn.Module:
    """The model within what ``torch.compile(model)`` returns."""
    return getattr(denoiser, "_orig_mod", denoiser)
