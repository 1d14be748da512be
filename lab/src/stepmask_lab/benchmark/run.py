"""The benchmark behind the README: every method on the reference models, at several numbers of steps.

Writes ``MODEL.json`` for each model, with raw results and circumstances, and the masks. It draws nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from stepmask.printing import console as new_console
from stepmask_lab import reference
from stepmask_lab.benchmark.compare import Comparison
from stepmask_lab.benchmark.methods import AnyMethod, guided, methods
from stepmask_lab.benchmark.result_files import ResultFiles
from stepmask_lab.benchmark.transfer import run_transfer
from stepmask_lab.method import Subject
from stepmask_lab.scores import Metrics

STEPS = (50, 20)
NUM_IMAGES = 64
MEMORY_STEPS = (20, 50, 100)


def run_benchmark(
    output: Path,
    *,
    models: Iterable[str] | None = None,
    chosen: Sequence[AnyMethod] | None = None,
    targets: tuple[float, ...] | None = None,
    steps: Iterable[int] = STEPS,
    num_images: int = NUM_IMAGES,
    speed: bool = True,
    metrics: Metrics | None = None,
    memory: bool = True,
    transfer: bool = False,
) -> list[dict[str, Any]]:
    """Compare learned masks with every rival on the reference models.

    Args:
        output: Folder for results, masks and the curve; what is there already is not measured again.
        models: Names of reference models; by default those of the papers' tables.
        chosen: Methods; by default all.
        targets: Budgets of the learned masks.
        steps: Numbers of inference steps.
        num_images: Images per point, on seeds that learning has not seen.
        speed: Whether to measure the speed-up of every row, at batch 16 and of a single image.
        metrics: What else to compute of the images.
        memory: Whether to measure the memory of probing runs, and of other ways to learn beside it.
        transfer: Whether to measure what masks are worth outside of what they were learned for.

    Returns:
        All rows: model, steps, method, setting, macs, psnr_mean, psnr_min, psnr_sem, ssim_mean.

    Raises:
        StepMaskError: There is no such reference model.
    """
    console, names = new_console(), list(models or reference.OF_TABLES)
    for name in names:
        reference.check(name)
    output.mkdir(parents=True, exist_ok=True)
    for name in names:
        pipe = reference.load(name)
        for count in steps:
            subject = Subject(pipe, count, guided(pipe), **({} if targets is None else {"targets": targets}))
            comparison = Comparison(name, subject, output, num_images, speed, metrics=metrics, tell=console.print)
            comparison.run(methods() if chosen is None else chosen)
            comparison.files.collect()
        if memory:
            _measure_memory(name, output)
    for name in names if transfer else ():
        run_transfer(output, name)
    order = [method.name for method in methods()]
    return [row for name in reference.names() for row in ResultFiles(output, name, order).rows()]


def _measure_memory(name: str, output: Path) -> None:
    """Memory of a probing run at several numbers of steps; and of each way to learn from fewer images."""
    from stepmask_lab.benchmark.memory import WAYS, learning_memory_mib, probing_memory_mib  # run as a script too

    files = ResultFiles(output, name)
    ways = {way: dict(files.collected().get("learning_memory_mib", {}).get(way, {})) for way in WAYS}
    for way, known in ways.items():
        for steps in MEMORY_STEPS:
            if str(steps) not in known:
                known[str(steps)] = round(learning_memory_mib(name, steps, way), 1)
                files.collect(learning_memory_mib=ways)
    found = dict(files.collected().get("probing_memory_mib", {}))
    for steps in MEMORY_STEPS:
        if str(steps) not in found:
            measured = probing_memory_mib(name, steps)
            found[str(steps)] = {key: round(value, 1) for key, value in measured.items()}
            files.collect(probing_memory_mib=found)
