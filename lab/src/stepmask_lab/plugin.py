"""What the laboratory adds to stepmask: reference models, metrics, and rival ways to learn. It imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stepmask import plugins
from stepmask.learning import Learner, register
from stepmask_lab import reference
from stepmask_lab.rivals.budcache.config import BudCache
from stepmask_lab.rivals.dip_go.config import DipGo
from stepmask_lab.rivals.ecad.config import Ecad
from stepmask_lab.rivals.harmonica.config import HarmoniCa
from stepmask_lab.rivals.l2c.config import L2C
from stepmask_lab.schedules import faster_diffusion, postdiff, random_schedule, step_skipping


def _metrics(names: str, real: Path | None) -> Any:
    from stepmask_lab.benchmark.metrics import metrics_by_name

    return metrics_by_name(names, real)


def _results(folder: Path) -> Any:
    from stepmask_lab.pages.exploration import benchmark_report

    return benchmark_report(folder)


plugins.register_models(
    plugins.ModelSource("reference", reference.names, reference.load, "small trained models of the laboratory")
)
for class_name, module in reference.OWN_PIPELINES.items():
    plugins.register_pipeline(class_name, module)
plugins.register_metrics(
    _metrics,
    "There are lpips, clip, fid, sfid, is, kid, precision and recall on their standard networks, for which "
    "'stepmask-lab\\[metrics]' must be installed, and cifar, a small classifier that comes with the laboratory, for "
    "images like CIFAR-10. Scores of sets need 512 images or more.",
)
plugins.register_results(_results)

LEARNERS = (
    Learner(
        name="harmonica",
        configuration=HarmoniCa,
        learn="stepmask_lab.rivals.harmonica.learner:learn",
        summary="is HarmoniCa (arXiv 2410.01723) in the frame of the paper's learner; blocks compute or hold.",
        needs_target=False,
    ),
    Learner(
        name="l2c",
        configuration=L2C,
        learn="stepmask_lab.rivals.l2c.learner:learn",
        summary="is Learning-to-Cache (arXiv 2406.01733) in that frame; every second step computes in full.",
        needs_target=False,
    ),
    Learner(
        name="ecad",
        configuration=Ecad,
        learn="stepmask_lab.rivals.ecad.search:learn",
        summary="searches by a genetic algorithm over binary masks, as ECAD (arXiv 2506.15682).",
        goals=frozenset({"target_macs", "targets"}),
    ),
    Learner(
        name="dip-go",
        configuration=DipGo,
        learn="stepmask_lab.rivals.dip_go.learner:learn",
        summary="learns by gradients through the whole run, as DiP-GO (arXiv 2410.16942); blocks compute or hold.",
    ),
    Learner(
        name="budcache",
        configuration=BudCache,
        learn="stepmask_lab.rivals.budcache.search:learn",
        summary="anneals and climbs over key steps by their final latents, as BudCache (arXiv 2606.13496).",
    ),
)
for learner in LEARNERS:
    register(learner)

RULES = faster_diffusion, postdiff, random_schedule, step_skipping
"""Schedules of the laboratory, which register themselves where they are defined."""
