"""Every error that stepmask raises for its user.

A message names the thing, what was expected, what came, and how to fix it.
"""

from __future__ import annotations


class StepMaskError(ValueError):
    """Base of all errors that a user can cause and mend."""


class MaskFileError(StepMaskError):
    """A mask file cannot be read: truncated, edited into nonsense, or of another format version."""


class MaskMismatchError(StepMaskError):
    """A mask does not belong to this model, scheduler, or number of steps."""


class UnknownArchitectureError(StepMaskError):
    """No registered architecture fits the given model."""


class UnsupportedModelError(StepMaskError):
    """The architecture is known, but this instance cannot be gated or learned as it is (compiled, offloaded, ...)."""


class PositionError(StepMaskError):
    """The scheduler does not tell at which row of its run the denoiser was called."""


class TargetError(StepMaskError):
    """A budget cannot be reached."""
