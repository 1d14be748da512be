"""Runs masks: gates around submodules, the position in the scheduler's run, caches, and costs."""
