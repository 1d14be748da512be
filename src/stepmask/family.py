"""MaskFamily: masks of one model at several costs, from one learning pass, in one file. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar

from stepmask.errors import StepMaskError, TargetError
from stepmask.files import read_versioned, said_of, write_json
from stepmask.hub import Shared
from stepmask.mask import StepMask

FORMAT, FORMAT_VERSION = "stepmask-family", 1
MAX_MEMBERS = 1000


@dataclass(frozen=True)
class Member:
    """One mask of a family."""

    macs: float
    """Share of the full run's cost, in the unit that was learned for."""
    psnr: float
    """Mean PSNR in dB against the full run, on held-back noise."""
    mask: StepMask

    def __post_init__(self) -> None:
        if not 0 < self.macs <= 1:
            raise StepMaskError(f"macs of a member is a share of the full run in (0, 1], got {self.macs!r}")
        if not math.isfinite(self.psnr):
            raise StepMaskError(f"psnr of a member is a number of dB, got {self.psnr!r}")


@dataclass(frozen=True)
class MaskFamily(Shared):
    """Masks from expensive to cheap, each better than every cheaper one.

    Attributes:
        members: Sorted by cost, most expensive first.
    """

    hub_file: ClassVar[str] = "family.json"

    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        if not self.members:
            raise StepMaskError("a family needs at least one mask")
        best: list[Member] = []
        for member in sorted(self.members, key=lambda m: (m.macs, -m.psnr)):
            if not best or member.psnr > best[-1].psnr:
                best.append(member)
        object.__setattr__(self, "members", tuple(reversed(best)))

    def __len__(self) -> int:
        """Number of masks."""
        return len(self.members)

    def __iter__(self) -> Iterator[Member]:
        """Go through the members from expensive to cheap."""
        return iter(self.members)

    def at(self, target_macs: float | None = None, *, min_psnr: float | None = None) -> StepMask:
        """The best mask that costs at most `target_macs`, or the cheapest with at least `min_psnr`; or both.

        Raises:
            TargetError: There is none; says what there is.
        """
        if target_macs is None and min_psnr is None:
            raise TargetError("ask for target_macs=0.5, for min_psnr=40, or for both")
        for name, value in (("target_macs", target_macs), ("min_psnr", min_psnr)):
            if value is not None and not isinstance(value, Real):
                raise TargetError(f"{name} must be a number, got {value!r}")
        if target_macs is not None and not 0 < target_macs <= 1:
            raise TargetError(f"target_macs is a share of the full run, such as 0.6 for 60%, got {target_macs!r}")
        found = [
            member
            for member in self.members
            if (target_macs is None or member.macs <= target_macs) and (min_psnr is None or member.psnr >= min_psnr)
        ]
        if not found:
            there = ", ".join(f"{math.ceil(1000 * m.macs) / 1000:.3f} ({m.psnr:.1f} dB)" for m in self.members)
            asked = [] if target_macs is None else [f"at most {target_macs:g} of the cost"]
            asked += [] if min_psnr is None else [f"at least {min_psnr:g} dB"]
            raise TargetError(
                f"no mask of this family has {' and '.join(asked)}; it has {there}: learn for that target"
            )
        return (found[-1] if min_psnr is not None else found[0]).mask

    def save(self, path: str | Path) -> None:
        """Write all masks as one JSON file, whole or not at all."""
        masks = [{"macs": m.macs, "psnr": m.psnr, "mask": m.mask.to_dict()} for m in self.members]
        content = {"format": FORMAT, "format_version": FORMAT_VERSION, "masks": masks}
        write_json(path, content)

    @classmethod
    def load(cls, path: str | Path) -> MaskFamily:
        """Read a family.

        Raises:
            MaskFileError: It is not there, not JSON, of another format, or says impossible things.
        """
        content = read_versioned(path, "family of masks", FORMAT, FORMAT_VERSION, "learn anew")
        with said_of(f"family {path}"):
            return cls(_members(content["masks"]))


def _members(masks: Sequence[dict[str, Any]]) -> tuple[Member, ...]:
    if not isinstance(masks, list) or len(masks) > MAX_MEMBERS:
        raise StepMaskError(f'"masks" must be a list of at most {MAX_MEMBERS} masks')
    return tuple(Member(float(m["macs"]), float(m["psnr"]), StepMask.from_dict(m["mask"])) for m in masks)
