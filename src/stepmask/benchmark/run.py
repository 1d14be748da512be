"""The benchmark behind the README: every method on the reference models, at several numbers of steps.

Writes ``MODEL.json`` for each model, with raw results and circumstances, and the masks. It draws nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from stepmask import reference
from stepmask.benchmark.cells import Cells
from stepmask.benchmark.compare import Comparison, speed_row
from stepmask.benchmark.memory import probing_memory_mib
from stepmask.benchmark.methods import AnyMethod, Subject, guided, is_unet, methods
from stepmask.benchmark.transfer import run_transfer
from stepmask.errors import StepMaskError
from stepmask.evaluation import evaluate
from stepmask.mask import StepMask
from stepmask.schedules import deepcache, fora, random_schedule

STEPS = (50, 20)
NUM_IMAGES = 64
SPEED_STEPS = 20
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
    memory: bool = True,
    transfer: bool = False,
) -> list[dict[str, Any]]:
    """Compare learned masks with FORA and DeepCache on the reference models.

    Args:
        output: Folder for results, masks and the curve; what is there already is not measured again.
        models: Names of reference models; by default all.
        chosen: Methods; by default all.
        targets: Budgets of the learned masks.
        steps: Numbers of inference steps.
        num_images: Images per point, on seeds that learning has not seen.
        speed: Whether to measure the denoiser's speed-up at batch 16.
        memory: Whether to measure the memory of probing runs.
        transfer: Whether to measure what masks are worth outside of what they were learned for.

    Returns:
        All rows: model, steps, method, setting, macs, psnr_mean, psnr_min, psnr_sem, ssim_mean.

    Raises:
        StepMaskError: There are no reference models.
    """
    if not reference.names():
        raise StepMaskError("the package has no reference models; see stepmask.reference.train")
    console = Console(stderr=True)
    output.mkdir(parents=True, exist_ok=True)
    names = list(models or reference.names())
    for name in names:
        pipe = reference.load(name)
        for count in steps:
            subject = Subject(pipe, count, guided(pipe), **({} if targets is None else {"targets": targets}))
            comparison = Comparison(name, subject, output, num_images, tell=console.print)
            comparison.run(methods() if chosen is None else chosen)
            comparison.cells.collect()
        if speed:
            _measure_speed(name, pipe, output, console)
        if memory:
            _measure_memory(name, output)
    for name in names if transfer else ():
        run_transfer(output, name)
    order = [method.name for method in methods()]
    return [row for name in reference.names() for row in Cells(output, name, order).rows()]


def _measure_speed(name: str, pipe: Any, output: Path, console: Console) -> None:
    """Speed-up of the denoiser and of the call at batch 16, beside 1 / MACs."""
    masks = {"FORA 1:2": fora(pipe, SPEED_STEPS, 2), "random 0.5": random_schedule(pipe, SPEED_STEPS)}
    if is_unet(pipe):
        masks["DeepCache 1:3"] = deepcache(pipe, SPEED_STEPS, 3)
    learned = output / "masks" / f"{name}-{SPEED_STEPS}-learned-0.5-seed0.json"
    if learned.exists():
        masks["learned 0.5"] = StepMask.load(learned)
    cells = Cells(output, name)
    rows = list(cells.collected().get("speed", []))
    for label, mask in masks.items():
        if any(row["mask"] == label for row in rows):
            continue
        console.print(f"{name}: speed of {label}")
        result = evaluate(pipe, mask, seeds=16, call_kwargs=guided(pipe), batch_size=16, speed_pairs=5)
        rows.append({"mask": label, "steps": SPEED_STEPS, "macs": result.macs_fraction, **speed_row(result)})
        cells.collect(speed=rows)


def _measure_memory(name: str, output: Path) -> None:
    """Memory of a probing run at several numbers of steps."""
    cells = Cells(output, name)
    found = dict(cells.collected().get("probing_memory_mib", {}))
    for steps in MEMORY_STEPS:
        if str(steps) not in found:
            measured = probing_memory_mib(name, steps)
            found[str(steps)] = {key: round(value, 1) for key, value in measured.items()}
            cells.collect(probing_memory_mib=found)
