"""Checkpoints that a kill at any moment leaves whole: a complete folder takes the place of the one before."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path


def found(folder: Path) -> bool:
    """Whether there is a checkpoint; one that a kill left aside, between two renames, is put back."""
    old = _beside(folder, "old")
    if not folder.exists() and old.exists():
        old.rename(folder)
    return folder.exists()


def replace(folder: Path, write: Callable[[Path], object]) -> None:
    """Write a new checkpoint and let it take the place of the one in `folder`.

    Args:
        folder: Where the checkpoint is afterwards. `found` was asked about it before.
        write: Fills a folder that it makes itself.
    """
    fresh, old = _beside(folder, "new"), _beside(folder, "old")
    for left_over in (fresh, old):
        shutil.rmtree(left_over, ignore_errors=True)
    write(fresh)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _beside(folder: Path, ending: str) -> Path:
    return folder.with_name(f"{folder.name}.{ending}")
