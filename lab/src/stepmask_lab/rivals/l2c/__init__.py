"""Learning-to-Cache (Ma et al., NeurIPS 2024, arXiv 2406.01733): pairs of steps, interpolated."""
