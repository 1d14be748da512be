"""The package hicache-pp, as it ships, on stepmask's executor. Begin with `plan`."""
