"""The benchmark: every method on the same executor, seeds and clock."""

from stepmask_lab.benchmark.chosen import chosen_methods
from stepmask_lab.benchmark.compare import Comparison
from stepmask_lab.benchmark.methods import Subject
from stepmask_lab.benchmark.run import run_benchmark
from stepmask_lab.benchmark.scores import metrics_by_name

__all__ = ["Comparison", "Subject", "chosen_methods", "metrics_by_name", "run_benchmark"]
