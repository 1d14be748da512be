"""From a benchmark's folder to pages that people read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stepmask.cli.common.app import stdout
from stepmask.errors import StepMaskError
from stepmask.files import ready_folder, write_atomically


def write_pages(source: Path, folder: Path) -> None:
    """Write ``results.md`` and what belongs to it, and say so.

    Args:
        source: A benchmark's folder.
        folder: Where to; if it is another one, raw results go to ``results`` in it.

    Raises:
        StepMaskError: The folder holds no results, or the other one cannot be written.
    """
    from stepmask.pictures import save_png
    from stepmask_lab.benchmark.memory import NUM_IMAGES
    from stepmask_lab.benchmark.result_files import models_in, write_results
    from stepmask_lab.pages import curve, memory, transfer_table, write_page

    names = models_in(source)
    if not names:
        raise StepMaskError(f"{source} holds no results of a benchmark: measure some with stepmask benchmark MODEL")
    ready_folder(folder)
    found = [_results(source, name) for name in names]
    made = write_page(found, folder, "stepmask benchmark --page FOLDER")
    rows = [row for one in found for row in one.rows]
    made.append(save_png(curve(rows), folder / "images" / "curve.png"))
    if any(row.get("speed") for row in rows):
        timed = [row for row in rows if row.get("speed")]
        made.append(save_png(curve(timed, against="speedup"), folder / "images" / "speed.png"))
    for name in names:
        measured = _collected(source, name).get("learning_memory_mib")
        if measured:
            title = f"{name}: learning from one run of {NUM_IMAGES} images"
            made.append(save_png(memory(measured, title), folder / "images" / f"memory_{name}.png"))
    transfers = [json.loads(path.read_text()) for path in sorted(source.glob("transfer-*.json"))]
    if transfers and folder == source:
        write_atomically(folder / "transfer.md", transfer_table(transfers))
        made.append(folder / "transfer.md")
    if source.resolve() != folder.resolve() and source.resolve() != (folder / "results").resolve():
        for name in names:
            path = ready_folder(folder / "results") / f"{name}.json"
            write_results(path, _collected(source, name))
            made.append(path)
    stdout().print("\n".join(map(str, made)))


def _collected(source: Path, name: str) -> dict[str, Any]:
    files = _files(source, name)
    return {"model": name, **files.collected(), "rows": files.rows(), "circumstances": files.circumstances()}


def _results(source: Path, name: str) -> Any:
    from stepmask_lab.benchmark.result_files import Key
    from stepmask_lab.pages import Results

    files, found = _files(source, name), _collected(source, name)
    return Results(
        name,
        found["rows"],
        found["circumstances"],
        found.get("speed", []),
        lambda row: files.strip(Key(*(row[field] for field in Key._fields))),
    )


def _files(source: Path, name: str) -> Any:
    from stepmask_lab.benchmark.methods import methods
    from stepmask_lab.benchmark.result_files import ResultFiles

    return ResultFiles(source, name, [method.name for method in methods()])
