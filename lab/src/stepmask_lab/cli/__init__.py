"""The laboratory's verbs: benchmark, demo and reproduce. torch is imported when a verb runs."""

from stepmask_lab.cli import benchmark, demo, reproduce

__all__ = ["benchmark", "demo", "reproduce"]
