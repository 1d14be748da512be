"""MeanCache: key steps along a shortest path, and the average velocity between them. Begin with `plan`."""
