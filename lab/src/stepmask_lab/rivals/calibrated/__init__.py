"""Schedules by others that watch one run of the model, and then follow a rule with a threshold. One per file.

`recording` watches a run; `smoothcache` and `block_caching` read what it recorded and run nothing more.
`scale_shift` runs a mask once and corrects what it holds. `ditfastattn` decides as it goes and runs the model itself.
"""
