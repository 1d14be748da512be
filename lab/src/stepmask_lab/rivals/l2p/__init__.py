"""L2P: weights over all earlier outputs, fitted for each step. Begin with `plan`."""
