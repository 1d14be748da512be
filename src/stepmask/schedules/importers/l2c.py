"""Learning-to-Cache: routers as the authors publish them, ``.pt`` files of logits. Runs no code of a file."""

from __future__ import annotations

import argparse
import math
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stepmask.errors import StepMaskError
from stepmask.graph import BlockGraph
from stepmask.mask import StepMask
from stepmask.mask_file import MAX_CELLS
from stepmask.schedules.importers.pickles import check_pickle
from stepmask.schedules.inputs import MAX_BYTES, MAX_STEPS, inputs_of_file

ROUTER = re.compile(r"(0|[1-9]\d{0,5})\.prob")


def import_l2c(
    path: str | Path, graph_or_pipe: Any, timesteps: int | Iterable[float] | None = None, theta: float = 0.1
) -> StepMask:
    """The mask that a router of Learning-to-Cache means (Ma et al., NeurIPS 2024, arXiv 2406.01733).

    A router holds, per sampling step counted from the last one, logits for attention and MLP of every block in turns.
    A layer computes where the sigmoid of its logit is over `theta`, and otherwise reuses. Only every second step may
    reuse, the second, fourth, ... of an even number of steps: at the others all layers compute, whatever the logits.
    As in the original, the output of a layer is held before its gate. The steps of the original sampler and those of
    diffusers differ by a few of 1000; the mask is taken over row by row.

    Args:
        path: The file: a dictionary with ``routers``, which maps ``"i.prob"`` to 2 * depth numbers. Read with
            ``weights_only`` and nothing allowed beyond it but `argparse.Namespace`, in which the authors keep their
            options.
        graph_or_pipe: A `BlockGraph` or a pipeline, of a DiT with as many blocks.
        timesteps: The timesteps of the run; with a pipeline the number of inference steps, that of the router by
            default.
        theta: Threshold; the authors take 0.1 for DiT-XL/2 at 256 px and 0.9 at 512 px.

    Raises:
        StepMaskError: The file is no router, would run code, or was made for another model or number of steps.
    """
    if isinstance(theta, bool) or not isinstance(theta, int | float) or not 0 <= theta <= 1:
        raise StepMaskError(f"theta is a threshold between 0 and 1, such as 0.1, got {theta!r}")
    path = Path(path)
    logits = _logits(_read(path), path)
    inputs = inputs_of_file(graph_or_pipe, timesteps, len(logits), f"router {path.name}")
    blocks = _layers(inputs.graph, logits.shape[1], path)
    keep = 1 / (1 + np.exp(-logits)) > theta
    keep[1::2] = True
    compute = np.ones((len(logits), len(inputs.graph)), dtype=bool)
    compute[:, blocks] = keep[::-1]  # routers are counted from the last step
    compute[0] = True
    return inputs.mask(compute, method="l2c", theta=theta, imported_from=path.name)


def _read(path: Path) -> Any:
    """What the file holds, or a StepMaskError: nothing in it is executed."""
    import torch

    advice = "give the .pt that train_router.py of learning-to-cache writes"
    try:
        with zipfile.ZipFile(path) as archive:  # what torch.save writes; sizes are known before anything is unpacked
            size = sum(entry.file_size for entry in archive.infolist())
            if size > MAX_BYTES:
                raise StepMaskError(f"{path} would unpack to {size >> 20} MiB, a router has some kilobytes: {advice}")
            _check_values(archive, path, advice)
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except StepMaskError:
        raise
    except OSError as error:
        raise StepMaskError(f"cannot read {path}: {error.strerror or error}") from error
    except zipfile.BadZipFile as error:
        raise StepMaskError(f"{path} is no file of torch.save, or cut short ({error}): {advice}") from error
    except Exception as error:  # a hostile or broken file may raise anything
        reason = next(iter(str(error).strip().splitlines()), "").partition(". ")[0] or type(error).__name__
        raise StepMaskError(
            f"{path} is refused: it holds more than numbers and options, or is broken ({reason}): {advice}"
        ) from error


def _check_values(archive: zipfile.ZipFile, path: Path, advice: str) -> None:
    """See that what is pickled in an archive can be made without harm."""
    for name in archive.namelist():
        if name.rpartition("/")[2] == "data.pkl":
            try:
                check_pickle(archive.read(name))
            except StepMaskError as error:
                raise StepMaskError(
                    f"{path} is refused: it holds more than numbers and options, or is broken ({error}): {advice}"
                ) from error


def _logits(content: Any, path: Path) -> np.ndarray:
    """(T, 2 * depth) float64, the last sampling step first."""
    import torch

    routers = content.get("routers") if isinstance(content, Mapping) else None
    if not isinstance(routers, Mapping) or not routers:
        raise StepMaskError(f'{path} is no router: expected a dictionary with "routers", got {_outline(content)}')
    numbered = {}
    for key, value in routers.items():
        match = ROUTER.fullmatch(key) if isinstance(key, str) else None
        plain = type(value) in (torch.Tensor, torch.nn.Parameter) and value.layout == torch.strided
        plain = plain and not value.is_meta and not value.is_nested and value.is_floating_point()
        if match is None or not plain or value.dim() != 1:
            raise StepMaskError(f'{path}: routers map "0.prob", "1.prob", ... to vectors of numbers, got {key!r:.80}')
        numbered[int(match[1])] = value
    if sorted(numbered) != list(range(len(numbered))) or len(numbered) > MAX_STEPS:
        raise StepMaskError(f"{path}: routers must be numbered from 0 without gaps, got {len(numbered)}")
    lengths = {len(value) for value in numbered.values()}
    small = all(0 < length <= MAX_CELLS // len(numbered) for length in lengths)  # views may be larger than their file
    if len(lengths) != 1 or not small or min(lengths) % 2:
        raise StepMaskError(f"{path}: each router must hold 2 * depth numbers, got {sorted(lengths)[:5]}")
    logits = torch.stack([numbered[i].double() for i in range(len(numbered))]).detach().numpy()
    if not np.isfinite(logits).all():
        raise StepMaskError(f"{path}: a router holds numbers that are not finite")
    return np.clip(logits, -math.log(1e300), math.log(1e300))


def _layers(graph: BlockGraph, count: int, path: Path) -> list[int]:
    """The sites of the model in the order of a router: attention, MLP, attention, MLP, ..."""
    blocks = list(graph.blocks)
    kinds = [graph.sites[i].kind for i in blocks]
    if kinds != ["attention", "mlp"] * (len(kinds) // 2):
        raise StepMaskError(
            "routers of Learning-to-Cache are for DiT: this model's sites are not attention and mlp in turns but "
            f"{', '.join(dict.fromkeys(kinds))}"
        )
    if len(blocks) != count:
        raise StepMaskError(
            f"{path} was made for a model of {count // 2} blocks, this one has {len(blocks) // 2}: give the model that "
            "the router was learned for"
        )
    return blocks


def _outline(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"a dictionary with {', '.join(f'{key!r:.40}' for key in list(content)[:5]) or 'nothing'}"
    return type(content).__name__
