"""Finds the family of a model by the name of its class; families register where they are defined.

Importing a family imports neither diffusers nor its model class, so that looking one up stays cheap.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn

from stepmask.errors import StepMaskError, UnknownArchitectureError, UnsupportedModelError
from stepmask.graph import BlockGraph


class Architecture(ABC):
    """What stepmask knows about one denoiser class."""

    step_inputs: ClassVar[tuple[str, ...]] = ("timestep",)
    """Names of the forward arguments that change from step to step."""

    @abstractmethod
    def describe(self, model: nn.Module) -> BlockGraph:
        """Sites of `model` in execution order, with their readers."""

    @abstractmethod
    def example_inputs(self, model: nn.Module, batch_size: int = 1) -> dict[str, Any]:
        """Keyword arguments for one forward pass, on the model's device and in its dtype."""

    @abstractmethod
    def tiny(self) -> nn.Module:
        """A small instance with random weights, for the contract tests."""

    def feeders(self, model: nn.Module) -> dict[str, tuple[str, ...]]:
        """Per site the submodules that feed it alone, so that they need not run where the site does not.

        Only modules of one tensor (N, L, D) with a result of the same shape, on whose way to the site nothing mixes
        or counts the L tokens: a normalisation followed by scale and shift. By default none.
        """
        return {}

    def used_output(self, model: nn.Module, output: Tensor) -> Tensor:
        """The channels of the model's output that a sampler uses; by default all."""
        return output


_architectures: dict[str, Architecture] = {}


def register(class_name: str) -> Callable[[type[Architecture]], type[Architecture]]:
    """Class decorator: this family describes models whose class, or a base of it, has this name."""

    def decorate(family: type[Architecture]) -> type[Architecture]:
        _architectures[class_name] = family()
        return family

    return decorate


def registered_architectures() -> dict[str, Architecture]:
    """All families by the name of their model class."""
    package = importlib.import_module("stepmask.architectures")
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{package.__name__}.{module.name}")
    return dict(_architectures)


def architecture_of(denoiser: nn.Module) -> Architecture:
    """The family of a denoiser.

    Raises:
        UnknownArchitectureError: None is registered for its class or a base of it.
    """
    known = registered_architectures()
    for class_ in type(denoiser).__mro__:
        if class_.__name__ in known:
            return known[class_.__name__]
    raise UnknownArchitectureError(
        f"no architecture is registered for {type(denoiser).__name__}; supported are {', '.join(sorted(known))}. "
        "CONTRIBUTING.md shows how to add one in a few lines"
    )


def denoiser_of(model: Any) -> nn.Module:
    """The denoiser of a pipeline (its ``unet`` or ``transformer``), or the model itself.

    Raises:
        StepMaskError: It is neither a denoiser nor a pipeline with one.
        UnsupportedModelError: It is compiled as a whole.
    """
    denoiser = model
    if not isinstance(model, nn.Module):
        candidates = [getattr(model, name, None) for name in ("denoiser", "unet", "transformer")]
        found = [candidate for candidate in candidates if isinstance(candidate, nn.Module)]
        if not found:
            raise StepMaskError(
                f"expected a diffusers pipeline with a unet or transformer, or a denoiser, got {type(model).__name__}"
            )
        denoiser = found[0]
    if hasattr(denoiser, "_orig_mod") or getattr(denoiser, "_compiled_call_impl", None) is not None:
        raise UnsupportedModelError(
            f"{type(denoiser).__name__} is compiled as a whole, so its blocks cannot be skipped one by one: apply "
            "the mask to the model as it was before torch.compile"
        )
    return denoiser
