"""What the laboratory adds to stepmask: reference models, metrics, and rival ways to learn. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stepmask import plugins
from stepmask_lab import reference


def _metrics(names: str, real: Path | None) -> Any:
    from stepmask_lab.benchmark.scores import metrics_by_name

    return metrics_by_name(names, real)


plugins.register_models(plugins.ModelSource("reference", reference.names, reference.load))
for class_name, module in reference.OWN_PIPELINES.items():
    plugins.register_pipeline(class_name, module)
plugins.register_metrics(_metrics)
