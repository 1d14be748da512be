"""A consistency model: a student that jumps to the end of a run. Begin with `loss`; `train` is the script."""
