"""The benchmark: every method on the same executor, seeds and clock."""

from stepmask_lab.benchmark.compare import Comparison
from stepmask_lab.benchmark.metrics import metrics_by_name
from stepmask_lab.benchmark.naming import methods_by_name
from stepmask_lab.benchmark.run import run_benchmark
from stepmask_lab.method import Subject

__all__ = ["Comparison", "Subject", "methods_by_name", "metrics_by_name", "run_benchmark"]
