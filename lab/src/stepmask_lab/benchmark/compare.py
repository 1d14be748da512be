"""Measures methods x budgets on one pipeline, a row at a time; draws nothing.

What a folder holds already is not measured again, so a stopped comparison goes on where it was. Several processes share
the work by method and seed: each takes its part, and all write into the same folder. Images come first, speed-ups after
all of them: those want a quiet machine, and may be added later to what was measured without.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from stepmask.errors import StepMaskError
from stepmask.evaluation import Evaluation, evaluate
from stepmask.evaluation.fidelity import psnr_per_image
from stepmask.evaluation.result import circumstances
from stepmask.family import MaskFamily
from stepmask.inspection.pipeline_call import PipelineCall
from stepmask.liveness import Plan
from stepmask.mask import DENOISER_CALLS, EFFORT, StepMask
from stepmask.runtime.task import comparable
from stepmask_lab.benchmark.image_strips import SHOWN, save_strip
from stepmask_lab.benchmark.methods import FULL_RUN, AnyMethod, FamilyMethod, methods
from stepmask_lab.benchmark.result_files import Key, ResultFiles
from stepmask_lab.method import Adaptive, Method, Subject, Unmasked
from stepmask_lab.scores import Metrics
from stepmask_lab.unmasked import evaluate_unmasked

CIRCUMSTANCES = (
    "pipeline", "denoiser", "scheduler", "num_inference_steps", "seeds", "guidance_scale", "dtype", "device",
    "versions", "full_macs_per_image", "macs_convention",
)  # fmt: skip
AT_ONE = "speed_at_1"
"""What a row calls the speed-up of a single image; that of a batch is its ``speed``."""
SAMPLED_SO = ("pipeline", "scheduler", "guidance_scale", "dtype", "conditions", "call")
"""Circumstances that all rows of a folder share."""


@dataclass
class Comparison:
    """One pipeline in a benchmark.

    Attributes:
        model: As tables and files call it.
        subject: The pipeline with its steps, call and conditions.
        output: Folder for results and masks.
        num_images: Per row, on seeds that learning has not seen.
        speed: Whether to measure the speed-up of every row, of a batch and of one image alone.
        batch_size: Images per call.
        metrics: What else to compute of the images; None for PSNR and SSIM alone.
        tell: Gets a line before each row.
    """

    model: str
    subject: Subject
    output: Path
    num_images: int = 64
    speed: bool = False
    batch_size: int = 16
    metrics: Metrics | None = None
    tell: Callable[[str], None] = lambda line: None
    _full: dict[int, Tensor] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.files = ResultFiles(self.output, self.model, [method.name for method in methods()])
        self._masks = self.output / "masks"
        self._masks.mkdir(parents=True, exist_ok=True)
        self.subject = replace(self.subject, state=self._state)
        self._families = lru_cache(maxsize=None)(self._family)

    def run(self, chosen: Iterable[AnyMethod], part: int = 0, parts: int = 1) -> list[dict[str, Any]]:
        """Measure all rows that are missing, or every `parts`-th method and seed of them; returns all rows.

        The full run is among them always, as what the others' scores are read against. Rows that have images but no
        speed-up, or none of the scores that are asked for, get them.
        """
        chosen = list(chosen)
        chosen = [FULL_RUN, *(method for method in chosen if method.name != FULL_RUN.name)]
        self._check_folder()
        mine = list(self._mine(chosen, part, parts))
        for key, method in mine:
            row = self.files.row(key)
            if row is None or (self.metrics is not None and "scores" not in row):
                self.tell(_words(key))
                try:
                    self._measure(key, method, row or {})
                except StepMaskError as error:  # of one method, which is no reason to go without the others
                    self.tell(f"left out: {error}")
        for key, method in mine:
            row = self.files.row(key)
            if row is None:
                continue
            shown, timed = self.files.strip(key).exists(), not self.speed or {"speed", AT_ONE} <= row.keys()
            if key.seed is not None and not self._file(key).exists():
                if not timed:
                    self.tell(f"no speed of {_words(key)}: its mask is not in {self._masks}")
                continue
            if not shown:
                self._show(key, method)
            if not timed:
                self.tell(f"speed of {_words(key)}")
                self._time(key, method, row)
        return self.files.rows()

    def _check_folder(self) -> None:
        """Refuse a folder whose full run was another.

        Raises:
            StepMaskError: It was sampled otherwise.
        """
        row = self.files.row(Key(self.model, self.subject.steps, FULL_RUN.name, "all"))
        before = {} if row is None else row.get("circumstances", {})
        now = circumstances(self.subject.pipe, self.subject.call_kwargs)
        now |= {"conditions": self._conditions(), "call": self._call()}
        pairs = {name: (before[name], now[name]) for name in SAMPLED_SO if name in before}
        if "seeds" in before:
            pairs["number of images"] = len(before["seeds"]), self.num_images
        differ = [f"{name} was {old}, now {new}" for name, (old, new) in pairs.items() if old != new]
        if differ:
            raise StepMaskError(
                f"{self.output} holds {self.model} at {self.subject.steps} steps, measured otherwise "
                f"({'; '.join(differ)}): choose another folder, or the same options"
            )

    def _conditions(self) -> str | None:
        """What tells the conditions that were given from others; None for those that are drawn."""
        listed = PipelineCall(self.subject.pipe).listed(self.subject.conditions)
        return hashlib.sha256(str(sorted(listed.items())).encode()).hexdigest()[:16] if listed else None

    def _call(self) -> dict[str, Any]:
        """What else the pipeline is called with, beside its guidance."""
        return comparable({name: value for name, value in self.subject.call_kwargs.items() if name != "guidance_scale"})

    def _mine(self, chosen: list[AnyMethod], part: int, parts: int) -> Iterator[tuple[Key, AnyMethod]]:
        groups = [(method, seed) for method in chosen for seed in method.seeds]
        for method, seed in groups[part::parts]:
            reason = method.fits(self.subject)
            if reason is not None:
                self.tell(f"{self.model}: no {method.name}, it {reason}")
                continue
            for setting in method.settings(self.subject):
                yield Key(self.model, self.subject.steps, method.name, setting, seed), method

    def _measure(self, key: Key, method: AnyMethod, before: Mapping[str, Any]) -> None:
        result, more = self._evaluate(key, method, self.num_images)
        row = row_of(result) | more
        row["images_at_once"] = min(self.batch_size, self.num_images)
        row["circumstances"] |= {"conditions": self._conditions(), "call": self._call()}
        if self.metrics is not None:
            found = self.metrics(result.masked, result.full, result.prompts)
            row["scores"] = {name: score.to_dict() for name, score in found.items()}
            row["circumstances"]["bootstrap"] = {"draws": self.metrics.bootstrap, "seed": 0}
        save_strip(result.masked, self.files.strip(key))
        self.files.save(key, {name: before[name] for name in ("speed", AT_ONE) if name in before} | row)

    def _show(self, key: Key, method: AnyMethod) -> None:
        """The first images of a row that has none to show, made again."""
        result, _ = self._evaluate(key, method, min(SHOWN, self.num_images))
        save_strip(result.masked, self.files.strip(key))

    def _time(self, key: Key, method: AnyMethod, row: Mapping[str, Any]) -> None:
        row = dict(row)
        for name, num_images in (("speed", self.batch_size), (AT_ONE, 1)):
            if name not in row:
                result, _ = self._evaluate(key, method, num_images, speed=True)
                row.setdefault("circumstances", row_of(result)["circumstances"])
                row[name] = speed_row(result)
        self.files.save(key, row)

    def _evaluate(
        self, key: Key, method: AnyMethod, num_images: int, speed: bool = False
    ) -> tuple[Evaluation, dict[str, Any]]:
        options = {
            "seeds": num_images,
            "call_kwargs": self.subject.call_kwargs,
            "conditions": self.subject.conditions,
            "batch_size": min(num_images, self.batch_size),
            "speed": speed,
            "reference": self._full.get(num_images),
        }
        if isinstance(method, Unmasked):
            running, work = partial(method.running, self.subject, key.setting), []
            if isinstance(method, Adaptive):
                running = partial(method.deciding, self.subject, key.setting, work)
            result = evaluate_unmasked(self.subject.pipe, self.subject.steps, running, **options)
            more = {"peak_cache_bytes": None, "psnr_when_learned": None}
            if work:
                more["work"] = spread_of(work)
        else:
            mask = self._mask(key, method)
            self._check_guidance(mask)
            refine = method.refine if isinstance(method, Method) else None
            what = mask if refine is None else refine(self.subject, mask)
            result = evaluate(self.subject.pipe, what, **options)
            known = (what.mask if isinstance(what, Plan) else what).provenance
            more = {"psnr_when_learned": mask.provenance.get("psnr")}
            if DENOISER_CALLS in known:
                more["effort"] = {name: known[name] for name in EFFORT}
        self._full[num_images] = result.full
        return result, more

    def _mask(self, key: Key, method: AnyMethod) -> StepMask:
        path = self._file(key)
        if path.exists():
            return StepMask.load(path)
        if isinstance(method, FamilyMethod):
            mask = self._families(method, key.seed).at(float(key.setting))
            self._check_asked(mask, key)
        else:
            mask = method.make(self.subject, key.setting, key.seed)
        mask.save(path)
        return mask

    def _family(self, method: FamilyMethod, seed: int) -> MaskFamily:
        path = self._masks / f"{self.model}-{self.subject.steps}-{method.label}-seed{seed}.json"
        if path.exists():
            return MaskFamily.load(path)
        found = method.family(self.subject, seed)
        found.save(path)
        self._state(f"{method.label}-seed{seed}").unlink(missing_ok=True)
        return found

    def _check_asked(self, mask: StepMask, key: Key) -> None:
        """Refuse a budget that the family in this folder was not learned for.

        Raises:
            StepMaskError: Names its budgets.
        """
        learned = mask.provenance.get("asked", {}).get("targets", [])
        if learned and not any(abs(float(key.setting) - target) < 1e-4 for target in learned):
            raise StepMaskError(
                f"{self._masks} holds masks of {self.model} at {self.subject.steps} steps that were learned for "
                f"{', '.join(map(str, learned))} of the MACs, not for {key.setting}: choose another folder, or those "
                "targets"
            )

    def _check_guidance(self, mask: StepMask) -> None:
        """Refuse a mask of this folder that would be sampled with its own guidance, and compared with that of the run.

        Raises:
            StepMaskError: Names both.
        """
        wanted = mask.provenance.get("guidance_scale")
        here = circumstances(self.subject.pipe, self.subject.call_kwargs)["guidance_scale"]
        if "guidance_scale" not in self.subject.call_kwargs and wanted not in (None, here):
            raise StepMaskError(
                f"{self._masks} holds masks of {self.model} that were learned with guidance {wanted:g}, and this run "
                f"has {here}: give --guidance-scale {wanted:g}, or choose another folder"
            )

    def _file(self, key: Key) -> Path:
        return self._masks / f"{key.slug}.json"

    def _state(self, label: str) -> Path:
        return self._masks / f"{self.model}-{self.subject.steps}-{label}.safetensors"


def row_of(result: Evaluation) -> dict[str, Any]:
    """What tables need of an evaluation, and what it depends on."""
    values = result.to_dict()
    return {
        "macs": result.macs_fraction,
        "psnr_mean": result.psnr.mean,
        "psnr_min": result.psnr.min,
        "psnr_sem": result.psnr.standard_error,
        "psnrs": [round(value, 2) for value in psnr_per_image(result.masked, result.full).tolist()],
        "num_images": len(result.seeds),
        "ssim_mean": None if result.ssim is None else result.ssim.mean,
        "peak_cache_bytes": result.peak_cache_bytes,
        "circumstances": {name: values[name] for name in CIRCUMSTANCES},
    }


def spread_of(work: list[float]) -> dict[str, float]:
    """How the shares of steps that images computed differ."""
    found = np.array(work)
    spread = {"mean": found.mean(), "deviation": found.std(), "min": found.min(), "max": found.max()}
    return {name: round(float(value), 4) for name, value in spread.items()}


def speed_row(result: Evaluation) -> dict[str, Any]:
    """Measured speed-up beside what the MACs promise."""
    bound = 1 / result.macs_fraction
    median = result.speed.denoiser.median
    return {
        "one_over_macs": bound,
        "denoiser_speedup": median,
        "share_of_bound": median / bound,
        **result.speed.to_dict(),
        "device": result.device,
    }


def _words(key: Key) -> str:
    drawn = "" if key.seed is None else f", learning seed {key.seed}"
    return f"{key.model}, {key.steps} steps: {key.method} {key.setting}{drawn}"
