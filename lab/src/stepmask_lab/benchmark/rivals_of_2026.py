"""The rivals of 2025 and 2026 that decide on whole steps, as rows of the benchmark: ``--methods of-2026``."""

from __future__ import annotations

from functools import partial
from typing import Any

from stepmask.liveness import Plan
from stepmask.mask import StepMask
from stepmask.schedules import key_steps
from stepmask_lab.benchmark import methods
from stepmask_lab.benchmark.methods import AnyMethod, affordable_steps, learned
from stepmask_lab.method import Method, Subject, budgets
from stepmask_lab.rivals.dpcache.plan import dpcache, dpcache_plan
from stepmask_lab.rivals.l2p.plan import l2p_plan
from stepmask_lab.rivals.meancache.plan import meancache, meancache_plan
from stepmask_lab.rivals.spectrum.plan import spectrum, spectrum_plan
from stepmask_lab.rivals.taylorseer.plan import hicache_plan, taylorseer, taylorseer_plan

SEARCH: dict[str, Any] = {}
"""Options of BudCache's search; for the rest, its defaults."""
NUM_IMAGES = 50
"""Of L2P's fit."""
GROWTHS = ("0", "0.25", "0.75", "1.5", "3")
"""Of Spectrum's windows."""


def rivals_of_2026() -> list[AnyMethod]:
    """All of them, in the order of tables."""
    found: list[AnyMethod] = [
        Method("BudCache", budgets, _budcache, (0,)),
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
    return found


def _options(subject: Subject) -> dict[str, Any]:
    return {"call_kwargs": subject.call_kwargs, "conditions": subject.conditions}


def _refined(plan: Any, **options: Any) -> Any:
    return lambda subject, mask: plan(subject.pipe, mask, **options)


def _intervals(subject: Subject) -> list[str]:
    return [f"1:{k}" for k in methods.INTERVALS]


def _budcache(subject: Subject, setting: str, seed: int) -> StepMask:
    return learned(subject, setting, seed, "budcache", method="budcache", **SEARCH)


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
