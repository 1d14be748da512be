"""Peak memory of the ways to learn against the number of steps: ``python -m stepmask_lab.benchmark.memory ...``.

A process of its own for each measurement, since the peak of a process never falls. On a CPU the values that wait
between the two passes of end-to-end selection, which an accelerator can leave to its host (``offload``), lie in the
same memory: their size is measured too, and what is beyond it is the work space.

``python -m stepmask_lab.benchmark.memory MODEL STEPS forecast`` compares what a small search is said to need, before it
begins, with what it takes.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
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


SMALL = {"rounds": 1, "num_moves": 4, "gains": 8, "num_probes": 4, "num_validation": 4, "num_held_back": 4}
"""Options of the search whose forecast is compared."""


def forecast(model: str, steps: int) -> None:
    """Search for a mask of half of the MACs, then print the seconds and the MiB that were forecast, and those taken.

    The MiB are those of learning, beside the model; the seconds are those of the processor, so that what else runs on
    the machine does not count.
    """
    from stepmask.learning import EndToEnd, Goals, Job
    from stepmask.learning.end_to_end.learner import EndToEndLearning
    from stepmask.learning.end_to_end.times import measured_pace
    from stepmask.runtime.task import Task
    from stepmask_lab import reference

    task, config = Task(reference.load(model), steps), EndToEnd(**SMALL)
    before = _peak_mib()
    learning = EndToEndLearning(Job(task=task, goals=Goals(target_macs=0.5), config=config, method="end-to-end"))
    pace = measured_pace(task, learning.config, time.process_time)
    learning.times = replace(learning.times, **pace)
    seconds, needs, began = learning.seconds(), learning.needs, time.process_time()
    learning.run(lambda report: None)
    learning.mask()
    took, most = time.process_time() - began, _peak_mib() - before
    print(f"seconds: forecast {seconds:.0f}, took {took:.0f}, ratio {seconds / took:.2f}")
    print(f"MiB: forecast {needs.device / 2**20:.0f}, took {most:.0f}, ratio {needs.device / 2**20 / most:.2f}")


def _peak_mib() -> float:
    """Of this process so far."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main(model: str, steps: int, way: str = "end-to-end", num_images: int = NUM_PROBES) -> None:
    """Learn once, then print the peak of this process and the size of what waited, in MiB."""
    from stepmask_lab import reference

    waiting = WAYS[way](reference.load(model), steps, num_images)
    print(_peak_mib(), waiting / 2**20)


if __name__ == "__main__":
    if sys.argv[3] == "forecast":
        forecast(sys.argv[1], int(sys.argv[2]))
    else:
        main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
