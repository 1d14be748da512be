"""What a mask is worth outside of what it was learned for: beside a mask learned there, and a schedule.

One mask is learned for a reference model at 20 steps and half of the MACs. In every other setting it is taken over by
`StepMask.resample`, refined from there by ``learn(start=...)``, and another is learned from nothing at the same cost.
Writes ``transfer-MODEL.json``; a stopped run goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from stepmask.errors import StepMaskError
from stepmask.evaluation import evaluate
from stepmask.files import write_atomically
from stepmask.inspection.describe import describe
from stepmask.inspection.measure_cost import measure_cost
from stepmask.inspection.pipeline_call import PipelineCall
from stepmask.inspection.registry import denoiser_of
from stepmask.learning import learn
from stepmask.liveness import make_plan
from stepmask.mask import StepMask
from stepmask.printing import console as new_console
from stepmask.schedules import fora
from stepmask_lab import reference
from stepmask_lab.benchmark.methods import GUIDANCE_SCALE, guided, with_dpm

STEPS = 20
TARGET = 0.5
NUM_IMAGES = 64
QUICK = {"rounds": 1, "shrink": 0.3}
"""Every learning here is a short one, those in the new setting as those that are taken over."""
REFINING = {"rounds": 2}
"""Of a mask that is taken over; nothing has to be walked down to it."""
LORA_RANK, LORA_STRENGTH = 4, 0.05


@dataclass(frozen=True)
class Variation:
    """One way to sample with a model."""

    name: str
    steps: int = field(default_factory=lambda: STEPS)
    guidance_scale: float = GUIDANCE_SCALE
    change: Callable[[Any], Any] = lambda pipe: pipe
    """Makes the pipeline of this setting from the model's."""
    conditions: tuple[int, ...] | None = None
    learned_on: tuple[int, ...] | None = None
    """Conditions of the mask that is taken over, where they are not random."""

    def call_kwargs(self, pipe: Any) -> dict[str, Any]:
        """Arguments of the pipeline's call."""
        return guided(pipe, self.guidance_scale)


def variations(pipe: Any) -> Iterator[Variation]:
    """What can be changed about a reference model."""
    yield Variation("10 steps", steps=10)
    yield Variation("DPM-Solver++", change=with_dpm)
    yield Variation("bfloat16", change=lambda pipe: pipe.to(torch.bfloat16))
    call = PipelineCall(pipe)
    if call.takes("guidance_scale"):
        yield Variation("guidance 1.5", guidance_scale=1.5)
        yield Variation("guidance 5", guidance_scale=5.0)
    classes = call.num_classes
    if classes and call.takes("class_labels"):
        half = tuple(range(classes // 2))
        yield Variation("other classes", conditions=tuple(range(classes // 2, classes)), learned_on=half)
    if type(denoiser_of(pipe)).__name__ == "UNet2DModel":
        yield Variation("48 x 48 pixels", change=_larger)
    else:
        yield Variation("LoRA", change=_with_lora)
    yield Variation("50 steps", steps=50)


def run_transfer(output: Path, name: str, num_images: int = NUM_IMAGES) -> list[dict[str, Any]]:
    """Measure every setting of one reference model.

    Args:
        output: Folder for results and masks; what is there already is not measured again.
        name: Of the model.
        num_images: Images per point, on seeds that learning has not seen.

    Returns:
        Rows: setting, macs, psnr_here (learned in this setting), psnr_taken_over, psnr_refined, psnr_schedule; and
        calls_here, calls_refined: of the denoiser, by learning.
    """
    return _Transfer(output, name, num_images).run()


@dataclass
class _Transfer:
    output: Path
    name: str
    num_images: int
    console: Console = field(default_factory=new_console)

    def run(self) -> list[dict[str, Any]]:
        """All settings, each saved when it is done."""
        path = self.output / f"transfer-{self.name}.json"
        (self.output / "masks").mkdir(parents=True, exist_ok=True)
        results = json.loads(path.read_text()) if path.exists() else {"model": self.name, "rows": []}
        done = {row["setting"] for row in results["rows"]}
        for variation in variations(reference.load(self.name)):
            if variation.name not in done:
                results["rows"].append(self._measure(variation))
                results["circumstances"] = {
                    "learned_at_steps": STEPS,
                    "target": TARGET,
                    "guidance_scale": GUIDANCE_SCALE,
                    "learning": QUICK,
                    "refining": REFINING,
                    "num_images": self.num_images,
                    "scheduler": "DDIM",
                }
                write_atomically(path, json.dumps(results, indent=1) + "\n")
        return results["rows"]

    def _measure(self, variation: Variation) -> dict[str, Any]:
        base = self._base(variation.learned_on)
        pipe = variation.change(reference.load(self.name))
        pipe.scheduler.set_timesteps(variation.steps)
        taken = base.resample(pipe.scheduler)
        share = measure_cost(pipe).fraction(make_plan(taken, describe(pipe)))
        name, enough = f"{self.name}-{variation.name}", share + 1e-9
        masks = {
            "here": self._learned(name, pipe, variation, enough, **QUICK),
            "taken_over": taken,
            "refined": self._learned(f"{name}-refined", pipe, variation, enough, start=base, **REFINING),
            "schedule": fora(pipe, variation.steps, 2, forecast="linear"),
        }
        full, row = None, {"setting": variation.name, "macs": share}
        row |= {f"calls_{label}": masks[label].provenance["denoiser_calls"] for label in ("here", "refined")}
        for label, mask in masks.items():
            result = evaluate(
                pipe,
                mask,
                seeds=self.num_images,
                num_inference_steps=variation.steps,
                call_kwargs=variation.call_kwargs(pipe),
                conditions=variation.conditions,
                speed=False,
                reference=full,
            )
            full = result.full
            row |= {f"psnr_{label}": result.psnr.mean, f"macs_{label}": result.macs_fraction}
        labels = {
            "here": "learned there",
            "taken_over": "taken over",
            "refined": "refined",
            "schedule": "FORA 1:2 with forecasts",
        }
        found = ", ".join(f"{words} {row[f'psnr_{label}']:.1f} dB" for label, words in labels.items())
        self.console.print(f"{self.name}, {variation.name}: {found}")
        return row

    def _base(self, conditions: tuple[int, ...] | None) -> StepMask:
        variation = Variation("base", conditions=conditions)
        label = f"{self.name}-transfer" + ("" if conditions is None else "-first-classes")
        return self._learned(label, reference.load(self.name), variation, TARGET, **QUICK)

    def _learned(self, label: str, pipe: Any, variation: Variation, target: float, **options: Any) -> StepMask:
        path = self.output / "masks" / f"{label.lower().replace(' ', '-').replace('+', 'p')}.json"
        if path.exists():
            return StepMask.load(path)
        self.console.print(f"learning {path.stem}")
        mask = learn(
            pipe,
            variation.steps,
            target,
            call_kwargs=variation.call_kwargs(pipe),
            conditions=variation.conditions,
            resume=path.with_suffix(".safetensors"),
            **options,
        )
        mask.save(path)
        path.with_suffix(".safetensors").unlink(missing_ok=True)
        return mask


def _larger(pipe: Any) -> Any:
    pipe.unet.register_to_config(sample_size=48)
    return pipe


def _with_lora(pipe: Any) -> Any:
    """Random low-rank changes of all attention projections: a stand-in for a trained LoRA."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError as error:
        raise StepMaskError("the variation with a LoRA needs peft: pip install 'stepmask-lab[transfer]'") from error

    torch.manual_seed(0)
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    config = LoraConfig(
        r=LORA_RANK, lora_alpha=LORA_STRENGTH * LORA_RANK, target_modules=targets, init_lora_weights=False
    )
    inject_adapter_in_model(config, denoiser_of(pipe))
    return pipe
