"""The benchmark behind the README's results: every method on the same executor, seeds and clock."""

from stepmask.benchmark.run import run_benchmark

__all__ = ["run_benchmark"]
