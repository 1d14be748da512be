"""What changes a learned mask: other objectives, and masks to start from. No rivals.

*Gains of key steps* learn no table, only how far its forecasts go. Each other learns for one budget at a time, with as
many rounds as the benchmark's families; *alone* is what these are read against.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from stepmask.learning.end_to_end.fit import fit_gains
from stepmask.mask import StepMask
from stepmask.schedules import key_steps
from stepmask_lab.benchmark import methods
from stepmask_lab.benchmark.methods import affordable_steps, calibrated, learned, paper
from stepmask_lab.method import Method, Subject, budgets
from stepmask_lab.rivals.calibrated.smoothcache import smoothcache

Options = Callable[[Subject, str, int], Mapping[str, Any]]
"""What `learn` is asked for beyond a budget, of a subject, a setting and a seed."""


def study_methods() -> list[Method]:
    """All variants, in the order of tables."""
    variants: dict[str, Options] = {
        "alone": lambda subject, setting, seed: {},
        "by pictures": lambda subject, setting, seed: {"objective": partial(pictures, subject.pipe)},
        "by features": lambda subject, setting, seed: {"objective": features_of(subject.pipe)},
        "from the paper's learner": lambda *asked: {"start": paper(*asked)},
        "from DiP-GO": lambda *asked: {"start": _dip_go(*asked)},
        "from SmoothCache": lambda *asked: {"start": calibrated(*asked, rule=smoothcache)},
    }
    fitted = Method("end-to-end, gains of key steps", affordable_steps, _with_gains, (0,))
    return [fitted] + [
        Method(f"end-to-end, {name}", budgets, partial(_variant, name=name, options=options), (0,))
        for name, options in variants.items()
    ]


def pictures(pipe: Any, latents: Tensor) -> Tensor:
    """What the decoder makes of final latents, (N, 3, H, W) in [0, 1]; images where the pipeline has none."""
    vae = getattr(pipe, "vae", None)
    return latents if vae is None else vae.decoder(latents) / 2 + 0.5


def features_of(pipe: Any) -> Callable[[Tensor], Tensor]:
    """What the classifier sees in the pictures, (N, D): the features that Fréchet distances are computed on."""
    from stepmask_lab.reference import load_classifier

    classifier = load_classifier()
    return lambda latents: classifier(pictures(pipe, latents).clamp(0, 1))["features"]


def _variant(subject: Subject, setting: str, seed: int, *, name: str, options: Options) -> StepMask:
    return learned(subject, setting, seed, f"study-{name}", **methods.LEARNING, **options(subject, setting, seed))


def _with_gains(subject: Subject, setting: str, seed: int) -> StepMask:
    schedule = key_steps(subject.pipe, subject.steps, int(setting))
    return fit_gains(subject.pipe, schedule, seed=seed, call_kwargs=subject.call_kwargs, conditions=subject.conditions)


def _dip_go(subject: Subject, setting: str, seed: int) -> StepMask:
    method, _, options = methods.LEARNED_RIVALS["DiP-GO"]
    return learned(subject, setting, seed, f"study-{method}", method=method, **options)
