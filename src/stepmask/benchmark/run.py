"""Runs the comparison and keeps what it has: an interrupted benchmark goes on where it was.

Writes ``MODEL.json`` for each reference model (raw results and circumstances) and the masks. It draws nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor

from stepmask import reference
from stepmask._files import write_atomically
from stepmask.benchmark.memory import probing_memory_mib
from stepmask.benchmark.methods import Entry, entries, family, is_unet, random_mask
from stepmask.benchmark.transfer import run_transfer
from stepmask.errors import StepMaskError
from stepmask.evaluation import Evaluation, evaluate
from stepmask.family import MaskFamily
from stepmask.mask import StepMask
from stepmask.runtime.sampling import parameters_of
from stepmask.schedules import deepcache, fora

STEPS = (50, 20)
NUM_IMAGES = 64
GUIDANCE_SCALE = 2.5
SPEED_STEPS = 20
MEMORY_STEPS = (20, 50, 100)


def run_benchmark(
    output: Path,
    *,
    models: Iterable[str] | None = None,
    steps: Iterable[int] = STEPS,
    num_images: int = NUM_IMAGES,
    speed: bool = True,
    memory: bool = True,
    transfer: bool = False,
) -> list[dict[str, Any]]:
    """Compare learned masks with FORA and DeepCache on the reference models.

    Args:
        output: Folder for results, masks and the curve; what is there already is not measured again.
        models: Names of reference models; by default all.
        steps: Numbers of inference steps.
        num_images: Images per point, on seeds that learning has not seen.
        speed: Whether to measure the denoiser's speed-up at batch 16.
        memory: Whether to measure the memory of probing runs.
        transfer: Whether to measure what masks are worth outside of what they were learned for.

    Returns:
        All rows: model, steps, method, setting, macs, psnr_mean, psnr_min, psnr_sem, ssim_mean.
    """
    if not reference.names():
        raise StepMaskError("the package has no reference models; see stepmask.reference.train")
    console = Console(stderr=True)
    (output / "masks").mkdir(parents=True, exist_ok=True)
    names = list(models or reference.names())
    for name in names:
        bench = _Bench(name, output, num_images, console)
        for count in steps:
            bench.compare(count)
        if speed:
            bench.measure_speed()
        if memory:
            bench.measure_memory()
    for name in names if transfer else ():
        run_transfer(output, name)
    paths = [output / f"{name}.json" for name in reference.names()]
    results = [json.loads(path.read_text()) for path in paths if path.exists()]
    rows = [row for result in results for row in result["rows"]]
    return rows


class _Bench:
    """The results of one model, written after every measurement."""

    def __init__(self, name: str, output: Path, num_images: int, console: Console) -> None:
        self.name, self.output, self.num_images, self.console = name, output, num_images, console
        self.path = output / f"{name}.json"
        self.pipe = reference.load(name)
        guided = "guidance_scale" in parameters_of(self.pipe)
        self.call_kwargs: dict[str, Any] = {"guidance_scale": GUIDANCE_SCALE} if guided else {}
        self.results: dict[str, Any] = {"model": name, "rows": [], "speed": [], "probing_memory_mib": {}}
        if self.path.exists():
            self.results = json.loads(self.path.read_text())

    def compare(self, steps: int) -> None:
        """PSNR and MACs of every mask at one number of steps."""
        full: Tensor | None = None
        families = lru_cache(lambda seed, forecast: self._family(steps, seed, forecast))
        for entry in entries(self.pipe, steps, self.call_kwargs, families):
            key = (steps, entry.method, entry.setting, entry.seed)
            if any(
                tuple(row[k] for k in ("steps", "method", "setting", "seed")) == key for row in self.results["rows"]
            ):
                continue
            seed = "" if entry.seed is None else f", learning seed {entry.seed}"
            self.console.print(f"{self.name}, {steps} steps: {entry.method} {entry.setting}{seed}")
            mask = self._mask(entry, steps)
            result = evaluate(
                self.pipe,
                mask,
                seeds=self.num_images,
                call_kwargs=self.call_kwargs,
                speed=False,
                reference=full,
            )
            full = result.full
            self.results["rows"].append(self._row(entry, steps, result, mask))
            self._save(result)

    def measure_speed(self) -> None:
        """Speed-up of the denoiser and of the call at batch 16, beside 1 / MACs."""
        masks = {"FORA 1:2": fora(self.pipe, SPEED_STEPS, 2), "random 0.5": random_mask(self.pipe, SPEED_STEPS)}
        if is_unet(self.pipe):
            masks["DeepCache 1:3"] = deepcache(self.pipe, SPEED_STEPS, 3)
        learned = self._mask_path(SPEED_STEPS, "learned", "0.5", 0)
        if learned.exists():
            masks["learned 0.5"] = StepMask.load(learned)
        for label, mask in masks.items():
            if any(row["mask"] == label for row in self.results["speed"]):
                continue
            self.console.print(f"{self.name}: speed of {label}")
            result = evaluate(self.pipe, mask, seeds=16, call_kwargs=self.call_kwargs, batch_size=16, speed_pairs=5)
            bound = 1 / result.macs_fraction
            median = result.speed.denoiser.median
            self.results["speed"].append(
                {
                    "mask": label,
                    "steps": SPEED_STEPS,
                    "macs": result.macs_fraction,
                    "one_over_macs": bound,
                    "denoiser_speedup": median,
                    "share_of_bound": median / bound,
                    **result.speed.to_dict(),
                }
            )
            self._save(result)

    def measure_memory(self) -> None:
        """Memory of a probing run at several numbers of steps."""
        for steps in MEMORY_STEPS:
            if str(steps) not in self.results["probing_memory_mib"]:
                found = probing_memory_mib(self.name, steps)
                self.results["probing_memory_mib"][str(steps)] = {k: round(v, 1) for k, v in found.items()}
                self._save()

    def _family(self, steps: int, seed: int, forecast: bool) -> MaskFamily:
        kind = "family" if forecast else "family-hold-only"
        path = self.output / "masks" / f"{self.name}-{steps}-{kind}-seed{seed}.json"
        if path.exists():
            return MaskFamily.load(path)
        state = path.with_suffix(".safetensors")
        began = time.monotonic()
        found = family(self.pipe, steps, self.call_kwargs, seed, forecast, state)
        found.save(path)
        minutes = (time.monotonic() - began) / 60
        self.results.setdefault("learning_minutes", {})[path.stem] = round(minutes, 2)
        state.unlink(missing_ok=True)
        return found

    def _mask(self, entry: Entry, steps: int) -> StepMask:
        path = self._mask_path(steps, entry.method, entry.setting, entry.seed)
        if path.exists():
            return StepMask.load(path)
        mask = entry.make()
        mask.save(path)
        return mask

    def _mask_path(self, steps: int, method: str, setting: str, seed: int | None) -> Path:
        label = f"{self.name}-{steps}-{method}-{setting}" + ("" if seed is None else f"-seed{seed}")
        for old, new in ((", ", "-"), (" + ", "-"), ("'", ""), (" ", "-"), (":", "to")):
            label = label.replace(old, new)
        label = label.lower()
        return self.output / "masks" / f"{label}.json"

    def _row(self, entry: Entry, steps: int, result: Evaluation, mask: StepMask) -> dict[str, Any]:
        return {
            "model": self.name,
            "steps": steps,
            "method": entry.method,
            "setting": entry.setting,
            "seed": entry.seed,
            "macs": result.macs_fraction,
            "psnr_mean": result.psnr.mean,
            "psnr_min": result.psnr.min,
            "psnr_sem": result.psnr.standard_error,
            "ssim_mean": None if result.ssim is None else result.ssim.mean,
            "peak_cache_bytes": result.peak_cache_bytes,
            "psnr_when_learned": mask.provenance.get("psnr"),
        }

    def _save(self, result: Evaluation | None = None) -> None:
        if result is not None:
            drop = ("psnr", "ssim", "speed", "cells", "macs_fraction", "macs_per_image", "peak_cache_bytes")
            self.results["circumstances"] = {k: v for k, v in result.to_dict().items() if k not in drop}
        write_atomically(self.path, json.dumps(self.results, indent=1) + "\n")
