"""Methods "per-step" and "paper": scores of cells, learned from the error of each step alone.

Begin with `learner`: on each trajectory, a run of the pipeline, the model under random masks (`relaxed`) is held to the
original, and scores follow the gradient. `importance` says beforehand how much each step matters to the final image,
`search` keeps the best mask found, `state` is what an interrupted run goes on from.
"""
