"""The learner's state on disk: an interrupted run goes on to the same mask."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from stepmask._files import write_atomically
from stepmask.learning._states import check_identity, damaged
from stepmask.mask import EFFORT


@dataclass
class LearnerState:
    """Everything that learning changes between two trajectories.

    Attributes:
        tensors: Scores, Adam's moments, benefit, calibration; all (T, B) or (T,).
        trajectory: Number of trajectories done.
        lambda_sparse: lambda_1 now.
        history: Per trajectory the mean loss and the plan's cost.
        effort: Denoiser calls and seconds so far.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    trajectory: int = 0
    lambda_sparse: float = 1.0
    history: list[tuple[float, float]] = field(default_factory=list)
    effort: dict[str, Any] = field(default_factory=lambda: dict.fromkeys(EFFORT, 0))

    def save(self, path: str | Path, identity: dict) -> None:
        """Write the state as safetensors, whole or not at all.

        Args:
            path: Where to.
            identity: JSON values that must be the same when learning goes on.
        """
        names = ("trajectory", "lambda_sparse", "history", "effort")
        progress = {name: getattr(self, name) for name in names}
        metadata = {"stepmask_learner": json.dumps(identity, sort_keys=True), "progress": json.dumps(progress)}
        contiguous = {name: tensor.contiguous() for name, tensor in self.tensors.items()}
        write_atomically(path, safetensors.torch.save(contiguous, metadata))

    @classmethod
    def load(cls, path: str | Path, identity: dict) -> LearnerState:
        """Read a state.

        Raises:
            StepMaskError: The file is damaged, or belongs to another learning run.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # the file is replaced later
            before = json.loads(metadata["stepmask_learner"])
            progress = json.loads(metadata["progress"])
            progress["history"] = list(map(tuple, progress["history"]))
            state = cls(tensors, **progress)
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            raise damaged(path, "learning run", error) from error
        check_identity(path, "learning run", before, identity)
        return state


def adam_step(
    values: Tensor,
    gradient: Tensor,
    state: LearnerState,
    learning_rate: float,
    betas: tuple[float, float] = (0.8, 0.95),
) -> Tensor:
    """One step of Adam with its moments in `state`; returns new values.

    torch.optim.Adam would do, but keeps its moments where they cannot be written beside the rest.
    """
    step = state.trajectory + 1
    first = state.tensors.setdefault("adam_first", torch.zeros_like(values))
    second = state.tensors.setdefault("adam_second", torch.zeros_like(values))
    first.lerp_(gradient, 1 - betas[0])
    second.lerp_(gradient.square(), 1 - betas[1])
    first_hat, second_hat = first / (1 - betas[0] ** step), second / (1 - betas[1] ** step)
    return values - learning_rate * first_hat / (second_hat.sqrt() + 1e-12)
