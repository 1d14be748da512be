"""The command line: one verb per file. torch is imported when a verb runs, so that help comes at once."""

from stepmask.cli import benchmark, demo, describe, evaluate, export, import_, learn, reproduce, sample, show
from stepmask.cli._app import app

__all__ = [
    "app",
    "benchmark",
    "demo",
    "describe",
    "evaluate",
    "export",
    "import_",
    "learn",
    "reproduce",
    "sample",
    "show",
]
