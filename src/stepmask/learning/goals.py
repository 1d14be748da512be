"""Goals: what a user asks of a mask, checked before anything is loaded or run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from numbers import Real
from typing import Any

from stepmask.errors import StepMaskError, TargetError
from stepmask.family import MaskFamily
from stepmask.mask import StepMask

Start = StepMask | MaskFamily | Iterable[StepMask]
"""What a user gives to start from."""

TARGETS = ("target_macs", "target_speedup", "min_psnr", "targets")
"""Goals of which one is asked for."""

TOGETHER = frozenset({"target_macs", "target_speedup"})
"""Those among them that go together: a mask keeps to both."""

DEFAULT_TARGET_MACS = 0.6
"""The share of the full run's MACs where nothing is asked for."""


@dataclass(frozen=True, kw_only=True)
class Goals:
    """What a mask, or a family of masks, shall reach.

    Attributes:
        target_macs: Kept share of the full run's MACs after elimination.
        target_speedup: Factor by which the denoiser's time shall fall.
        min_psnr: Least mean PSNR in dB against the full run; the cheapest mask that has it is wanted.
        targets: Several shares of the full run's MACs, for a family.
        max_cache_bytes: Most bytes of cached values per image; None for what the learner takes for usual.
        max_minutes: How long learning may take, over all its sessions; None for as long as it takes.
        start: Masks to start from.
        needs_target: Whether one of the first four must be given.

    Raises:
        TargetError: None of the first four is given, or several that exclude each other, or one makes no sense.
    """

    target_macs: float | None = None
    target_speedup: float | None = None
    min_psnr: float | None = None
    targets: tuple[float, ...] | None = None
    max_cache_bytes: int | None = None
    max_minutes: float | None = None
    start: tuple[StepMask, ...] = ()
    needs_target: bool = field(default=True, repr=False)

    def __post_init__(self) -> None:
        asked = [name for name in TARGETS if getattr(self, name) is not None]
        if (len(asked) > 1 and not TOGETHER.issuperset(asked)) or (self.needs_target and not asked):
            raise TargetError(
                f"ask for one of {', '.join(TARGETS)}, or for target_macs and target_speedup together, got "
                f"{', '.join(asked) or 'none'}"
            )
        if self.targets is not None and not self.targets:
            raise TargetError("targets must name at least one share of the full run, such as (0.6, 0.4)")
        if self.target_speedup is not None and not (_is_number(self.target_speedup) and 1 <= self.target_speedup < 1e6):
            raise TargetError(f"target_speedup is a factor of at least 1, such as 1.8, got {self.target_speedup!r}")
        if self.min_psnr is not None and not (_is_number(self.min_psnr) and 0 < self.min_psnr < 80):
            raise TargetError(f"min_psnr is in dB, between 0 and 80, got {self.min_psnr!r}")
        if self.max_cache_bytes is not None and not (_is_number(self.max_cache_bytes) and self.max_cache_bytes > 0):
            raise TargetError(f"max_cache_bytes must be a positive number of bytes, got {self.max_cache_bytes!r}")
        if self.max_minutes is not None and not (_is_number(self.max_minutes) and 0 < self.max_minutes < 1e6):
            raise TargetError(f"max_minutes must be a positive number of minutes, got {self.max_minutes!r}")

    @property
    def given(self) -> dict[str, Any]:
        """What was asked for, by name."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "needs_target"}
        return {name: value for name, value in values.items() if value not in (None, ())}

    def to_dict(self) -> dict[str, Any]:
        """What was asked for beside a start, as JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in self.given.items() if k != "start"}


def masks_of(start: Start | None) -> tuple[StepMask, ...]:
    """The masks that a user gives to start from.

    Raises:
        StepMaskError: Something among them is no mask.
    """
    if start is None:
        return ()
    if isinstance(start, MaskFamily):
        return tuple(member.mask for member in start)
    given = tuple(start) if isinstance(start, Iterable) else (start,)
    for mask in given:
        if not isinstance(mask, StepMask):
            raise StepMaskError(
                f"start takes a StepMask, a MaskFamily or several masks, got {type(mask).__name__}: "
                "StepMask.load and MaskFamily.load read files"
            )
    return given


def shares_of(targets: Any) -> tuple[float, ...]:
    """The targets of a family as they were given.

    Raises:
        TargetError: They are no collection of numbers.
    """
    if not isinstance(targets, Iterable) or isinstance(targets, str):
        raise TargetError(f"targets are several shares of the full run, such as (0.6, 0.4), got {targets!r}")
    return tuple(targets)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
