"""Peak memory of the ways to learn against the number of steps: ``python -m stepmask_lab.benchmark.memory ...``.

A process of its own for each measurement, since the peak of a process never falls. On a CPU the values that wait
between the two passes of end-to-end selection, which an accelerator can leave to its host (``offload``), lie in the
same memory: their size is measured too, and what is beyond it is the work space.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

NUM_PROBES = 8
"""Images of a probing run, as `EndToEnd` has them."""

NUM_IMAGES = 2
"""Images where ways are compared: as many as the graph of a whole run leaves room for on a small machine."""


def probing_memory_mib(model: str, steps: int) -> dict[str, float]:
    """MiB of a process that probes a reference model: ``peak`` (resident), and ``waiting`` between the passes."""
    return _measured(model, steps, "end-to-end", NUM_PROBES)


def learning_memory_mib(model: str, steps: int, way: str) -> float:
    """MiB (resident, at most) of a process that learns from one run of a reference model in one of `WAYS`."""
    return _measured(model, steps, way, NUM_IMAGES)["peak"]


def _measured(model: str, steps: int, way: str, num_images: int) -> dict[str, float]:
    command = [sys.executable, "-m", "stepmask_lab.benchmark.memory", model, str(steps), way, str(num_images)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak, waiting = map(float, done.stdout.split()[-2:])
    return {"peak": peak, "waiting": waiting}


def _paper(pipe: Any, steps: int, num_images: int) -> int:
    """The paper's learner on one trajectory."""
    from stepmask.learning import learn

    learn(pipe, steps, None, method="paper", num_trajectories=1, batch_size=num_images, progress=False)
    return 0


def _end_to_end(pipe: Any, steps: int, num_images: int) -> int:
    """A probing run forwards and backwards; returns the bytes that waited between."""
    from stepmask.learning.end_to_end.config import EndToEnd
    from stepmask.learning.end_to_end.gradients.chain import Chain
    from stepmask.learning.interception import frozen
    from stepmask.liveness import make_plan
    from stepmask.runtime.task import Task
    from stepmask.schedules import fora

    task = Task(pipe, steps)
    plan = make_plan(fora(task.graph, task.timesteps, 2), task.graph)
    chain = Chain(pipe, plan, num_images, 2, EndToEnd(graph_bytes=0), probing=True)
    with frozen(task.denoiser), chain.intercepting():
        images = task.noise.latents(0, num_images, copies=2)
        images.backward(images.detach())
    return chain.history.waiting_bytes


def _full_chain(pipe: Any, steps: int, num_images: int, checkpointing: bool) -> int:
    """One iteration of DiP-GO."""
    from stepmask.learning import learn

    options = {"iterations": 1, "chain_images": num_images, "checkpointing": checkpointing, "progress": False}
    learn(pipe, steps, 0.5, method="dip-go", consistency="squared", **options)
    return 0


WAYS: dict[str, Callable[[Any, int, int], int]] = {
    "full chain": partial(_full_chain, checkpointing=False),
    "full chain, checkpointed": partial(_full_chain, checkpointing=True),
    "end-to-end": _end_to_end,
    "paper's learner": _paper,
}
"""What learns from one run, given pipeline, steps and images; returns the bytes that waited for a second pass."""


def main(model: str, steps: int, way: str = "end-to-end", num_images: int = NUM_PROBES) -> None:
    """Learn once, then print the peak of this process and the size of what waited, in MiB."""
    import resource

    from stepmask_lab import reference

    waiting = WAYS[way](reference.load(model), steps, num_images)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(peak / (2**20 if sys.platform == "darwin" else 2**10), waiting / 2**20)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
