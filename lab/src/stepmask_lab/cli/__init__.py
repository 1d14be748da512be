"""The laboratory's verbs: benchmark, demo and reproduce. torch is imported when a verb runs."""

from stepmask.cli.common.app import app
from stepmask_lab.cli import benchmark, demo, reproduce

app.info.epilog = f"{app.info.epilog} or, on a small model that comes with the laboratory, stepmask demo"

__all__ = ["benchmark", "demo", "reproduce"]
