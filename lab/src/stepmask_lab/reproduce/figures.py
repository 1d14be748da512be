"""What the figures show: a mask of the paper's learner with its scores, and how similar neighbouring steps are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from stepmask.graph import BlockGraph
from stepmask.learning.paper.losses import step_weights
from stepmask.learning.paper.output_change import output_changes
from stepmask.liveness import Plan, make_plan
from stepmask.mask import StepMask
from stepmask.runtime.task import Task
from stepmask_lab.reproduce.bench import Run, learned_scores
from stepmask_lab.reproduce.table_lines import masking
from stepmask_lab.rivals.calibrated.recording import record

NUM_IMAGES = 8


@dataclass(frozen=True, eq=False)
class FigureData:
    """One model's.

    Attributes:
        mask: From the paper's learner.
        plan: Of it, after exact elimination.
        macs: Kept share of the full run.
        graph: Of the model's innermost sites.
        changes: (T, B) relative L1 change of their values since the step before, in the full run; NaN at step 0.
        delta: (T,) relative change of the output, Eq. 9; 0 at step 0.
        weights: (T,) w(t) of Eq. 10.
    """

    mask: StepMask
    plan: Plan
    macs: float
    graph: BlockGraph
    changes: np.ndarray
    delta: np.ndarray
    weights: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """The numbers behind the figures, as JSON values; the mask is a file of its own."""
        scores = learned_scores(self.mask, self.graph)
        return {
            "macs": self.macs,
            "scores_histogram": np.histogram(scores, bins=40, range=(0, 1))[0].tolist(),
            "sites": list(self.graph.names),
            "changes": [[None if np.isnan(v) else round(float(v), 5) for v in row] for row in self.changes],
            "delta": self.delta.round(5).tolist(),
            "step_weights": self.weights.tolist(),
        }


def figure_data(run: Run) -> FigureData:
    """Learn the mask if the folder does not hold it, and record one full run of a few images."""
    row = next(iter(run.rows([masking(run.options)])))
    mask, subject = run.mask(row), run.subject
    run.comparison.tell(f"{run.name}, {subject.steps} steps: how similar neighbouring steps are")
    recording = record(subject.pipe, subject.steps, num_images=NUM_IMAGES, call_kwargs=subject.call_kwargs)
    changes = recording.changes[:, :, 0]
    task = Task(subject.pipe, subject.steps, call_kwargs=subject.call_kwargs)
    delta = output_changes(task, lambda: task.noise.images(0, NUM_IMAGES))
    return FigureData(
        mask,
        make_plan(mask, run.graph),
        row["macs"],
        recording.graph,
        np.where(np.isfinite(changes), changes, np.nan),
        delta.numpy(),
        step_weights(delta).numpy(),
    )
