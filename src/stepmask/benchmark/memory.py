"""Peak memory of a probing run against the number of steps: ``python -m stepmask.benchmark.memory MODEL STEPS``.

A process of its own for each measurement, since the peak of a process never falls. On a CPU the values that wait
between the two passes, which an accelerator can leave to its host (``offload``), lie in the same memory: their size
is measured too, and what is beyond it is the work space.
"""

from __future__ import annotations

import subprocess
import sys

NUM_PROBES = 8


def probing_memory_mib(model: str, steps: int) -> dict[str, float]:
    """MiB of a process that probes a reference model: ``peak`` (resident), and ``waiting`` between the passes."""
    command = [sys.executable, "-m", "stepmask.benchmark.memory", model, str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak, waiting = map(float, done.stdout.split()[-2:])
    return {"peak": peak, "waiting": waiting}


def main(model: str, steps: int) -> None:
    """Probe once, then print the peak of this process and the size of what waited."""
    import resource

    from stepmask import describe, make_plan, reference
    from stepmask.architectures import denoiser_of
    from stepmask.learning.end_to_end.chain import Chain
    from stepmask.learning.noise import Noise
    from stepmask.learning.riding import frozen
    from stepmask.schedules import fora

    pipe = reference.load(model)
    noise = Noise(pipe, steps, seed=0)
    chain = Chain(pipe, make_plan(fora(pipe, steps, 2), describe(pipe)), NUM_PROBES, copies=2, fresh=True)
    with frozen(denoiser_of(pipe)), chain.riding():
        images = noise.latents(0, NUM_PROBES, copies=2)
        images.backward(images.detach())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(peak / (2**20 if sys.platform == "darwin" else 2**10), chain.waiting_bytes / 2**20)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
