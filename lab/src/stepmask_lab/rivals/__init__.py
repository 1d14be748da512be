"""Other people's ways to a mask, on stepmask's executor, so that only the way to the mask differs.

`calibrated` watches one run and follows a rule; `harmonica`, `l2c`, `ecad`, `dip_go` and `budcache` learn and are
registered with `stepmask.learn` by name. `meancache`, `l2p`, `dpcache`, `spectrum`, `taylorseer` and `hicache_pp`
decide on whole steps and predict what is skipped: they share `outputs`, which records a full run, `paths`, which finds
key steps along a cheapest path, `predictors`, which makes tables of factors, and `predicted_plan`, which runs them.
`easycache`, `seacache` and `sada` decide during the run, image by image, and share `adaptive_run`. Each docstring says
what is taken from the original and what differs. torch is imported when one of them is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from stepmask_lab.rivals.dip_go.config import DipGo
from stepmask_lab.rivals.ecad.config import Ecad
from stepmask_lab.rivals.harmonica.config import HarmoniCa
from stepmask_lab.rivals.l2c.config import L2C

if TYPE_CHECKING:
    from stepmask_lab.rivals.calibrated.block_caching import block_caching
    from stepmask_lab.rivals.calibrated.ditfastattn import ditfastattn
    from stepmask_lab.rivals.calibrated.recording import Recording, record
    from stepmask_lab.rivals.calibrated.scale_shift import fit_scale_shift
    from stepmask_lab.rivals.calibrated.smoothcache import smoothcache

__all__ = [
    "L2C",
    "DipGo",
    "Ecad",
    "HarmoniCa",
    "Recording",
    "block_caching",
    "ditfastattn",
    "fit_scale_shift",
    "record",
    "smoothcache",
]

_WHERE = {
    "Recording": "recording",
    "block_caching": "block_caching",
    "ditfastattn": "ditfastattn",
    "fit_scale_shift": "scale_shift",
    "record": "recording",
    "smoothcache": "smoothcache",
}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"stepmask_lab.rivals.calibrated.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'stepmask_lab.rivals' has no attribute {name!r}")
