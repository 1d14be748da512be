"""What is compared: learned masks at several budgets, and the rivals at their settings."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from stepmask.family import MaskFamily
from stepmask.inspection.describe import describe
from stepmask.inspection.measure_cost import measure_cost
from stepmask.inspection.pipeline_call import PipelineCall
from stepmask.inspection.sampler_loop import SamplerLoop
from stepmask.learning import learn, learn_family
from stepmask.learning.budget import VALUES, Budget, passed_bytes
from stepmask.liveness import Plan
from stepmask.mask import StepMask
from stepmask.schedules import deepcache, fora, key_steps
from stepmask_lab.method import Method, Subject, Unmasked, budgets, is_unet
from stepmask_lab.rivals.calibrated.block_caching import block_caching
from stepmask_lab.rivals.calibrated.ditfastattn import ditfastattn
from stepmask_lab.rivals.calibrated.scale_shift import fit_scale_shift
from stepmask_lab.rivals.calibrated.smoothcache import smoothcache
from stepmask_lab.schedules import faster_diffusion, random_schedule, step_skipping

INTERVALS = (2, 3, 4, 5)
SEEDS = (0, 1)
BINARY_SEEDS = (0,)
LEARNING: dict[str, Any] = {"rounds": 2}
"""Options of our own learning; for the rest, defaults."""
TRAJECTORIES = 8
LEARNED_RIVALS: dict[str, tuple[str, float, dict[str, int]]] = {
    "HarmoniCa": ("harmonica", 0.5, {"num_trajectories": 24}),
    "L2C": ("l2c", 0.6, {"num_trajectories": 24}),
    "ECAD": ("ecad", 0.5, {"population": 16, "generations": 8}),
    "DiP-GO": ("dip-go", 0.5, {"iterations": 24}),
}
"""By name: method of `learn`, target and options, for some minutes each. L2C cannot fall below a half."""
GUIDANCE_SCALE = 2.5
PAPER_STEPS = 20
"""The paper's learner and learned rivals are compared up to so many steps: they cost as much as ours."""


@dataclass(frozen=True)
class FamilyMethod:
    """A method whose masks of all budgets come from one pass.

    Attributes:
        name: As tables call it.
        label: Of its files.
        seeds: Of learning.
        options: Of learning, beside `LEARNING`.
        num_values: The cache keeps to so many of the values that pass from block to block; None for the usual limit.
    """

    name: str
    label: str
    seeds: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    num_values: int | None = None

    def settings(self, subject: Subject) -> Sequence[str]:
        """The budgets."""
        return budgets(subject)

    def family(self, subject: Subject, seed: int) -> MaskFamily:
        """Learn all budgets that can be reached; where none can, learning says so."""
        graph, costs = describe(subject.pipe), measure_cost(subject.pipe, call_kwargs=subject.call_kwargs)
        budget = Budget(graph, costs)
        limit = {} if self.num_values is None else {"max_cache_bytes": self.num_values * passed_bytes(graph, costs)}
        floor = budget.floor(fora(subject.pipe, subject.steps).num_rows)  # some schedulers take more rows than steps
        return learn_family(
            subject.pipe,
            subject.steps,
            [target for target in subject.targets if target >= floor] or subject.targets,
            seed=seed,
            call_kwargs=subject.call_kwargs,
            conditions=subject.conditions,
            resume=subject.state(f"{self.label}-seed{seed}"),
            **LEARNING,
            **self.options,
            **limit,
        )

    def fits(self, subject: Subject) -> str | None:
        """Always."""
        return None


AnyMethod = Method | FamilyMethod | Unmasked

FULL_RUN = Unmasked(
    "full run", lambda subject: ["all"], lambda subject, setting: nullcontext((subject.pipe, subject.steps))
)
"""What the others are measured against, measured as they are: its speed-up says how steady the clock is."""


def methods() -> list[AnyMethod]:
    """All methods, in the order of tables."""
    found: list[AnyMethod] = [FULL_RUN]
    for how, suffix in ((None, ""), ("linear", " + forecast")):
        for name, rule, fits in (("FORA", fora, _always), ("DeepCache", deepcache, _needs_levels)):
            make = partial(_by_interval, rule=rule, forecast=how)
            found.append(Method(f"{name}{suffix}", lambda subject: [f"1:{k}" for k in INTERVALS], make, fits=fits))
    found += [
        Method("DeepCache, quad", lambda s: [f"1:{k}" for k in INTERVALS], _deepcache_quad, fits=_needs_levels),
        Method("Faster Diffusion", lambda subject: ["as published"], _faster_diffusion, fits=_needs_levels),
        Method("step skipping", lambda subject: ["every 2nd", "every 3rd", "every 4th"], _step_skipping),
        Method("key steps + forecast", affordable_steps, _key_steps),
        Method("random", budgets, _random, (0,)),
        Method("SmoothCache", budgets, partial(calibrated, rule=smoothcache)),
        Method("Block Caching", budgets, partial(calibrated, rule=block_caching)),
        Method("Block Caching + scale-shift", budgets, partial(calibrated, rule=block_caching), refine=_scaled),
        Method("DiTFastAttn", lambda subject: ["0.05", "0.15"], _ditfastattn, fits=_no_levels),
        Unmasked("fewer steps", affordable_steps, _fewer_steps),
        Unmasked("fewer steps, DPM-Solver++", affordable_steps, partial(_fewer_steps, change=with_dpm)),
        FamilyMethod("end-to-end", "family", SEEDS),
        FamilyMethod("end-to-end, six values", "family-six-values", SEEDS, num_values=VALUES),
        FamilyMethod("end-to-end, by runs", "family-by-runs", SEEDS, {"gradients": False}),
        FamilyMethod("end-to-end, hold only", "family-hold-only", BINARY_SEEDS, {"forecast": False}),
        Method("paper's learner", lambda subject: ["0.5"], paper, (0,), _few_steps),
    ]
    for name, (method, target, options) in LEARNED_RIVALS.items():
        make = partial(learned, label=method, method=method, **options)
        found.append(Method(name, lambda subject, target=target: [f"{target:g}"], make, (0,), _few_steps))
    return found


def calibrated(subject: Subject, setting: str, seed: int | None, *, rule: Any) -> StepMask:
    """A mask by a rule that watches a full run, at a share of the MACs."""
    options = {"call_kwargs": subject.call_kwargs, "conditions": subject.conditions}
    return rule(subject.pipe, subject.steps, target_macs=float(setting), **options)


def _scaled(subject: Subject, mask: StepMask) -> Plan:
    return fit_scale_shift(subject.pipe, mask, call_kwargs=subject.call_kwargs, conditions=subject.conditions)


def _ditfastattn(subject: Subject, setting: str, seed: int | None) -> StepMask:
    options = {"call_kwargs": subject.call_kwargs, "conditions": subject.conditions}
    return ditfastattn(subject.pipe, subject.steps, float(setting), **options)


def _by_interval(subject: Subject, setting: str, seed: int | None, *, rule: Any, forecast: str | None) -> StepMask:
    return rule(subject.pipe, subject.steps, int(setting.removeprefix("1:")), forecast=forecast)


def _deepcache_quad(subject: Subject, setting: str, seed: int | None) -> StepMask:
    return deepcache(subject.pipe, subject.steps, int(setting.removeprefix("1:")), spacing="quad")


def _faster_diffusion(subject: Subject, setting: str, seed: int | None) -> StepMask:
    return faster_diffusion(subject.pipe, subject.steps)


def _step_skipping(subject: Subject, setting: str, seed: int | None) -> StepMask:
    return step_skipping(subject.pipe, subject.steps, every=int(setting.removeprefix("every ")[0]))


def _key_steps(subject: Subject, setting: str, seed: int | None) -> StepMask:
    return key_steps(subject.pipe, subject.steps, int(setting))


def _random(subject: Subject, setting: str, seed: int | None) -> StepMask:
    return random_schedule(subject.pipe, subject.steps, density=float(setting), seed=seed)


def affordable_steps(subject: Subject) -> list[str]:
    """Numbers of steps that cost about as much as the budgets."""
    return [str(max(1, round(target * subject.steps))) for target in subject.targets]


@contextmanager
def _fewer_steps(
    subject: Subject, setting: str, change: Callable[[Any], Any] = lambda pipe: pipe
) -> Iterator[tuple[Any, int]]:
    yield change(subject.pipe), int(setting)


def with_dpm(pipe: Any) -> Any:
    """A pipeline of the same models that samples with DPM-Solver++."""
    from diffusers import DDIMPipeline, DDPMPipeline, DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    if isinstance(pipe, DDIMPipeline):  # takes no other scheduler
        return DDPMPipeline(pipe.unet, scheduler)
    if isinstance(pipe, SamplerLoop):
        return SamplerLoop(pipe.denoiser, scheduler)
    changed = copy.copy(pipe)  # made anew from its components it would lose the names of its classes
    changed.scheduler = scheduler
    return changed


def paper(subject: Subject, setting: str, seed: int | None) -> StepMask:
    """A mask from the paper's learner as we read it."""
    return learned(subject, setting, seed, "paper", method="paper", num_trajectories=TRAJECTORIES)


def learned(subject: Subject, setting: str, seed: int, label: str, **options: Any) -> StepMask:
    """Learn at a share of the MACs; a stopped run goes on where it was.

    Args:
        subject: What for.
        setting: The share.
        seed: Of learning.
        label: Names the state of this learning.
        options: Of `stepmask.learn`.
    """
    state = subject.state(f"{label}-{setting}-seed{seed}")
    mask = learn(
        subject.pipe,
        subject.steps,
        float(setting),
        seed=seed,
        call_kwargs=subject.call_kwargs,
        conditions=subject.conditions,
        resume=state,
        **options,
    )
    if state is not None:
        state.unlink(missing_ok=True)
    return mask


def guided(pipe: Any, scale: float = GUIDANCE_SCALE) -> dict[str, float]:
    """The guidance of a reference model, as an argument of its call; empty where it has none."""
    return {"guidance_scale": scale} if PipelineCall(pipe).takes("guidance_scale") else {}


def _always(subject: Subject) -> str | None:
    return None


def _needs_levels(subject: Subject) -> str | None:
    return None if is_unet(subject.pipe) else "needs the levels of a U-Net"


def _no_levels(subject: Subject) -> str | None:
    return "is for transformers" if is_unet(subject.pipe) else None


def _few_steps(subject: Subject) -> str | None:
    return None if subject.steps <= PAPER_STEPS else f"compared up to {PAPER_STEPS} steps: it costs as much as ours"
