"""What packages outside of stepmask add to it, found by their entry points.

A package names a module in the entry point group ``stepmask.plugins``. Importing that module registers what the package
brings: model families (`stepmask.architectures.register`), ways to learn (`stepmask.learning.register`), schedules
(`stepmask.schedules.register`), and with the functions below models, pipelines and metrics for the command line. A
module in the group ``stepmask.commands`` adds verbs to `stepmask.cli.app`; only the command line imports it. The
laboratory, stepmask-lab, uses both groups in just this way.

Plugins are imported when a name is asked for that stepmask alone does not know, or when everything is listed. One that
fails to import is left out with a warning that names it.
"""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

from stepmask.errors import StepMaskError

PLUGINS, COMMANDS = "stepmask.plugins", "stepmask.commands"


@cache
def load_plugins(group: str = PLUGINS) -> tuple[str, ...]:
    """Import every module of an entry point group, once in a process.

    Args:
        group: ``stepmask.plugins`` or ``stepmask.commands``.

    Returns:
        Names of the entry points that were imported.
    """
    loaded = []
    for point in sorted(entry_points(group=group), key=lambda point: point.name):
        try:
            point.load()
        except Exception as error:  # whatever a stranger's module raises must not take stepmask down with it
            warnings.warn(
                f"the plugin {point.name!r} ({point.value}) cannot be imported and is left out: "
                f"{type(error).__name__}: {error}",
                stacklevel=2,
            )
        else:
            loaded.append(point.name)
    return tuple(loaded)


@dataclass(frozen=True)
class ModelSource:
    """Says how models are loaded that go by a prefix on the command line, such as ``reference:ddpm-cifar10``.

    Attributes:
        prefix: What stands before the colon.
        names: Lists the models.
        load: Makes a pipeline of a name and a torch dtype, which may be None.
        help: What models these are, for ``--help``: "small trained models that come with the laboratory".
    """

    prefix: str
    names: Callable[[], Sequence[str]]
    load: Callable[[str, Any], Any]
    help: str = ""


class Metrics(Protocol):
    """Computes scores of the images of a masked run."""

    def check(self, pipe: Any) -> None:
        """Raise now what would otherwise be raised after sampling."""
        ...

    def __call__(self, images: Any, full: Any, prompts: Sequence[str] | None = None) -> dict[str, Any]:
        """Return scores by name, of images (N, 3, H, W) in [0, 1] and of those of the full run from the same noise."""
        ...


_model_sources: dict[str, ModelSource] = {}
_pipelines: dict[str, str] = {}
_results: list[Callable[[Path], Any]] = []
_metrics: list[tuple[Callable[[str, Path | None], Metrics], str]] = []

LABORATORY = "the laboratory (in a clone of the repository: pip install ./lab)"
NO_METRICS = f"they come with {LABORATORY}; PSNR and SSIM against the full run need none"


def register_models(source: ModelSource) -> None:
    """Let the command line load models by a prefix."""
    _model_sources[source.prefix] = source


def register_pipeline(class_name: str, module: str) -> None:
    """Say where the class of a saved pipeline is that diffusers does not have.

    Args:
        class_name: As ``model_index.json`` names it.
        module: The module to import it from.
    """
    _pipelines[class_name] = module


def register_metrics(load: Callable[[str, Path | None], Metrics], help: str) -> None:
    """Say what makes the metrics that ``stepmask evaluate --metrics NAMES --real FILE`` asks for.

    Args:
        load: Makes them from the names, which are separated by commas, and the file.
        help: Which names there are, for ``--help``.
    """
    _metrics[:] = [(load, help)]


def register_results(read: Callable[[Path], Any]) -> None:
    """Say what reads the folder of a benchmark for ``stepmask report FOLDER``.

    Args:
        read: Makes a `stepmask.report.Report` of the folder.
    """
    _results[:] = [read]


def results_of(folder: Path) -> Any:
    """A `stepmask.report.Report` on the benchmark in a folder.

    Raises:
        StepMaskError: No installed package reads benchmarks, or the folder holds none.
    """
    load_plugins()
    if not _results:
        raise StepMaskError(
            f"{folder} is a folder, and folders of benchmarks are read by {LABORATORY}: give a mask file"
        )
    return _results[0](folder)


def model_sources() -> dict[str, ModelSource]:
    """Return all sources of models that installed packages bring, by their prefix."""
    load_plugins()
    return dict(_model_sources)


def saved_pipeline_class(path: Path, label: str) -> Any:
    """The class of a pipeline that ``save_pretrained`` wrote: a plugin's, or diffusers' own to find out.

    Args:
        path: Its folder.
        label: What errors call it.

    Raises:
        StepMaskError: It reads text and transformers is not installed, in whose place diffusers would put dummies.
    """
    index = json.loads((path / "model_index.json").read_text(encoding="utf-8"))
    libraries = {part[0] for part in index.values() if isinstance(part, list) and part}
    if "transformers" in libraries and importlib.util.find_spec("transformers") is None:
        raise StepMaskError(f"{label} reads text and needs transformers: pip install 'stepmask[text]'")
    load_plugins()
    class_name = index.get("_class_name", "")
    if class_name in _pipelines:
        return getattr(importlib.import_module(_pipelines[class_name]), class_name)
    from diffusers import DiffusionPipeline

    return DiffusionPipeline


def load_metrics(names: str, real: Path | None = None) -> Metrics:
    """Return metrics by the names that the command line takes.

    Args:
        names: The names, separated by commas.
        real: The file with statistics of real images.

    Raises:
        StepMaskError: No installed package has metrics, or none of these names.
    """
    load_plugins()
    if not _metrics:
        raise StepMaskError(f"no installed package has the metrics {names}: {NO_METRICS}")
    return _metrics[0][0](names, real)


def metrics_help() -> str:
    """Say which metrics installed packages bring, for ``--help``."""
    load_plugins()
    return _metrics[0][1] if _metrics else f"No installed package has any: {NO_METRICS}."
