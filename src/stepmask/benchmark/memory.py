"""Peak memory of learning against the number of steps: ``python -m stepmask.benchmark.memory MODEL STEPS``.

A process of its own for each measurement, since the peak of a process never falls.
"""

from __future__ import annotations

import subprocess
import sys


def learning_peak_mib(model: str, steps: int) -> float:
    """Peak resident memory, in MiB, of a process that learns from two runs of a reference model."""
    command = [sys.executable, "-m", "stepmask.benchmark.memory", model, str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main(model: str, steps: int) -> None:
    """Learn, then print the peak of this process."""
    import resource

    from stepmask import learn, reference

    learn(reference.load(model), steps, 0.5, num_trajectories=2, batch_size=16, importance="uniform", progress=False)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(peak / (2**20 if sys.platform == "darwin" else 2**10))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
