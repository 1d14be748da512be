"""What learning refuses, in words, before anything runs; each sentence names the best way that works there."""

from __future__ import annotations

from typing import Any

from torch import nn

from stepmask.errors import StepMaskError, UnsupportedModelError
from stepmask.inspection.graph_bytes import can_checkpoint
from stepmask.inspection.pipeline_call import is_modular
from stepmask.inspection.placement import cast_to, device_of, dtype_of, is_offloaded
from stepmask.inspection.quantised import is_quantised, lets_gradients_through
from stepmask.inspection.registry import denoiser_of, denoisers_of
from stepmask.learning.processes import launched
from stepmask.runtime.apply import check_reads_no_attention, has_cache_of_diffusers, is_applied
from stepmask.runtime.rows import Course
from stepmask.runtime.spread import mesh_of

INSTEAD = "stepmask.schedules.key_steps(pipe, steps) makes a good mask there without learning"
"""The best way where gradients cannot pass: 34.2 dB at half of the MACs on ddpm-cifar10, 20 steps, where the paper's
learner, which needs no gradient between steps, had 19.7 (lab/results)."""


class NoGradientError(UnsupportedModelError):
    """No gradient of the images comes back through the run, which may be learned from without."""


def check_learnable(pipe: Any) -> None:
    """Refuse a pipeline whose full run cannot be learned from by looking into it.

    Raises:
        StepMaskError: As `check_full_run` raises it.
        NoGradientError: It has several denoisers.
    """
    check_full_run(pipe)
    if len(denoisers_of(pipe)) > 1:
        raise NoGradientError(
            f"{type(pipe).__name__} runs two denoisers or more, and gradients are followed through one alone: {INSTEAD}"
        )


def check_full_run(pipe: Any) -> None:
    """Refuse a pipeline whose runs are no full ones, or are made by several processes.

    Raises:
        StepMaskError: A mask is applied to the model.
        UnsupportedModelError: It is spread over processes, has a cache of diffusers, or reads the attention of blocks.
    """
    denoiser = denoiser_of(pipe)
    check_reads_no_attention(pipe)
    if launched()[1] > 1 and mesh_of(denoiser) is not None:
        raise UnsupportedModelError(
            "the denoiser is spread over the processes (enable_parallelism, or sharded weights), and learning shares "
            "out images instead: learn with a whole denoiser in each process, the mask works on the spread one too"
        )
    if is_applied(denoiser):
        raise StepMaskError("a mask is applied to this model: remove it before learning another")
    if has_cache_of_diffusers(denoiser):
        raise UnsupportedModelError(
            "hooks of diffusers carry values of the denoiser from step to step (enable_cache?), so its full run cannot "
            "be learned from: call disable_cache() first"
        )


def check_layers(pipe: Any) -> None:
    """Refuse quantised layers that let no gradient through, beside others that would: what came back would be wrong.

    Raises:
        NoGradientError: There is one; or weights are moved away after each call, before a gradient comes back.
    """
    denoiser = denoiser_of(pipe)
    if any(parameter.is_inference() for parameter in denoiser.parameters()):
        raise NoGradientError(
            f"the weights of the {type(denoiser).__name__} were made under torch.inference_mode(), which no gradient "
            f"passes: load the model outside of it; or {INSTEAD}"
        )
    if any(map(is_offloaded, denoiser.modules())):
        raise NoGradientError(
            f"the denoiser is offloaded: learn before enabling offload, the mask works after it; or {INSTEAD}"
        )
    kind = dtype_of(denoiser), device_of(denoiser)
    for name, module in denoiser.named_modules():
        if is_quantised(module) and cast_to(module) is None and not lets_gradients_through(module, *kind):
            raise NoGradientError(
                f"{name} is a quantised {type(module).__name__}, which lets no gradient through: learn on the plain "
                f"model, the mask works on the quantised one too; or {INSTEAD}"
            )


def check_gradients(pipe: Any) -> None:
    """Refuse also what is known to let no gradient through from one step to the next.

    Raises:
        NoGradientError: The pipeline is modular or has several denoisers, or a quantised layer lets none through.
    """
    check_learnable(pipe)
    check_layers(pipe)
    if is_modular(pipe):
        raise NoGradientError(
            f"the blocks of a {type(pipe).__name__} switch gradients off, so no error of its images comes back through "
            "them: learn with the standard pipeline of the same denoiser and scheduler, the mask works in both; or "
            f"{INSTEAD}"
        )


def check_even(course: Course | None) -> None:
    """Refuse runs whose rows differ, through which gradients are not followed.

    Raises:
        NoGradientError: Some row has more inputs than others, or begins anew.
    """
    if course is not None and not course.is_even:
        anew = f" and begin anew at row {', '.join(map(str, course.anew))}" if course.anew else ""
        raise NoGradientError(
            f"rows of a run have {min(course.inputs)} to {max(course.inputs)} inputs{anew} (does guidance begin or end "
            f"on the way?), and gradients need the same calls at every step; or {INSTEAD}"
        )


def check_checkpointing(denoiser: nn.Module) -> None:
    """Refuse gradient checkpointing where a denoiser has none.

    Raises:
        UnsupportedModelError: It has none.
    """
    if not can_checkpoint(denoiser):
        raise UnsupportedModelError(
            f"{type(denoiser).__name__} has no gradient checkpointing: leave gradient_checkpointing out; "
            "images_per_call=1 takes less memory too"
        )


def no_gradient(row: str, pipe: Any) -> NoGradientError:
    """What to raise where no gradient arrives at a row of a run, as in ``"row 3"``, or at ``"the images"``."""
    return NoGradientError(
        f"no gradient reaches {row} through {type(pipe.scheduler).__name__} or the pipeline's loop: take another "
        f"scheduler; or {INSTEAD}"
    )


def not_differentiable(where: str) -> NoGradientError:
    """What to raise where a denoiser lets no gradient through, which `where` says in a few words."""
    return NoGradientError(
        f"{where}: it is quantised or compiled in a way that cannot be differentiated; learn on the plain model, the "
        f"mask works on this one too; or {INSTEAD}"
    )
