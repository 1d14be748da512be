"""Schedules that others have published as files: read into a `StepMask`, and written where a file can say it.

One file per format. A foreign file is never trusted: at worst it is refused.
"""

from stepmask.schedules.importers.cache_dit import export_cache_dit, import_cache_dit
from stepmask.schedules.importers.l2c import import_l2c
from stepmask.schedules.importers.smoothcache import export_smoothcache, import_smoothcache

__all__ = ["export_cache_dit", "export_smoothcache", "import_cache_dit", "import_l2c", "import_smoothcache"]
