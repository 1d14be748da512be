"""The consistency model that comes with the laboratory, as an ordinary pipeline of diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import DDPMPipeline, LCMScheduler

from stepmask_lab import reference
from stepmask_lab.reference.half_precision import read_weights

WEIGHTS = Path(__file__).parent / "weights"
TEACHER_STEPS = 25
"""Of the teacher's run that the student jumps along."""


def names() -> list[str]:
    """Reference models that a student was distilled from."""
    return sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))


def load_student(name: str, folder: Path | None = None) -> DDPMPipeline:
    """The student of a reference model, in float32; it samples in 1 to 25 steps.

    Args:
        name: Of the reference model.
        folder: With ``NAME.safetensors``; None for those of the laboratory.
    """
    pipe = student_of(reference.load(name))
    pipe.unet.load_state_dict(read_weights((folder or WEIGHTS) / f"{name}.safetensors"))
    return pipe


def student_of(teacher: Any) -> DDPMPipeline:
    """A pipeline with the teacher's U-Net and the scheduler of consistency models; it is yet to be trained."""
    known = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "clip_sample")
    config = {name: teacher.scheduler.config[name] for name in known}
    scheduler = LCMScheduler(prediction_type="v_prediction", original_inference_steps=TEACHER_STEPS, **config)
    pipe = DDPMPipeline(unet=teacher.unet, scheduler=scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe
