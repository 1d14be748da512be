"""The way to learn of arXiv 2603.19939 as we read it: scores of cells, learned from the error of each step alone.

Begin with `learner`: on each trajectory, a run of the pipeline, the model under random masks (`relaxed_model`) is held
to the original, and scores follow the gradient. `ScoreLearner` leaves open what a draw is, what the loss is and which
steps matter, so that relatives of the paper fit into it (HarmoniCa and Learning-to-Cache in stepmask-lab).
"""
