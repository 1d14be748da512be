"""Rivals as they ship: packages and hooks that cache in ways of their own, run on the benchmark's seeds and clock.

Nothing of them is re-implemented here: each file enables what others have written, with settings that they document,
for one call of the pipeline, and leaves the model as it was. What a package cannot run is found by trying. The packages
are the extra ``rivals``; those of diffusers come with it.
"""

from __future__ import annotations

from stepmask_lab.method import Unmasked
from stepmask_lab.shipped import cache_dit, deepcache, diffusers_hooks


def shipped_methods() -> list[Unmasked]:
    """All rivals as they ship, in the order of tables; packages are imported when they first run."""
    return [*deepcache.methods(), *cache_dit.methods(), *diffusers_hooks.methods()]
