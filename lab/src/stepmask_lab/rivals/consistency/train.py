"""Distils a consistency model from a reference model on pixels.

``python -m stepmask_lab.rivals.consistency.train MODEL --data CIFAR10 --output FOLDER --hours HOURS`` is the command. A
run that was stopped goes on where it was when the same command is given again. Ends with ``MODEL.safetensors``, which
`student.load_student` reads, and ``MODEL.json``, the record.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from stepmask.errors import StepMaskError
from stepmask_lab import reference
from stepmask_lab.reference.cifar10 import load_cifar10
from stepmask_lab.reference.conditioning import Unconditional
from stepmask_lab.reference.half_precision import read_weights, write_weights
from stepmask_lab.reference.train import (
    ENDLESS_HOURS,
    ENDLESS_IMAGES,
    Budget,
    Hours,
    Images,
    Threads,
    begin,
    train,
    write_record,
)
from stepmask_lab.rivals.consistency.loss import distillation_loss
from stepmask_lab.rivals.consistency.student import TEACHER_STEPS, student_of

FIRST_IMAGES = 25_600
"""On which the student learns to predict velocities, before it learns to jump."""


def main(
    model: Annotated[str, typer.Argument(help="a reference model without conditions, on pixels")],
    data: Annotated[Path, typer.Option(help="CIFAR-10: a folder or tar archive with train/<class>/*.jpg")],
    output: Annotated[Path, typer.Option(help="folder for checkpoints and the finished weights")],
    hours: Hours = ENDLESS_HOURS,
    images: Images = ENDLESS_IMAGES,
    first_images: Annotated[int, typer.Option(help="before the student learns to jump")] = FIRST_IMAGES,
    learning_rate: Annotated[float, typer.Option()] = 4e-4,
    batch_size: Annotated[int, typer.Option()] = 64,
    threads: Threads = 0,
) -> None:
    """Distil one model; give the same command again to go on after a stop."""
    pipe = reference.load(model)
    if hasattr(pipe, "vae"):
        raise StepMaskError(f"{model} draws latents by class or prompt; a model of pixels without conditions is wanted")
    begin(output, hours, images, threads)
    pixels, labels = (torch.from_numpy(array) for array in load_cifar10(data))
    teacher = Unconditional(pipe.unet).eval().requires_grad_(False)
    student = student_of(reference.load(model))
    whole, start = Unconditional(student.unet), output / "first.safetensors"
    if not start.exists():
        first = Budget(hours=ENDLESS_HOURS, images=first_images, learning_rate=learning_rate)
        loss = distillation_loss(teacher, student.scheduler, consistent=False)
        train(whole, loss, pixels, labels, output / "first", first, batch_size)
        write_weights(student.unet, start)
    student.unet.load_state_dict(read_weights(start))
    budget = Budget(hours=hours, images=images, learning_rate=learning_rate)
    progress = train(whole, distillation_loss(teacher, student.scheduler), pixels, labels, output, budget, batch_size)
    write_weights(student.unet, output / f"{model}.safetensors")
    more = {"batch_size": batch_size, "teacher_steps": TEACHER_STEPS, "images_before": first_images}
    write_record(output / f"{model}.json", f"{model}, consistency model", progress, budget, **more)


if __name__ == "__main__":
    typer.run(main)
