"""Measures methods x budgets on one pipeline, a cell at a time; draws nothing.

What a folder holds already is not measured again, so a stopped comparison goes on where it was. Several processes share
the work by method and seed: each takes its part, and all write into the same folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from torch import Tensor

from stepmask.benchmark.cells import Cells, Key
from stepmask.benchmark.methods import AnyMethod, FamilyMethod, Subject, Unmasked, methods
from stepmask.benchmark.unmasked import evaluate_unmasked
from stepmask.errors import TargetError
from stepmask.evaluation import Evaluation, evaluate
from stepmask.family import MaskFamily
from stepmask.mask import StepMask

CIRCUMSTANCES = (
    "pipeline", "denoiser", "scheduler", "num_inference_steps", "seeds", "guidance_scale", "dtype", "device",
    "versions", "full_macs_per_image", "macs_convention",
)  # fmt: skip


@dataclass
class Comparison:
    """One pipeline in a benchmark.

    Attributes:
        model: As tables and files call it.
        subject: The pipeline with its steps, call and conditions.
        output: Folder for results and masks.
        num_images: Per cell, on seeds that learning has not seen.
        speed: Whether to measure the speed-up of every cell.
        batch_size: Images per call.
        score: Scores of the masked images (N, C, H, W) as sets, by name; None leaves them out.
        tell: Gets a line before each cell.
    """

    model: str
    subject: Subject
    output: Path
    num_images: int = 64
    speed: bool = False
    batch_size: int = 16
    score: Callable[[Tensor], Mapping[str, float]] | None = None
    tell: Callable[[str], None] = lambda line: None
    _full: Tensor | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.cells = Cells(self.output, self.model, [method.name for method in methods()])
        self._masks = self.output / "masks"
        self._masks.mkdir(parents=True, exist_ok=True)
        self.subject = replace(self.subject, state=self._state)
        self._families = lru_cache(maxsize=None)(self._family)

    def run(self, chosen: Iterable[AnyMethod], part: int = 0, parts: int = 1) -> list[dict[str, Any]]:
        """Measure all cells that are missing, or every `parts`-th method and seed of them; returns all rows."""
        groups = [(method, seed) for method in chosen for seed in method.seeds]
        for method, seed in groups[part::parts]:
            reason = method.fits(self.subject)
            if reason is not None:
                self.tell(f"{self.model}: no {method.name}, it {reason}")
                continue
            for setting in method.settings(self.subject):
                key = Key(self.model, self.subject.steps, method.name, setting, seed)
                if not self.cells.has(key):
                    drawn = "" if seed is None else f", learning seed {seed}"
                    self.tell(f"{self.model}, {self.subject.steps} steps: {method.name} {setting}{drawn}")
                    try:
                        self._measure(key, method)
                    except TargetError as error:
                        self.tell(f"left out: {error}")
        return self.cells.rows()

    def _measure(self, key: Key, method: AnyMethod) -> None:
        options = {
            "seeds": self.num_images,
            "call_kwargs": self.subject.call_kwargs,
            "conditions": self.subject.conditions,
            "batch_size": self.batch_size,
            "speed": self.speed,
            "reference": self._full,
        }
        if isinstance(method, Unmasked):
            running = partial(method.running, self.subject, key.setting)
            result = evaluate_unmasked(self.subject.pipe, self.subject.steps, running, **options)
            more = {"peak_cache_bytes": None, "psnr_when_learned": None}
        else:
            mask = self._mask(key, method)
            result = evaluate(self.subject.pipe, mask, **options)
            more = {"psnr_when_learned": mask.provenance.get("psnr")}
        self._full = result.full
        row = row_of(result) | more
        row |= {} if self.score is None else {"scores": dict(self.score(result.masked))}
        self.cells.save(key, row)

    def _mask(self, key: Key, method: AnyMethod) -> StepMask:
        path = self._masks / f"{key.slug}.json"
        if path.exists():
            return StepMask.load(path)
        if isinstance(method, FamilyMethod):
            mask = self._families(method, key.seed).at(float(key.setting))
        else:
            mask = method.make(self.subject, key.setting, key.seed)
        mask.save(path)
        return mask

    def _family(self, method: FamilyMethod, seed: int) -> MaskFamily:
        path = self._masks / f"{self.model}-{self.subject.steps}-{method.label}-seed{seed}.json"
        if path.exists():
            return MaskFamily.load(path)
        began = time.monotonic()
        found = method.family(self.subject, seed)
        found.save(path)
        minutes = {**self.cells.collected().get("learning_minutes", {})}
        minutes[path.stem] = round((time.monotonic() - began) / 60, 2)
        self.cells.collect(learning_minutes=minutes)
        self._state(f"{method.label}-seed{seed}").unlink(missing_ok=True)
        return found

    def _state(self, label: str) -> Path:
        return self._masks / f"{self.model}-{self.subject.steps}-{label}.safetensors"


def row_of(result: Evaluation) -> dict[str, Any]:
    """What tables need of an evaluation, and what it depends on."""
    values = result.to_dict()
    row = {
        "macs": result.macs_fraction,
        "psnr_mean": result.psnr.mean,
        "psnr_min": result.psnr.min,
        "psnr_sem": result.psnr.standard_error,
        "ssim_mean": None if result.ssim is None else result.ssim.mean,
        "peak_cache_bytes": result.peak_cache_bytes,
        "circumstances": {name: values[name] for name in CIRCUMSTANCES},
    }
    if result.speed is not None:
        row["speed"] = speed_row(result)
    return row


def speed_row(result: Evaluation) -> dict[str, Any]:
    """Measured speed-up beside what the MACs promise."""
    bound = 1 / result.macs_fraction
    median = result.speed.denoiser.median
    return {
        "one_over_macs": bound,
        "denoiser_speedup": median,
        "share_of_bound": median / bound,
        **result.speed.to_dict(),
    }
