"""SmoothCache: schedules as JSON, in and out. A key says which layers, a list of 1 and 0 says at which steps.

``{"attn": [1, 0, ...], "mlp": [...]}`` is for all blocks, ``{"attn-0": [...], "attn-1": ...}`` for each its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from stepmask.errors import StepMaskError
from stepmask.files import read_bytes, write_atomically
from stepmask.graph import BlockGraph
from stepmask.mask import StepMask
from stepmask.schedules.inputs import MAX_BYTES, MAX_STEPS, inputs_of_file

KINDS = {"attn": "attention", "attn1": "attention", "attn2": "cross_attention", "mlp": "mlp", "ff": "mlp"}
"""Names of layers in files, where a model has no layers of that very name."""
Names = Literal["diffusers", "dit"]
KEY = re.compile(r"([A-Za-z_]\w{0,40}?)(?:-(0|[1-9]\d{0,5}))?")
LAYER = re.compile(r"(.*\.)?(\d+)\.(attn1?|attn2|mlp|ff)")


def import_smoothcache(
    path: str | Path, graph_or_pipe: Any, timesteps: int | Iterable[float] | None = None
) -> StepMask:
    """The mask that a schedule of SmoothCache means (Liu et al. 2024, arXiv 2411.10510).

    Args:
        path: JSON with lists of 1 (compute) and 0 (reuse), one number per step, the first and noisiest one first. Keys
            are the last part of layers' names (``attn1``, ``ff``), or ``attn`` and ``mlp``; for all blocks, or with
            ``-0``, ``-1``, ... for each. Layers that no key means compute at every step.
        graph_or_pipe: A `BlockGraph` or a pipeline.
        timesteps: The timesteps of the run; with a pipeline the number of inference steps, that of the file by default.

    Raises:
        StepMaskError: The file says something else, or was made for another model or number of steps.
    """
    path = Path(path)
    lists = _checked(_read(path), path)
    num_rows = len(next(iter(lists.values())))
    inputs = inputs_of_file(graph_or_pipe, timesteps, num_rows, f"schedule {path.name}")
    compute = np.ones((num_rows, len(inputs.graph)), dtype=bool)
    said: dict[int, str] = {}
    for key, values in lists.items():
        for site in _sites_of(key, inputs.graph, path):
            if site in said:
                raise StepMaskError(f"{path}: {said[site]!r} and {key!r} both mean {inputs.graph.names[site]}")
            said[site] = key
            compute[:, site] = np.asarray(values, dtype=bool)
    return inputs.mask(compute, method="smoothcache", imported_from=path.name)


def export_smoothcache(mask: StepMask, path: str | Path, names: Names = "diffusers") -> dict[str, list[int]]:
    """Write a mask as a schedule of SmoothCache, with a key per kind of layer where all blocks do the same.

    Args:
        mask: Any mask of a transformer that computes and holds attention and feed-forward layers.
        path: The file to write.
        names: How keys call layers: ``"diffusers"`` as it does (``attn1``, ``attn2``, ``ff``), ``"dit"`` as the
            authors' files for DiT do (``attn``, ``mlp``).

    Returns:
        What was written.

    Raises:
        StepMaskError: The mask says what such a file cannot: forecasts, or holds of anything but such layers.
    """
    if names not in get_args(Names):
        raise StepMaskError(f"names must be one of {' or '.join(map(repr, get_args(Names)))}, got {names!r}")
    if not mask.is_binary:
        raise StepMaskError(
            "SmoothCache's files know 1 and 0 only, this mask forecasts: use schedules or learn without"
        )
    spelled = {"attn1": "attn", "ff": "mlp"} if names == "dit" else {"attn": "attn1", "mlp": "ff"}
    columns: dict[str, dict[int, list[int]]] = {}
    parents = set()
    for site, name in enumerate(mask.sites):
        match = LAYER.fullmatch(name)
        if match is None:
            if not mask.compute[:, site].all():
                raise StepMaskError(
                    f"SmoothCache's files know attention and feed-forward layers of numbered blocks, this mask holds "
                    f"{name}: there is no key for it"
                )
            continue
        parents.add(match[1])
        key = spelled.get(match[3], match[3])
        columns.setdefault(key, {})[int(match[2])] = mask.compute[:, site].astype(int).tolist()
    if len(parents) != 1:
        what = f"{len(parents)} lists of blocks ({', '.join(sorted(map(str, parents)))})" if parents else "none"
        raise StepMaskError(f"SmoothCache's files number the blocks of one list, this mask has {what}")
    content: dict[str, list[int]] = {}
    for key, by_block in columns.items():
        if sorted(by_block) != list(range(len(by_block))):
            raise StepMaskError(f"SmoothCache's files number blocks from 0 without gaps, {key} has {sorted(by_block)}")
        rows = list(by_block.values())
        if all(row == rows[0] for row in rows):
            content[key] = rows[0]
        else:
            content |= {f"{key}-{block}": by_block[block] for block in range(len(rows))}
    lines = ",\n".join(f"    {json.dumps(key)}: {json.dumps(row)}" for key, row in content.items())
    write_atomically(path, f"{{\n{lines}\n}}\n")
    return content


def _read(path: Path) -> Any:
    try:
        data = read_bytes(path, "schedule", MAX_BYTES)
        return json.loads(data, object_pairs_hook=lambda pairs: _without_twins(pairs, path))
    except StepMaskError:
        raise
    except (ValueError, RecursionError) as error:
        raise StepMaskError(f"{path} is not valid JSON ({error}): it may be cut short") from error


def _without_twins(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise StepMaskError(f"{path} says a key twice")
    return content


def _checked(content: Any, path: Path) -> dict[str, list[int]]:
    """Keys and lists that are such as SmoothCache's, all of one length."""
    expected = 'expected a JSON object such as {"attn": [1, 0, ...], "mlp": [1, 0, ...]}'
    if not isinstance(content, dict) or not content:
        raise StepMaskError(f"{path} is no schedule of SmoothCache: {expected}")
    for key, values in content.items():
        ok = KEY.fullmatch(key) and isinstance(values, list) and 0 < len(values) <= MAX_STEPS
        if not ok or not all(type(value) is int and value in (0, 1) for value in values):
            raise StepMaskError(f"{path}: {key!r:.60} does not hold a list of 1 and 0; {expected}")
        if values[0] != 1:
            raise StepMaskError(f"{path}: {key!r} reuses at the first step, where there is nothing to reuse")
    lengths = {len(values) for values in content.values()}
    if len(lengths) > 1:
        raise StepMaskError(f"{path}: its lists have different numbers of steps, {sorted(lengths)[:5]}")
    return content


def _sites_of(key: str, graph: BlockGraph, path: Path) -> list[int]:
    """The sites that a key means."""
    word, number = KEY.fullmatch(key).groups()
    of_kind = [i for i in graph.blocks if graph.sites[i].name.rpartition(".")[2] == word]
    if not of_kind and word in KINDS:
        of_kind = [i for i in graph.blocks if graph.sites[i].kind == KINDS[word]]
    if not of_kind:
        there = dict.fromkeys(graph.sites[i].name.rpartition(".")[2] for i in graph.blocks)
        raise StepMaskError(f"{path}: the model has no layers {word!r}; it has {', '.join(list(there)[:8])}")
    if number is None:
        return of_kind
    if int(number) >= len(of_kind):
        raise StepMaskError(f"{path}: {key!r} is for a model with more blocks, this one has {len(of_kind)}")
    return [of_kind[int(number)]]
