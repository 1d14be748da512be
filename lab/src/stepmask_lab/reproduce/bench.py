"""What every table stands on: the models, one folder of rows and masks for all tables, and their options."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from stepmask import presets
from stepmask.cost import CostTable
from stepmask.errors import StepMaskError
from stepmask.files import write_atomically
from stepmask.graph import BlockGraph
from stepmask.inspection.describe import describe
from stepmask.inspection.measure_cost import measure_cost
from stepmask.inspection.registry import denoiser_of
from stepmask.liveness import make_plan
from stepmask.mask import SECONDS, StepMask
from stepmask_lab import reference
from stepmask_lab.benchmark.compare import Comparison
from stepmask_lab.benchmark.methods import AnyMethod, guided, with_dpm
from stepmask_lab.benchmark.metrics import cifar_scores
from stepmask_lab.benchmark.result_files import Key
from stepmask_lab.method import Subject
from stepmask_lab.reproduce.other_models import other_models
from stepmask_lab.reproduce.paper import TABLES, PaperModel

DEFAULT_STEPS = 20


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured, and how much of it.

    Attributes:
        steps: Of every run; None for those of the paper, 50 to 250.
        num_images: Per line, on seeds that learning has not seen.
        trajectories: Runs that the paper's learner learns from.
        rounds: Refining rounds of our learner.
        seed: Of learning.
        guidance_scale: Of models that have one; None for that of our benchmarks, 2.5.
        speed: Whether to measure speed-ups, full and masked runs in turns.
        scores: Whether to score images as sets, on the features of a CIFAR-10 classifier.
        batch_size: Images per call.
    """

    steps: int | None = DEFAULT_STEPS
    num_images: int = 64
    trajectories: int = 8
    rounds: int = 3
    seed: int = 0
    guidance_scale: float | None = None
    speed: bool = True
    scores: bool = True
    batch_size: int = 16


KEPT = ("num_images", "trajectories", "rounds", "guidance_scale")
"""Options that all rows of a folder must share: files are not named after them."""


@dataclass(frozen=True)
class OwnModel:
    """A model that the user names in place of the reference models."""

    name: str
    pipe: Any


class Bench:
    """Runs methods on the model that stands for one of the paper's, and keeps what was measured.

    Args:
        folder: For rows, masks, results and pages of all tables; what is there is not measured again.
        options: The same for all tables in the folder.
        own: In place of the reference models.
        tell: Gets a line before each cell.

    Raises:
        StepMaskError: The folder holds results with other options.
    """

    def __init__(
        self,
        folder: Path,
        options: Options,
        own: OwnModel | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.folder, self.options, self.own, self.tell = folder, options, own, tell
        self._runs: dict[str, Run] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._check_folder()

    def run_of(self, model: PaperModel) -> Run | None:
        """The model that stands for one of the paper's; None where there is none."""
        name = model.reference if self.own is None else self.own.name
        if name is None or (self.own is not None and not _stands_for(self.own, model)):
            return None
        key = f"{name}-{model.name}"
        if key not in self._runs:
            self._runs[key] = Run(self, model, name)
        return self._runs[key]

    def check_own(self, tables: Iterable[str]) -> None:
        """Raise unless the user's own model stands for one of the paper's in each of these tables."""
        for table in tables if self.own is not None else ():
            if not any(_stands_for(self.own, model) for model in TABLES[table]):
                known = [model for model in TABLES[table]]
                hub = dict.fromkeys(hub for model in known for hub in presets.get(model.preset).hub)
                raise StepMaskError(
                    f"{self.own.name} is a {type(denoiser_of(self.own.pipe)).__name__}, {table} has "
                    f"{', '.join(dict.fromkeys(presets.get(model.preset).class_name for model in known))}: give "
                    f"{', '.join(hub)}, or leave --model out; stepmask benchmark MODEL measures any model"
                )

    def _check_folder(self) -> None:
        path = self.folder / "options.json"
        now = {name: getattr(self.options, name) for name in KEPT}
        if not path.exists():
            write_atomically(path, json.dumps(now, indent=1) + "\n")
            return
        before = json.loads(path.read_text(encoding="utf-8"))
        differ = [f"{name} {before.get(name)}, now {now[name]}" for name in KEPT if before.get(name) != now[name]]
        if differ:
            raise StepMaskError(
                f"folder {self.folder} holds results with other options ({'; '.join(differ)}): choose another folder, "
                "or the same options"
            )


class Run:
    """One model that stands for one of the paper's, with its number of steps."""

    def __init__(self, bench: Bench, model: PaperModel, name: str) -> None:
        self.model, self.name, self.options = model, name, bench.options
        pipe = bench.own.pipe if bench.own is not None else reference.load(name)
        if bench.own is None and model.sampler == "DPM-Solver":
            pipe = with_dpm(pipe)
        scale = self.options.guidance_scale
        call_kwargs = guided(pipe) if scale is None else guided(pipe, scale)
        steps = self.options.steps or model.steps
        self.subject = Subject(pipe, steps, call_kwargs, targets=(model.share,))
        small = bench.own is None or model.preset == "ddpm-cifar10-32"
        self.comparison = Comparison(
            name,
            self.subject,
            bench.folder,
            self.options.num_images,
            self.options.speed,
            self.options.batch_size,
            cifar_scores() if self.options.scores and small else None,
            bench.tell,
        )

    @cached_property
    def graph(self) -> BlockGraph:
        """Of the denoiser."""
        return describe(self.subject.pipe)

    @cached_property
    def cost(self) -> CostTable:
        """Of one step, attention's products and guidance counted."""
        return measure_cost(self.subject.pipe, call_kwargs=self.subject.call_kwargs)

    def rows(self, methods: Sequence[AnyMethod]) -> list[dict[str, Any]]:
        """Measure what is missing; the rows of these methods in their order, with what their masks tell."""
        found = self.comparison.run(methods)
        names = [method.name for method in methods]
        seeds = (None, self.options.seed)
        mine = [row for row in found if row["method"] in names and row["steps"] == self.subject.steps]
        mine = [row for row in mine if row["seed"] in seeds]
        mine.sort(key=lambda row: names.index(row["method"]))
        return [row | (self._of_mask(self.mask(row)) or self._of_model(row["method"])) for row in mine]

    def circumstances(self) -> dict[str, Any]:
        """Under which the rows were measured: machine, versions, seeds, guidance, dtype."""
        return self.comparison.files.circumstances().get(str(self.subject.steps), {})

    def mask(self, row: dict[str, Any]) -> StepMask | None:
        """The mask that a row was measured with; None where it is the plain pipeline."""
        key = Key(*(row[name] for name in Key._fields))
        path = self.comparison.output / "masks" / f"{key.slug}.json"
        return StepMask.load(path) if path.exists() else None

    def _of_model(self, method: str) -> dict[str, Any]:
        """The same of a line without a mask, whose model may have been trained."""
        trained = {other.method.name: other.train_seconds for other in other_models(self.name)}
        return {"conv_linear": None, "train_seconds": trained.get(method), "decided": None}

    def _of_mask(self, mask: StepMask | None) -> dict[str, Any]:
        """Cost in the other convention, time to learn, and how far scores are from a decision; empty without one."""
        if mask is None:
            return {}
        return {
            "conv_linear": self.cost.conv_linear().fraction(make_plan(mask, self.graph)),
            "train_seconds": mask.provenance.get(SECONDS),
            "decided": None if mask.scores is None else decided(mask, self.graph),
        }


def decided(mask: StepMask, graph: BlockGraph) -> float:
    """Share of the learned scores within 0.1 of 0 or 1."""
    scores = learned_scores(mask, graph)
    return float(((scores < 0.1) | (scores > 0.9)).mean())


def learned_scores(mask: StepMask, graph: BlockGraph) -> np.ndarray:
    """(T - 1, B) scores of a mask from row 1 on, samplers left out: they are not learned."""
    samplers = {site.name for site in graph.sites if site.kind == "sampler"}
    return np.asarray(mask.scores)[1:, [site not in samplers for site in mask.sites]]


def options_of(bench: Bench) -> dict[str, Any]:
    """The options as JSON values."""
    return {field.name: asdict(bench.options)[field.name] for field in fields(Options)}


def _stands_for(own: OwnModel, model: PaperModel) -> bool:
    """By its id on the hub, else by the class of its denoiser."""
    known = {hub for models in TABLES.values() for one in models for hub in presets.get(one.preset).hub}
    if own.name in known:
        return own.name in presets.get(model.preset).hub
    return type(denoiser_of(own.pipe)).__name__ == presets.get(model.preset).class_name
