"""Architecture: what stepmask knows about one denoiser class, and what it finds out by itself.

A family names its sites, by patterns or in code, and makes example inputs; who reads whom is traced from them, or
declared where that is quick to say.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn

from stepmask.errors import StepMaskError
from stepmask.graph import BlockGraph, Site
from stepmask.inspection.inputs import as_batch, num_samples, repeated
from stepmask.inspection.placement import device_of
from stepmask.inspection.sites import Patterns, find_sites, sites_around
from stepmask.inspection.structure import Incomparable, remembered, sizes_of
from stepmask.inspection.trace import trace
from stepmask.inspection.twin import Twin, on_a_twin
from stepmask.values import tensors_in

TIMESTEP_NAMES = ("timestep", "timesteps", "t", "timestep_ratio")
"""What denoisers call the timestep."""


class Architecture(ABC):
    """One family of denoisers.

    Args:
        class_name: The class of its models.
    """

    patterns: ClassVar[Patterns] = ()
    """Patterns of the sites' names, with their kinds."""
    step_inputs: ClassVar[tuple[str, ...]] = ("hidden_states", "timestep")
    """Names of the forward arguments that change from step to step, the noisy sample first."""
    timestep_name: str = "timestep"
    """The forward argument that says where the run stands."""
    feeding: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Siblings that feed a site alone, by the last part of the site's name; `feeders` reads it."""

    def __init__(self, class_name: str = "") -> None:
        self.class_name = class_name

    @property
    def key(self) -> Hashable:
        """What two architectures have in common that say the same of every model: by default they are one object."""
        return self

    def graph(self, model: nn.Module) -> BlockGraph:
        """The block graph of `model`: its sites in execution order, which lies within which, and which read which.

        It is traced, once for all models of the same structure. What contains sites and can rest as a whole is a site
        too: blocks, and lists of blocks.

        Raises:
            UnsupportedModelError: The model has blocks that the family does not know, or cannot be traced.
        """
        sites = self.sites(model)
        return remembered(model, ("graph", self.key, sites), None, lambda: self.trace(model, sites))

    def sites(self, model: nn.Module) -> tuple[Site, ...]:
        """The innermost places that a mask decides on, in any order."""
        return find_sites(model, self.patterns)

    def knows(self, model: nn.Module) -> bool:
        """Whether the family describes this configuration; where not, the denoiser of a pipeline is looked at."""
        return True

    @abstractmethod
    def example_inputs(self, model: nn.Module, batch_size: int = 1) -> dict[str, Any]:
        """Keyword arguments for one forward pass, on the model's device and in its dtype.

        Where a configuration does not say how large they are, they are small; how large they are in published use is
        said by `stepmask.presets`, for which a family may take sizes as further arguments.
        """

    def feeders(self, model: nn.Module) -> dict[str, tuple[str, ...]]:
        """Per site the submodules that feed it alone, so that they need not run where the site does not.

        Only modules of one tensor (N, L, D) with a result of the same shape, on whose way to the site nothing mixes
        or counts the L tokens: a normalisation followed by scale and shift. By default what `feeding` says.
        """
        if not self.feeding:
            return {}
        parts = [site.name.rpartition(".") for site in self.sites(model)]
        return {
            f"{parent}.{last}": tuple(f"{parent}.{feeder}" for feeder in self.feeding[last])
            for parent, _, last in parts
            if last in self.feeding
        }

    def run(self, model: nn.Module, inputs: Mapping[str, Any]) -> Any:
        """Run one forward pass and return what a sampler uses of the output."""
        return self.used_output(model, as_batch(model(**inputs, return_dict=False)[0]))

    def run_for_all(self, model: nn.Module, inputs: Mapping[str, Any]) -> Any:
        """Run one forward pass and return all that a sampler may use, which is what sites are computed for."""
        return self.run(model, inputs)

    def used_output(self, model: nn.Module, output: Tensor) -> Tensor:
        """The channels of the model's output that a sampler uses; by default all."""
        return output

    def trace(self, model: nn.Module, sites: Sequence[Site]) -> BlockGraph:
        """The graph of these sites and of what is around them, traced on copies of the model without values.

        Raises:
            UnsupportedModelError: It cannot be traced, or the trace cannot prove who reads whom.
        """
        around = sites_around(model, sites)

        def traced(twin: Twin) -> tuple[BlockGraph | None, list[str]]:
            with twin.running():
                inputs = twin.inputs(self.example_inputs(twin.model), hidden=self.step_inputs)
                run = partial(self.run_for_all, twin.model, inputs)
                return trace(twin.model, sites, around, inputs, self.step_inputs, run)

        graph, unfit = on_a_twin(model, traced)
        while graph is None:
            around = tuple(site for site in around if site.name not in unfit)
            graph, unfit = on_a_twin(model, traced)
        return graph


class Given(Architecture):
    """The architecture of a model whose sites are given as patterns, perhaps with example inputs.

    Args:
        class_name: The class of the model.
        patterns: The sites.
        inputs: Keyword arguments of one forward pass; those with the batch size of the sample in front are repeated
            for larger batches. None takes those of `base`.
        base: The family of the model's class, if there is one.
    """

    def __init__(
        self, class_name: str, patterns: Patterns, inputs: Mapping[str, Any] | None, base: Architecture | None
    ) -> None:
        super().__init__(class_name)
        if inputs is None and base is None:
            raise StepMaskError(
                f"{class_name} is not registered, so without its pipeline it needs example_inputs: a dict with the "
                "keyword arguments of one call of its forward, tensors of the right shapes, on any device"
            )
        self.patterns, self._inputs, self._base = patterns, inputs, base
        if base is not None:
            self.step_inputs = base.step_inputs
        if inputs is not None:
            sample = next((name for name, value in inputs.items() if num_samples([value]) is not None), None)
            if sample is None:
                raise StepMaskError(f"example_inputs for {class_name} need the noisy sample, a tensor with a batch")
            if base is None:  # nothing is known: everything may change with the step, but masks and positions
                others = (name for name, value in inputs.items() if name != sample and not _is_table_of_whole(value))
                self.step_inputs = (sample, *others)
                self.timestep_name = next((name for name in TIMESTEP_NAMES if name in inputs), "timestep")
        self._key = _key_of(base, inputs) or self

    @property
    def key(self) -> Hashable:
        """The base family and the sizes of the given inputs."""
        return self._key

    def example_inputs(self, model: nn.Module, batch_size: int = 1) -> dict[str, Any]:
        """The given inputs on the model's device, repeated or cut to `batch_size` samples."""
        if self._inputs is None:
            return self._base.example_inputs(model, batch_size)
        return repeated(self._inputs, batch_size, device_of(model))

    def run(self, model: nn.Module, inputs: Mapping[str, Any]) -> Any:
        """Run one forward pass as the base family does; without one, return the first tensor of the output."""
        if self._base is not None:
            return self._base.run(model, inputs)
        return tensors_in(model(**inputs))[0]

    def run_for_all(self, model: nn.Module, inputs: Mapping[str, Any]) -> Any:
        """Run one forward pass; all that the model returns is used, a sound beside a video for example."""
        return model(**inputs) if self._base is None else self._base.run_for_all(model, inputs)

    def used_output(self, model: nn.Module, output: Tensor) -> Tensor:
        """The channels that the base family names; without one all of them."""
        return output if self._base is None else self._base.used_output(model, output)


def _key_of(base: Architecture | None, inputs: Mapping[str, Any] | None) -> Hashable | None:
    """What graphs and costs depend on beside the sites; None where the inputs cannot be compared."""
    try:
        return Given, base, None if inputs is None else sizes_of(inputs)
    except Incomparable:
        return None


def _is_table_of_whole(value: Any) -> bool:
    """Whether it is a tensor of whole numbers or truth values of two dimensions or more."""
    return isinstance(value, Tensor) and value.dim() > 1 and not value.is_floating_point() and not value.is_complex()
