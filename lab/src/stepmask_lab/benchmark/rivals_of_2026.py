"""The rivals of 2025 and 2026 that decide on whole steps, as rows of the benchmark: ``--methods of-2026``."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from stepmask.liveness import Plan
from stepmask.mask import StepMask
from stepmask.recipe import Recipe
from stepmask.runtime.given_run import takes_timesteps
from stepmask.schedules import key_steps
from stepmask_lab.benchmark import methods
from stepmask_lab.benchmark.methods import AnyMethod, affordable_steps, learned
from stepmask_lab.method import Adaptive, Method, Subject
from stepmask_lab.rivals.adaptive_run import Rule, adaptive
from stepmask_lab.rivals.budcache.timesteps import budcache_recipe
from stepmask_lab.rivals.dpcache.plan import dpcache, dpcache_plan
from stepmask_lab.rivals.easycache.rule import EasyCache
from stepmask_lab.rivals.hicache_pp.plan import PACKAGE, hicache_pp_plan
from stepmask_lab.rivals.l2p.plan import l2p_plan
from stepmask_lab.rivals.meancache.plan import meancache, meancache_plan
from stepmask_lab.rivals.noise_levels import FLOW, noise_levels, prediction_of
from stepmask_lab.rivals.sada.rule import Sada
from stepmask_lab.rivals.seacache.rule import SeaCache
from stepmask_lab.rivals.spectrum.plan import spectrum, spectrum_plan
from stepmask_lab.rivals.taylorseer.plan import hicache_plan, taylorseer, taylorseer_plan

SEARCH: dict[str, Any] = {}
"""Options of BudCache's search; for the rest, its defaults."""
NUM_IMAGES = 50
"""Of L2P's fit."""
GROWTHS = ("0", "0.25", "0.75", "1.5", "3")
"""Of Spectrum's windows."""
THRESHOLDS = {"EasyCache": ("0.02", "0.03", "0.05", "0.1", "0.2"), "SeaCache": ("0.1", "0.15", "0.2", "0.3", "0.5")}
MOST = ("1", "2", "3", "4", "4, late 1:2", "4, late 1:3", "4, late 1:4")
"""Steps that SADA skips in a row, and the interval of its late phase."""


def rivals_of_2026() -> list[AnyMethod]:
    """All of them, in the order of tables."""
    found: list[AnyMethod] = [
        Method("BudCache", affordable_steps, _budcache, (0,)),
        Method("BudCache + timesteps", affordable_steps, _budcache, (0,), _takes_timesteps, _budcache_recipe),
        Method("MeanCache", affordable_steps, partial(_by_path, rule=meancache), refine=_refined(meancache_plan)),
        Method("L2P", affordable_steps, _key_steps, refine=_l2p),
        Method("DPCache", affordable_steps, partial(_by_path, rule=dpcache), refine=_refined(dpcache_plan)),
        Method("Spectrum", lambda subject: GROWTHS, _spectrum, refine=_refined(spectrum_plan)),
        Method("Spectrum, half a line", lambda subject: GROWTHS, _spectrum, refine=_refined(spectrum_plan, share=0.5)),
    ]
    for name, plan in (("TaylorSeer, order 2", taylorseer_plan), ("HiCache, order 2", hicache_plan)):
        for where, level in (("", "branch"), (", last value", "stack")):
            make = partial(_by_interval, level=level)
            found.append(Method(name + where, _intervals, make, refine=_refined(plan)))
    for basis in ("dmd", "auto"):
        make, refine = partial(_by_interval, level="stack"), _refined(hicache_pp_plan, basis=basis)
        found.append(Method(f"hicache-pp, {basis}", _intervals, make, fits=_has_package, refine=refine))
    for name, rule, settings, fits in (
        ("SeaCache", _seacache, THRESHOLDS["SeaCache"], _says_noise),
        ("SADA", _sada, MOST, _predicts_noise),
        ("EasyCache", _easycache, THRESHOLDS["EasyCache"], lambda subject: None),
    ):
        found.append(Adaptive.of(name, lambda s, known=settings: known, partial(_deciding, rule=rule), fits))
    return found


@contextmanager
def _deciding(
    subject: Subject, setting: str, work: list[float], *, rule: Callable[[Any, str], Callable[[int], Rule]]
) -> Iterator[tuple[Any, int]]:
    """The subject's pipeline under an adaptive rule, whose work is noted at the end."""
    with adaptive(subject.pipe, rule(subject.pipe, setting)) as run:
        yield subject.pipe, subject.steps
    work += run.work


def _easycache(pipe: Any, setting: str) -> Callable[[int], Rule]:
    return lambda num_rows: EasyCache(num_rows, float(setting), adds_input=prediction_of(pipe.scheduler) == FLOW)


def _seacache(pipe: Any, setting: str) -> Callable[[int], Rule]:
    def rule(num_rows: int) -> Rule:
        signal, noise = (levels.tolist() for levels in noise_levels(pipe.scheduler))
        return SeaCache(signal, noise, float(setting))

    return rule


def _sada(pipe: Any, setting: str) -> Callable[[int], Rule]:
    def rule(num_rows: int) -> Rule:
        scheduler = pipe.scheduler
        signal, noise = (levels.tolist() for levels in noise_levels(scheduler))
        betas = np.asarray(scheduler.betas, dtype=float)
        rates = len(betas) * np.interp(np.asarray(scheduler.timesteps, dtype=float), np.arange(len(betas)), betas)
        most, _, every = setting.partition(", late 1:")
        return Sada(signal, noise, rates.tolist(), int(most), int(every) if every else None)

    return rule


def _predicts_noise(subject: Subject) -> str | None:
    scheduler = subject.pipe.scheduler
    if prediction_of(scheduler) != "epsilon" or not hasattr(scheduler, "betas"):
        return "corrects what models predict as noise alone, under a scheduler with betas"
    return None


def _says_noise(subject: Subject) -> str | None:
    known = hasattr(subject.pipe.scheduler, "alphas_cumprod") or hasattr(subject.pipe.scheduler, "sigmas")
    return None if known else "needs a scheduler that says noise levels"


def _has_package(subject: Subject) -> str | None:
    if importlib.util.find_spec(PACKAGE) is None:
        return "needs the package hicache-pp: pip install 'stepmask-lab[rivals]'"
    return None


def _options(subject: Subject) -> dict[str, Any]:
    return {"call_kwargs": subject.call_kwargs, "conditions": subject.conditions}


def _refined(plan: Any, **options: Any) -> Any:
    return lambda subject, mask: plan(subject.pipe, mask, **options)


def _intervals(subject: Subject) -> list[str]:
    return [f"1:{k}" for k in methods.INTERVALS]


def _budcache(subject: Subject, setting: str, seed: int) -> StepMask:
    paying_for = (int(setting) + 0.5) / subject.steps  # so many steps, and what of the others always runs
    return learned(subject, f"{paying_for:.4f}", seed, "budcache", method="budcache", **SEARCH)


def _budcache_recipe(subject: Subject, mask: StepMask) -> Recipe:
    return budcache_recipe(subject.pipe, mask, **_options(subject))


def _takes_timesteps(subject: Subject) -> str | None:
    return None if takes_timesteps(subject.pipe.scheduler) else "needs a scheduler that takes timesteps"


def _by_path(subject: Subject, setting: str, seed: int | None, *, rule: Any) -> StepMask:
    return rule(subject.pipe, subject.steps, max(2, int(setting)), **_options(subject))


def _key_steps(subject: Subject, setting: str, seed: int | None) -> StepMask:
    return key_steps(subject.pipe, subject.steps, int(setting))


def _l2p(subject: Subject, mask: StepMask) -> Plan:
    return l2p_plan(subject.pipe, mask, num_images=NUM_IMAGES, **_options(subject))


def _spectrum(subject: Subject, setting: str, seed: int | None) -> StepMask:
    return spectrum(subject.pipe, subject.steps, float(setting))


def _by_interval(subject: Subject, setting: str, seed: int | None, *, level: Any) -> StepMask:
    return taylorseer(subject.pipe, subject.steps, int(setting.removeprefix("1:")), level=level)
