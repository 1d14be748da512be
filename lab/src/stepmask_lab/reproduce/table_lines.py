"""What the lines of Tables 1 to 5 run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from stepmask.inspection.describe import describe
from stepmask.inspection.measure_cost import measure_cost
from stepmask.liveness import make_plan
from stepmask.mask import StepMask
from stepmask.schedules import deepcache, fora
from stepmask_lab.benchmark.methods import AnyMethod, learned
from stepmask_lab.benchmark.naming import methods_by_name
from stepmask_lab.method import Method, Subject, is_unet
from stepmask_lab.reproduce.bench import Options, Run
from stepmask_lab.reproduce.other_models import other_models
from stepmask_lab.reproduce.paper import DEEPCACHE, DIP_GO, DITFASTATTN, FORA, L2C, MASKING

OURS = "ours"
INTERVALS = range(2, 11)
CHANGES: dict[str, dict[str, dict[str, Any]]] = {
    "table4": {
        "random sampling": {},
        "Gumbel-Softmax": {"sampling": "gumbel"},
        "interpolation": {"sampling": "interpolation"},
        "trajectory of the teacher": {"trajectory": "teacher"},
        "sparsity weighted by MACs": {"sparse_weights": "macs"},
    },
    "table5": {
        "block masking": {},
        "without loss scaling": {"scale_loss": False},
        "without bi-modal loss": {"lambda_bimodal": 0.0},
    },
}
"""What each ablation changes about `stepmask.learning.Paper`; the first of both is the paper's learner itself."""


def comparison_lines(run: Run) -> list[AnyMethod]:
    """Of Tables 1 to 3, on one model."""
    unet = is_unet(run.subject.pipe)
    found: list[AnyMethod] = [
        *methods_by_name("full-run,fewer-steps"),
        _scheduled(DEEPCACHE, deepcache) if unet else _scheduled(FORA, fora),
    ]
    if run.model.row(L2C) is not None and not unet:
        found.append(Method(L2C, _share, partial(_rival, options=run.options, method="l2c"), (run.options.seed,)))
    if run.model.row(DITFASTATTN) is not None and not unet:
        found += [replace(method, settings=lambda subject: ["0.15"]) for method in methods_by_name("ditfastattn")]
    if run.model.row(DIP_GO) is not None and not unet:
        share = f"{run.model.share_of(DIP_GO):g}"
        make = partial(learned, label="dip-go", method="dip-go")
        found.append(Method(DIP_GO, lambda subject: [share], make, (run.options.seed,)))
    return [
        *found,
        *(other.method for other in other_models(run.name) if run.model.row(other.method.name) is not None),
        masking(run.options),
        Method(OURS, _share, partial(_ours, options=run.options), (run.options.seed,)),
    ]


def masking(options: Options, name: str = MASKING, **changes: Any) -> Method:
    """The paper's learner as we read it, at the paper's share of the MACs, with changes to its configuration."""
    return Method(name, _share, partial(_rival, options=options, method="paper", **changes), (options.seed,))


def ablation_lines(table: str, options: Options) -> dict[str, Method]:
    """Methods of Table 4 or 5 by the names of their lines; the unchanged learner is one cell in all tables."""
    return {
        line: masking(options, f"{MASKING}, {line}" if changes else MASKING, **changes)
        for line, changes in CHANGES[table].items()
    }


def _scheduled(name: str, rule: Callable[..., StepMask]) -> Method:
    """A regular schedule at the interval whose plan comes nearest to the budget."""

    def make(subject: Subject, setting: str, seed: int | None) -> StepMask:
        return rule(subject.pipe, subject.steps, int(setting.removeprefix("1:")))

    def settings(subject: Subject) -> list[str]:
        graph, cost = describe(subject.pipe), measure_cost(subject.pipe, call_kwargs=subject.call_kwargs)

        def distance(interval: int) -> float:
            plan = make_plan(rule(subject.pipe, subject.steps, interval), graph)
            return abs(cost.fraction(plan) - subject.targets[0])

        return [f"1:{min(INTERVALS, key=distance)}"]

    return Method(name, settings, make)


def _share(subject: Subject) -> list[str]:
    return [f"{subject.targets[0]:g}"]


def _rival(subject: Subject, setting: str, seed: int, *, options: Options, method: str, **changes: Any) -> StepMask:
    changes = {**changes, "num_trajectories": options.trajectories}
    label = "-".join([method, *(f"{name}-{value}" for name, value in changes.items())])
    return learned(subject, setting, seed, label, method=method, **changes)


def _ours(subject: Subject, setting: str, seed: int, *, options: Options) -> StepMask:
    return learned(subject, setting, seed, OURS, rounds=options.rounds)
