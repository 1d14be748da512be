"""Schedules by others that watch one run of the model, and then follow a rule with a threshold. One per file.

`recording` runs the pipeline; `smoothcache` and `block_caching` read what it recorded and run nothing more.
`ditfastattn` decides as it goes and runs the model by itself.
"""
