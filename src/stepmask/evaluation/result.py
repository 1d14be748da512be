"""Evaluation: the numbers of one comparison with everything that they depend on, as JSON and as a table."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import stepmask
from stepmask.evaluation.fidelity import Spread, psnr_per_image, ssim_per_image, why_no_ssim
from stepmask.evaluation.sampler import Pairs
from stepmask.evaluation.speed import Ratio, Speed
from stepmask.inspection.pipeline_call import PipelineCall
from stepmask.inspection.placement import device_of, dtype_of
from stepmask.inspection.registry import denoiser_of

if TYPE_CHECKING:
    from rich.table import Table


FULL_RUN = "the full run"


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """Holds what a masked run is worth, compared with the full run from the same noise."""

    pipeline: str  #: The class of the pipeline.
    denoiser: str  #: The class of its denoiser.
    scheduler: str  #: The class of its scheduler.
    num_inference_steps: int  #: The number of steps that the pipeline was called with.
    rows: int  #: T, the number of steps in the scheduler's run.
    seeds: tuple[int, ...]  #: One seed per image.
    guidance_scale: float | None  #: The strength of guidance, or None where the pipeline has none.
    dtype: str  #: The precision of the weights.
    device: str  #: The name of the accelerator, or of the processor with the number of threads.
    versions: Mapping[str, str]  #: The versions of Python, torch, diffusers and stepmask.
    macs_fraction: float  #: The share of the full run's MACs that the plan keeps.
    macs_per_image: float  #: Multiply-accumulates per image under the plan, with attention products and guidance.
    full_macs_per_image: float  #: Multiply-accumulates per image of the full run.
    cells: Mapping[str, int]  #: The number of cells by state.
    peak_cache_bytes: int  #: The most bytes that caches held at once, for one batch.
    psnr: Spread  #: PSNR against the full run in dB, over images.
    ssim: Spread | None  #: SSIM against the full run; None for images under 11 pixels, and without torchmetrics.
    speed: Speed | None  #: The measured speed-up, or None where it was not measured.
    full: Tensor = field(repr=False)  #: (N, C, H, W) float32, the images of the full run.
    masked: Tensor = field(repr=False)  #: (N, C, H, W) float32, the images of the masked run.
    evaluations: float | None = None
    """The work of one image in evaluations of the denoiser at full resolution."""
    against: str = FULL_RUN
    """Of which run the images in ``full`` are, in words."""
    prompts: tuple[str, ...] | None = field(default=None, repr=False)
    """One prompt per image, or None where the pipeline takes none."""

    @classmethod
    def of(cls, pairs: Pairs, timed_batch: int | None, **known: Any) -> Evaluation:
        """Compare the images and times of pairs of runs.

        Args:
            pairs: Full and masked runs.
            timed_batch: Images per call of the runs that speed is measured by; None leaves it unmeasured.
            known: All fields but ``psnr``, ``ssim``, ``speed``, ``full`` and ``masked``.
        """
        ssim = ssim_per_image(pairs.masked, pairs.full)
        return cls(
            psnr=Spread.of(psnr_per_image(pairs.masked, pairs.full)),
            ssim=None if ssim is None else Spread.of(ssim),
            speed=None if timed_batch is None else Speed.of(pairs.times, timed_batch),
            full=pairs.full,
            masked=pairs.masked,
            **known,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything but images and prompts as JSON values."""
        left_out = ("full", "masked", "prompts")
        values = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in left_out}
        return {
            **values,
            **{name: values[name] and values[name].to_dict() for name in ("psnr", "ssim", "speed")},
            "seeds": list(self.seeds),
            "versions": dict(self.versions),
            "cells": dict(self.cells),
            "one_over_macs_fraction": 1 / self.macs_fraction,
            "macs_convention": "attention products counted, guidance included, decoder not",
        }

    def __rich__(self) -> Table:
        """Return the table that the command line prints."""
        from rich.table import Table
        from rich.text import Text

        title = Text(f"{self.denoiser}, {self.scheduler}, {self.rows} steps")
        table = Table(title=title, title_justify="left")
        table.add_column(f"against {self.against}", no_wrap=True)
        table.add_column("value", justify="right", style="bold")
        table.add_column("spread", style="dim")
        for row in self._rows():
            table.add_row(*map(Text, row))
        table.caption = f"{len(self.seeds)} images, seeds {_span(self.seeds)}; {self.dtype} on {self.device}"
        table.caption_justify = "left"
        return table

    def __str__(self) -> str:
        """Return the table as plain text."""
        from rich.console import Console

        console = Console(width=100, color_system=None)
        with console.capture() as capture:
            console.print(self)
        return capture.get()

    def _rows(self) -> list[tuple[str, str, str]]:
        macs = f"{_giga(self.macs_per_image)} of {_giga(self.full_macs_per_image)} per image"
        note = f"standard error {self.psnr.standard_error:.2f}, worst {self.psnr.min:.2f}"
        rows = [("MACs of the plan", f"{self.macs_fraction:.1%}", macs), ("PSNR", f"{self.psnr.mean:.2f} dB", note)]
        if self.ssim is None:
            rows.append(("SSIM", "-", why_no_ssim(self.full) or ""))
        else:
            note = f"standard error {self.ssim.standard_error:.4f}, worst {self.ssim.min:.4f}"
            rows.append(("SSIM", f"{self.ssim.mean:.4f}", note))
        if self.evaluations is not None:
            rows.append(("work", f"{self.evaluations:.2f}", "evaluations of the denoiser"))
        rows.append(("1 / MACs", f"{1 / self.macs_fraction:.2f}x", "what the speed-up can be"))
        if self.speed is not None:
            note = f"{self.speed.pairs} pair{'' if self.speed.pairs == 1 else 's'} at batch {self.speed.batch_size}"
            rows.append(("speed-up, denoiser", *_ratio(self.speed.denoiser, note)))
            times = f"{self.speed.full_s.call:.2f} s to {self.speed.masked_s.call:.2f} s"
            rows.append(("speed-up, whole call", *_ratio(self.speed.call, times)))
        rows.append(("peak cache", _size(self.peak_cache_bytes), "for one batch"))
        return rows


def circumstances(pipe: Any, call_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the fields of an `Evaluation` that say under what conditions it was made."""
    import diffusers

    denoiser = denoiser_of(pipe)
    return {
        "pipeline": type(pipe).__name__,
        "denoiser": type(denoiser).__name__,
        "scheduler": type(pipe.scheduler).__name__,
        "guidance_scale": PipelineCall(pipe).guidance(call_kwargs),
        "dtype": str(dtype_of(denoiser)).removeprefix("torch."),
        "device": device_name(device_of(denoiser)),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "stepmask": stepmask.__version__,
        },
    }


def device_name(device: torch.device) -> str:
    """Return the name of an accelerator, or of the processor with its number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text(errors="replace").splitlines() if line.startswith("model name")]
        name = lines[0].partition(":")[2].strip() if lines else name
    count = torch.get_num_threads()
    return f"{name}, {count} thread{'' if count == 1 else 's'}"


def _giga(macs: float) -> str:
    return f"{macs / 1e9:.4g} G" if macs >= 1e9 else f"{macs / 1e6:.4g} M"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:.1f} MiB" if num_bytes >= 2**20 else f"{num_bytes / 2**10:.1f} KiB"


def _ratio(ratio: Ratio, note: str) -> tuple[str, str]:
    return f"{ratio.median:.2f}x", f"{ratio.min:.2f} to {ratio.max:.2f}; {note}"


def _span(seeds: tuple[int, ...]) -> str:
    if seeds == tuple(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds[:4])) + (", ..." if len(seeds) > 4 else "")
