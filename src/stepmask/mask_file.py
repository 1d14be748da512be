"""The form of mask files: what may stand in them, and how it is laid out."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from stepmask.errors import StepMaskError

FORMAT_VERSION = 1
"""Of binary masks."""
FORECAST_VERSION = 2
"""Of masks with forecasts, so that a stepmask that knows none refuses them in words."""
GAINS_VERSION = 3
"""Of masks whose forecasts have gains."""
CHANNELS_VERSION = 4
"""Of those that have gains by channel too."""
NESTED_VERSION = 5
"""Of masks whose sites contain each other, or whose forecasts are weighted sums of several values."""
VERSIONS = (FORMAT_VERSION, FORECAST_VERSION, GAINS_VERSION, CHANNELS_VERSION, NESTED_VERSION)
MAX_CELLS = 10_000_000
"""More cells than this in a file are refused: no sampler of diffusers comes near."""
MAX_SITES, MAX_NAME = 10_000, 1_000
"""The same for sites, and for the letters of a site's name."""
MAX_WEIGHTS = 100_000_000
"""The same for weights, with those of rows that do not forecast: 50 steps of all blocks of flux-dev have 35 million."""


def parsed(content: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a `StepMask` from a file's content; raises where it says impossible things."""
    rows = content["rows"]
    if not isinstance(rows, list) or not rows or not all(isinstance(row, str) for row in rows):
        raise StepMaskError('"rows" must be a list of strings, one per step')
    if len(rows[0]) > MAX_SITES or len(rows) * max(map(len, rows)) > MAX_CELLS:
        raise StepMaskError(f"more than {MAX_SITES:,} sites or {MAX_CELLS:,} cells")
    for number, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise StepMaskError(f"row {number} has {len(row)} cells, row 0 has {len(rows[0])}")
        binary = content["format_version"] == FORMAT_VERSION
        strange = set(row) - set("01" if binary else "01l")
        if strange:
            known = "1 (compute) and 0 (hold); later ones also " if binary else "1 (compute), 0 (hold) and "
            raise StepMaskError(
                f"row {number} holds {min(strange)!r}; format {content['format_version']} knows {known}"
                "l (linear forecast)"
            )
    kinds = {"sites": list, "timesteps": list, "provenance": dict}
    nested = content["format_version"] >= NESTED_VERSION
    if content["format_version"] == CHANNELS_VERSION or (nested and content["channel_gains"] is not None):
        kinds["channel_gains"] = dict
    if nested and content["weights"] is not None:
        kinds["weights"] = dict
    for key, kind in kinds.items():
        if not isinstance(content[key], kind):
            raise StepMaskError(f'"{key}" must be a {"list" if kind is list else "JSON object"}')
    if any(isinstance(site, str) and len(site) > MAX_NAME for site in content["sites"]):
        raise StepMaskError(f"a site's name has more than {MAX_NAME:,} letters")
    check_run(content["provenance"])
    check_scheduler(content["scheduler"])
    if content["graph"] is not None and not isinstance(content["graph"], str):
        raise StepMaskError('"graph" must be a fingerprint or null')
    cells = np.frombuffer("".join(rows).encode(), "S1").reshape(len(rows), -1)
    return {
        "compute": cells == b"1",
        "forecast": cells == b"l",
        "gains": _gains(content["gains"], rows) if _has_gains(content) else None,
        "channel_gains": content["channel_gains"] if "channel_gains" in kinds else None,
        "weights": _weights(content["weights"], rows, content["sites"]) if "weights" in kinds else None,
        "sites": content["sites"],
        "timesteps": content["timesteps"],
        "scheduler": content["scheduler"],
        "graph": content["graph"],
        "scores": content["scores"],
        "provenance": content["provenance"],
    }


def check_scheduler(scheduler: Any) -> None:
    """See that a scheduler is named by its class and its configuration, or not at all."""
    if scheduler is not None and not (
        isinstance(scheduler, dict)
        and isinstance(scheduler.get("class"), str)
        and isinstance(scheduler.get("config"), dict)
    ):
        raise StepMaskError('"scheduler" must hold "class" and "config"')


def check_run(provenance: dict[str, Any]) -> None:
    """See that entries of provenance that runs are made by can be used."""

    def whole(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    steps = provenance.get("num_inference_steps")
    if steps is not None and not (whole(steps) and steps >= 1):
        raise StepMaskError(f'"num_inference_steps" in provenance must be a whole number of steps, got {steps!r}')
    seeds = provenance.get("noise_seeds")
    if seeds is not None and not (isinstance(seeds, list) and len(seeds) == 2 and all(map(whole, seeds))):
        raise StepMaskError(f'"noise_seeds" in provenance must be the first and the last seed, got {seeds!r}')
    scale = provenance.get("guidance_scale")
    if scale is not None and (isinstance(scale, bool) or not isinstance(scale, int | float)):
        raise StepMaskError(f'"guidance_scale" in provenance must be a number, got {scale!r}')


def _gains(listed: Any, rows: list[str]) -> np.ndarray:
    """(T, B), from one list a row with a number for each of its forecasts."""
    if not isinstance(listed, list) or len(listed) != len(rows):
        raise StepMaskError('"gains" must be a list with one list per row')
    table = np.ones((len(rows), len(rows[0])))
    for number, (row, gains) in enumerate(zip(rows, listed, strict=True)):
        forecasts = [site for site, cell in enumerate(row) if cell == "l"]
        if not isinstance(gains, list) or len(gains) != len(forecasts):
            raise StepMaskError(f"row {number} has {len(forecasts)} forecasts, and gains for another number of them")
        table[number, forecasts] = gains
    return table


def _has_gains(content: dict[str, Any]) -> bool:
    version = content["format_version"]
    return content["gains"] is not None if version >= NESTED_VERSION else version >= GAINS_VERSION


def _weights(listed: dict[str, Any], rows: list[str], sites: list[str]) -> dict[str, np.ndarray]:
    """(T, K, C) by site, from one table of terms x channels for each of its forecasts."""
    if len(sites) != len(rows[0]):
        raise StepMaskError(f"a mask with {len(rows[0])} columns needs {len(rows[0])} site names, got {len(sites)}")
    found, count, places = {}, 0, {site: i for i, site in enumerate(sites) if isinstance(site, str)}
    for site, tables in listed.items():
        if site not in places:
            raise StepMaskError(f"weights are given for {site!r}, which is no site of the mask")
        forecasts = [number for number, row in enumerate(rows) if row[places[site]] == "l"]
        if not isinstance(tables, list) or not tables or len(tables) != len(forecasts):
            raise StepMaskError(f"{site!r} has {len(forecasts)} forecasts, and weights for another number of them")
        given = np.array(tables, dtype=np.float64)
        if given.ndim != 3:
            raise StepMaskError(f"weights of {site!r} must be one list of channels for each term of each forecast")
        count += len(rows) * given[0].size
        if count > MAX_WEIGHTS:
            raise StepMaskError(f"more than {MAX_WEIGHTS:,} weights")
        found[site] = np.ones((len(rows), *given.shape[1:]))
        found[site][forecasts] = given
    return found


def listed_weights(weights: Any, sites: Any, forecast: np.ndarray) -> dict[str, list[list[list[float]]]]:
    """The inverse."""
    return {site: table[forecast[:, sites.index(site)]].tolist() for site, table in weights.items()}


def listed_gains(gains: np.ndarray, forecast: np.ndarray) -> list[list[float]]:
    """The inverse."""
    return [row[cells].tolist() for row, cells in zip(gains, forecast, strict=True)]


def readable_json(content: dict[str, Any]) -> str:
    """JSON with one row of the mask a line, so that a diff shows what changed."""
    lines = []
    for key, value in content.items():
        if key in ("channel_gains", "weights") and value:
            items = ",\n".join(f"    {json.dumps(site)}: {json.dumps(numbers)}" for site, numbers in value.items())
            lines.append(f"  {json.dumps(key)}: {{\n{items}\n  }}")
        elif key in ("rows", "gains", "sites", "scores") and value:
            items = ",\n".join(f"    {json.dumps(item)}" for item in value)
            lines.append(f"  {json.dumps(key)}: [\n{items}\n  ]")
        else:
            lines.append(f"  {json.dumps(key)}: {json.dumps(value, allow_nan=False)}")
    return "{\n" + ",\n".join(lines) + "\n}"
