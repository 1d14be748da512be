"""Method "dip-go": gates learned by gradients through the whole sampling run, as in DiP-GO.

Begin with `learner`. `supernet` is the run as one differentiable map of its gates, `pruner` the network that predicts
them, `losses` what both are held to.
"""
