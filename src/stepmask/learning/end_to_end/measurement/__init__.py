"""Runs tables in the user's pipeline, and remembers what came of it. Begin with `judge`."""
