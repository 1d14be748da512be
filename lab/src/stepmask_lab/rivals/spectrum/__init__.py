"""Spectrum: a ridge regression on Chebyshev polynomials over all outputs, at growing intervals. Begin with `plan`."""
