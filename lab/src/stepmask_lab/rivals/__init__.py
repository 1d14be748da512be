"""Other people's ways to a mask, on stepmask's executor, so that only the way to the mask differs.

`calibrated` watches one run and follows a rule; `harmonica`, `l2c`, `ecad` and `dip_go` learn and are registered with
`stepmask.learn` by name. Each docstring says what is taken from the original and what differs.
"""

from stepmask_lab.rivals.calibrated.block_caching import block_caching
from stepmask_lab.rivals.calibrated.ditfastattn import ditfastattn
from stepmask_lab.rivals.calibrated.recording import Recording, record
from stepmask_lab.rivals.calibrated.scale_shift import fit_scale_shift
from stepmask_lab.rivals.calibrated.smoothcache import smoothcache

__all__ = ["Recording", "block_caching", "ditfastattn", "fit_scale_shift", "record", "smoothcache"]
