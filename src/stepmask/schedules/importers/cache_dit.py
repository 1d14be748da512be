"""cache-dit: whole steps as the ``steps_computation_mask`` of its YAML files, in and out.

``cache_config`` of such a file lists 1 for steps that compute all blocks and 0 for those that reuse what the blocks
added up to; with its TaylorSeer calibrator of order 1 they extrapolate that. The package itself is not needed here.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from stepmask.errors import StepMaskError
from stepmask.files import read_bytes, write_atomically
from stepmask.mask import StepMask
from stepmask.schedules.inputs import MAX_BYTES, MAX_STEPS, Forecast, inputs_of_file

MASK, POLICY = "steps_computation_mask", "steps_computation_policy"
SHOWN = 5
"""An error names at most so many steps."""


def import_cache_dit(path: str | Path, graph_or_pipe: Any, timesteps: int | Iterable[float] | None = None) -> StepMask:
    """The mask that a static ``steps_computation_mask`` of cache-dit (1.5.3) means.

    The same steps compute in full. At the others all blocks rest together; cache-dit runs the first
    ``Fn_compute_blocks`` of them all the same, and adds to their output what the rest added then.

    Args:
        path: A YAML file as ``cache_dit.load_configs`` reads it, with the mask as a list of 1 and 0, one number per
            step, the first and noisiest one first.
        graph_or_pipe: A `BlockGraph` or a pipeline.
        timesteps: The timesteps of the run; with a pipeline the number of inference steps, that of the file by default.

    Raises:
        StepMaskError: The file says something else, leaves steps to be decided during the run, forecasts in a way
            that masks do not know, or was made for another number of steps.
    """
    path = Path(path)
    config = _read(path)
    rows, forecast = _rows(config, path), _forecast(config, path)
    inputs = inputs_of_file(graph_or_pipe, timesteps, len(rows), f"schedule {path.name}", level="stack")
    compute = np.repeat(np.array(rows, dtype=bool)[:, None], len(inputs.graph), axis=1)
    return inputs.mask(compute, forecast, method="cache-dit", imported_from=path.name)


def export_cache_dit(mask: StepMask, path: str | Path) -> dict[str, Any]:
    """Write a mask as YAML for cache-dit, whose steps compute in full or rest in full.

    What cache-dit does at a step that rests is its own: the first block computes, and the residual of the others is
    reused or extrapolated. So the same steps compute, and the images differ from those of the mask.

    Args:
        mask: A mask each of whose rows computes all sites or none. Where it forecasts, it does so at all such rows.
        path: The file to write; ``cache_dit.enable_cache(pipe, **cache_dit.load_configs(path))`` runs it.

    Returns:
        What was written.

    Raises:
        StepMaskError: The mask says what such a file cannot: steps at which some sites compute, some that hold beside
            some that forecast, or learned factors of its forecasts.
    """
    computes = mask.compute.all(axis=1)
    mixed = np.flatnonzero(mask.compute.any(axis=1) & ~computes).tolist()
    if mixed:
        raise StepMaskError(
            f"cache-dit's files say whole steps, and at {len(mixed)} steps ({_listed(mixed)}) this mask computes some "
            "sites and not others: learn or schedule whole steps (stepmask schedule --rule key_steps)"
        )
    if mask.gains is not None or mask.channel_gains is not None or mask.weights is not None:
        raise StepMaskError(
            "cache-dit's files have no learned factors of forecasts, this mask has: export one without, such as "
            "mask.with_actions(mask.actions)"
        )
    forecasts = mask.forecast[~computes]
    if forecasts.any() and not forecasts.all():
        raise StepMaskError(
            "cache-dit's files forecast at all steps that do not compute or at none, this mask holds at some: use "
            "one or the other"
        )
    config: dict[str, Any] = {
        "num_inference_steps": mask.num_rows,
        MASK: computes.astype(int).tolist(),
        POLICY: "static",
        "max_warmup_steps": 0,
        "Fn_compute_blocks": 1,
        "Bn_compute_blocks": 0,
    }
    if forecasts.any():
        config |= {"enable_taylorseer": True, "taylorseer_order": 1}
    content = {"cache_config": config}
    write_atomically(path, yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=2**30))
    return content


def _read(path: Path) -> dict[str, Any]:
    """What a file says of caching."""
    data = read_bytes(path, "schedule", MAX_BYTES)
    try:
        content = yaml.safe_load(data)
    except Exception as error:  # a broken file may raise anything
        reason = " ".join(str(error).split())
        raise StepMaskError(f"{path} is not valid YAML ({reason:.200}): it may be cut short") from error
    config = content.get("cache_config", content) if isinstance(content, dict) else None
    if not isinstance(config, dict) or MASK not in config:
        raise StepMaskError(f'{path} is no file of cache-dit with whole steps: expected "{MASK}" in its "cache_config"')
    return config


def _rows(config: dict[str, Any], path: Path) -> list[int]:
    """1 or 0 for each step."""
    rows = config[MASK]
    if isinstance(rows, str):
        raise StepMaskError(
            f"{path} names the policy {rows!r:.40}, whose steps cache-dit alone knows: write them out, "
            "cache_dit.steps_mask(mask_policy=..., total_steps=...)"
        )
    ok = isinstance(rows, list) and 0 < len(rows) <= MAX_STEPS
    if not ok or not all(type(value) is int and value in (0, 1) for value in rows):
        raise StepMaskError(f"{path}: {MASK} is a list of 1 and 0, one per step")
    if rows[0] != 1:
        raise StepMaskError(f"{path} reuses at the first step, where there is nothing to reuse")
    if config.get(POLICY, "dynamic") != "static":
        raise StepMaskError(
            f"{path} lets cache-dit decide during the run which steps marked 0 rest; a mask says it beforehand: set "
            f"{POLICY}: static"
        )
    return rows


def _forecast(config: dict[str, Any], path: Path) -> Forecast | None:
    """How steps that do not compute are forecast."""
    others = [name for name in ("enable_dmd", "enable_foca") if config.get(name)]
    if others:
        raise StepMaskError(
            f"{path} forecasts by {others[0].removeprefix('enable_')}, masks do by TaylorSeer of order 1"
        )
    if not config.get("enable_taylorseer"):
        return None
    order = config.get("taylorseer_order", 1)
    if order != 1 or isinstance(order, bool):
        raise StepMaskError(f"{path} forecasts by TaylorSeer of order {order!r:.20}, masks do by that of order 1")
    return "linear"


def _listed(steps: list[int]) -> str:
    return ", ".join(map(str, steps[:SHOWN])) + (", ..." if len(steps) > SHOWN else "")
