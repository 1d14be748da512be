"""The benchmark: every method on the same executor, seeds and clock."""

from stepmask.benchmark.chosen import chosen_methods
from stepmask.benchmark.compare import Comparison
from stepmask.benchmark.methods import Subject
from stepmask.benchmark.run import run_benchmark
from stepmask.benchmark.scores import metrics_by_name

__all__ = ["Comparison", "Subject", "chosen_methods", "metrics_by_name", "run_benchmark"]
