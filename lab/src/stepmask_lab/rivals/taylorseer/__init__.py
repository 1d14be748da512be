"""TaylorSeer of second order, and HiCache, which has Hermite polynomials in it. Begin with `plan`."""
