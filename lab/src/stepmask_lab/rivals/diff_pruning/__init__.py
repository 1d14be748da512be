"""Diff-Pruning: a U-Net with fewer channels, trained on. Begin with `prune`; `train` is the script."""
