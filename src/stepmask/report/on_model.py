"""Maps of masks on their model: what runs after elimination, what it costs, and the bytes that are kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepmask.inspection.describe import description_for
from stepmask.inspection.first_step import first_step
from stepmask.inspection.measure_cost import cost_of
from stepmask.liveness import make_plan
from stepmask.mask import StepMask
from stepmask.report.mask_map import mask_map
from stepmask.report.masks import Mapped


def maps_on(pipe: Any, mask: StepMask, call_kwargs: Mapping[str, Any] | None = None) -> Mapped:
    """What makes the maps of a mask, and of others for the same sites, on a pipeline.

    Raises:
        StepMaskError: The pipeline or its call cannot be described.
    """
    description = description_for(pipe, mask, call_kwargs)
    cost = cost_of(description, first_step(pipe, dict(call_kwargs or {})))
    return lambda one: mask_map(make_plan(one, description.graph), cost)
