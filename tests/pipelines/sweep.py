"""Tries masks on every pipeline class and every scheduler of diffusers that can be made tiny, and writes a page of it.

``python tests/pipelines/sweep.py -o docs/reference/sweep.md [NAME ...]``. A class is built from the parts of the
verified case whose denoiser it takes, and called with that case's arguments and with what else its call asks for by
name. What cannot be built or called so is listed with the reason. Of the others, two masks are run: an all-ones mask
must make what the plain pipeline makes, and FORA of every second step what hooks make that swap in each site's last
value, bit for bit; or a `StepMaskError` must say why not.
"""

from __future__ import annotations

import argparse
import inspect
import re
import resource
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from functools import partial, wraps
from itertools import accumulate, pairwise, product
from pathlib import Path
from typing import Any, Literal, get_args

if __name__ == "__main__":
    sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import diffusers
import numpy as np
import torch
from cases import CASES, Case, picture
from more_modular import MODULAR
from more_pictured import PICTURED
from more_sounds import SOUNDS
from more_transformers import TRANSFORMERS
from more_unets import UNETS
from more_videos import VIDEOS
from parts import of_config
from PIL import Image
from rare import RARE
from runs import by_reference
from strangers import STRANGERS
from torch import Tensor
from torch.nn.functional import interpolate
from untried import UNTRIED

import stepmask
from stepmask import StepMaskError, describe, schedules
from stepmask.inspection.registry import denoisers_of
from stepmask.runtime.position import timestep_of
from stepmask.runtime.sampling import sample
from stepmask.runtime.task import Task
from tiny import quiet

STEPS, BATCH, SECONDS, MOST_BYTES = 4, 2, 30, 8 * 2**30
DENOISERS = ("transformer", "unet", "prior", "decoder")
TOO_LONG = "it took longer than"
DEPRECATED = "deprecated: diffusers keeps it in its folder of deprecated pipelines"
NO_DENOISER = "it has no denoiser in a place that is known"
OF_BLOCKS = "modular: it gets its blocks when it is loaded; those of standard pipelines that are verified are above"
Pictures = Literal["tensors", "images", "none"]
"""How pictures are given; where a call can go without, also without."""

NEEDED = ("image", "mask_image", "control_image", "video", "strength")
"""Arguments that are given although calls may have a default for them."""

NAMED: dict[str, Callable[[int], Any]] = {
    "image": picture,
    "mask_image": lambda batch: picture(batch, 1).round(),
    "control_mask": lambda batch: picture(batch, 1).round(),
    "control_image": picture,
    "video": lambda batch: [picture(5)] * batch,
    "conditioning_frames": lambda batch: list(picture(3)),
    "controlnet_conditioning_scale": lambda batch: 1.0,
    "control_mode": lambda batch: 0,
    "strength": lambda batch: 0.8,
}
"""Arguments that calls need beside those of a case."""


@dataclass(frozen=True)
class Outcome:
    """What came of one class.

    Attributes:
        name: Of the class.
        denoiser: Class of its denoiser, or where a scheduler was tried.
        found: ``"bitwise"``; ``"refused"`` or ``"warned"`` in words; ``"differs"`` or ``"breaks"``, which are faults;
            ``"left out"`` for a reason that is known; ``"not tried"`` where the plain pipeline could not be made or
            called.
        why: In a sentence, where it is not bitwise.
        num_sites: Sites that were found.
    """

    name: str
    denoiser: str
    found: str
    why: str = ""
    num_sites: int = 0


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """End what takes longer, by a TimeoutError."""

    def end(*_: Any) -> None:
        raise TimeoutError(f"{TOO_LONG} {seconds} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def pipelines() -> dict[str, type]:
    """Every pipeline class of diffusers, by name."""
    found = {}
    for name in sorted(dir(diffusers)):
        kind = getattr(diffusers, name, None) if "Pipeline" in name else None
        is_one = inspect.isclass(kind) and (name.endswith("Pipeline") or issubclass(kind, diffusers.DiffusionPipeline))
        if is_one and not name.startswith(("Onnx", "Flax", "AutoPipeline")):
            found[name] = kind
    return found


def denoiser_class(kind: type) -> str | None:
    """Name of the class of the denoiser that a pipeline's constructor asks for."""
    parameters = inspect.signature(kind.__init__).parameters
    for name in DENOISERS:
        if name in parameters:
            named = re.findall(r"\w+", str(parameters[name].annotation))
            return next((word for word in named if inspect.isclass(getattr(diffusers, word, None))), None)
    return None


def _alike(name: str, other: str) -> float:
    """How much two names of classes have in common, 0 to 1."""
    return SequenceMatcher(None, name, other).ratio()


class Bench:
    """The verified cases, built when they are needed."""

    def __init__(self) -> None:
        self._built: dict[str, Any] = {}
        self._cases = [*CASES, *STRANGERS, *RARE]

    def candidates(self, kind: type, denoiser: str, most: int = 3) -> list[Case]:
        """The cases that have such a denoiser, the most similar first."""
        fitting = []
        for case in self._cases:
            pipe = self.pipe(case)
            if denoiser in {type(part).__name__ for part in pipe.components.values()}:
                fitting.append((_alike(kind.__name__, type(pipe).__name__), case))
        return [case for _, case in sorted(fitting, key=lambda one: one[0], reverse=True)[:most]]

    def pipe(self, case: Case) -> Any:
        """The pipeline of a case."""
        if case.name not in self._built:
            self._built[case.name] = case.build()
        return self._built[case.name]

    def build(self, kind: type, case: Case) -> Any:
        """A pipeline of the class, from fresh parts of a case."""
        parts, given = case.build().components, {}
        for name, parameter in inspect.signature(kind.__init__).parameters.items():
            if name == "self" or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                continue
            if name == "requires_safety_checker":
                given[name] = False
            elif name == "scheduler":
                given[name] = _scheduler(str(parameter.annotation), parts[name])
            elif name in parts:
                given[name] = parts[name]
            elif name == "controlnet":
                given[name] = _control_net(str(parameter.annotation), parts)
            elif parameter.default is parameter.empty:
                given[name] = None
        return quiet(kind(**given))


def _scheduler(annotation: str, known: Any) -> Any:
    """The scheduler of a case; where a constructor asks for another, the first that it names."""
    named = [getattr(diffusers, word, None) for word in re.findall(r"\w+Scheduler\b", annotation)]
    kinds = [kind for kind in named if inspect.isclass(kind)]
    return known if not kinds or isinstance(known, tuple(kinds)) else kinds[0]()


def _control_net(annotation: str, parts: dict[str, Any]) -> Any:
    """A ControlNet that fits to the denoiser, with random weights."""
    named = [
        word for word in re.findall(r"\w+", annotation) if word.endswith(("ControlNetModel", "ControlNetUnionModel"))
    ]
    kind, denoiser = getattr(diffusers, named[0]), parts.get("unet") or parts.get("transformer")
    makes = getattr(kind, "from_transformer", None)
    takes = inspect.signature(makes).parameters if makes else {}
    torch.manual_seed(1)
    if hasattr(kind, "from_unet") and "unet" in parts:
        options = {"conditioning_embedding_out_channels": (4, 8)} if kind is diffusers.ControlNetModel else {}
        net = kind.from_unet(denoiser, **options)
    elif "controlnet" in takes:
        net = makes(of_config(kind, denoiser.config), denoiser)  # they share modules
    elif makes is None:
        net = of_config(kind, {**denoiser.config, "num_layers": 1})
    else:
        config = denoiser.config
        small = {"num_layers": 1, "num_single_layers": 1, "load_weights_from_transformer": False}
        small |= {name: config[name] for name in ("attention_head_dim", "num_attention_heads") if name in config}
        net = makes(denoiser, **{name: value for name, value in small.items() if name in takes})
    for parameter in net.parameters():  # they start as zeros
        torch.nn.init.normal_(parameter, std=0.2)
    return net.eval()


def widened(pipe: Any, error: str) -> Any | None:
    """The pipeline with a denoiser of as many input channels as an error says that it got; None where it says none."""
    found = re.search(r"to have (\d+) channels, but got (\d+) channels instead", error)
    old = denoisers_of(pipe)[0]
    if found is None or int(found[1]) != old.config.get("in_channels"):
        return None
    config = {name: value for name, value in old.config.items() if not name.startswith("_")}
    out = {} if config.get("out_channels") else {"out_channels": int(found[1])}
    torch.manual_seed(0)
    model = type(old)(**{**config, **out, "in_channels": int(found[2])}).eval()
    name = next(name for name, part in vars(pipe).items() if part is old)
    pipe.register_modules(**{name: model})
    return pipe


def arguments(pipe: Any, case: Case, batch: int, pictures: Pictures) -> dict[str, Any]:
    """What the pipeline is called with: of the case's arguments those that it takes, and what else it needs."""
    parameters = inspect.signature(type(pipe).__call__).parameters
    found = {name: value for name, value in case.arguments(batch).items() if name in parameters}
    size = found.get("height", 32), found.get("width", 32)
    for name, parameter in parameters.items():
        needed = parameter.default is parameter.empty or (name in NEEDED and pictures != "none")
        if name not in NAMED or name in found or not needed:
            if name == "prompt" and parameter.default is parameter.empty:
                found.setdefault(name, None)  # there are embeddings
            continue
        value = NAMED[name](batch)
        if isinstance(value, Tensor):
            value = interpolate(value, size)
            if pictures == "images":
                value = [to_pil(one) for one in value] if batch > 1 else to_pil(value[0])
        found[name] = value
    return found


def to_pil(picture: Tensor) -> Image.Image:
    """A picture (C, H, W) in [0, 1]."""
    pixels = (255 * picture).byte().movedim(0, -1).numpy()
    return Image.fromarray(pixels.squeeze(-1)) if pixels.shape[-1] == 1 else Image.fromarray(pixels)


@dataclass
class Log:
    """What a run did.

    Attributes:
        calls: For every denoiser call how many steps the scheduler had made in its run, and the timestep.
        first: The timestep of the first step.
    """

    calls: list[tuple[int, Any]] = field(default_factory=list)
    first: float | None = None


@contextmanager
def watched(pipe: Any) -> Iterator[Log]:
    """Log what the denoiser is called for."""
    log, steps, kind = Log(), 0, type(pipe.scheduler)
    step, is_own = kind.step, "step" in vars(kind)

    @wraps(step)  # pipelines read from the signature whether it takes a generator
    def count(scheduler: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal steps
        if scheduler is not pipe.scheduler:  # a copy, for the sound beside a video for example
            return step(scheduler, *args, **kwargs)
        if not steps:
            given = inspect.signature(step).bind(scheduler, *args, **kwargs).arguments
            log.first = float(torch.as_tensor(given.get("timestep", torch.nan)).flatten()[0])
        made = step(scheduler, *args, **kwargs)
        steps += 1
        return made

    run = None  # some pipelines set several, one after another

    def note(model: Any, args: tuple, kwargs: dict) -> None:
        nonlocal steps, run
        if pipe.scheduler.timesteps is not run:
            run, steps = pipe.scheduler.timesteps, 0
        timestep = timestep_of(args, kwargs)
        log.calls.append((steps, tuple(timestep.flatten().tolist()) if isinstance(timestep, Tensor) else timestep))

    kind.step = count
    hooks = [model.register_forward_pre_hook(note, with_kwargs=True) for model in denoisers_of(pipe)]
    try:
        yield log
    finally:
        if is_own:
            kind.step = step
        else:
            del kind.step
        for hook in hooks:
            hook.remove()


def calls_of(log: Log, timesteps: list[float]) -> list[tuple[int, int]]:
    """Row and stream of every denoiser call; a run that has fewer steps than rows began late, or ended early."""
    steps, num_rows = [made for made, _ in log.calls], len(timesteps)
    if not 0 < steps[-1] < num_rows:  # it steps several times in a row, for parts of the image, or copies of it do
        changes = [before != now for (_, before), (_, now) in pairwise(log.calls)]
        steps = [0, *accumulate(changes)]
    late = num_rows - (steps[-1] + 1)
    first = timesteps.index(log.first) if log.first in timesteps else late
    calls, before = [], Counter()
    for made in steps:
        calls.append(((first + made) % num_rows, before[made]))  # some make one image after another
        before[made] += 1
    return calls


def tried(name: str, where: str, pipe: Any, given: dict[str, Any], batch: int = BATCH) -> Outcome:
    """Run both masks."""
    run = partial(sample, pipe, given, range(batch), STEPS)
    try:
        with at_most(SECONDS):
            with watched(pipe) as log:
                plain = run()
            if not torch.equal(run(), plain):
                return Outcome(name, where, "not tried", "two plain runs differ")
            if not plain.isfinite().all() or not log.calls:
                return Outcome(name, where, "not tried", "the plain run makes no finite image")
    except Exception as error:
        return Outcome(name, where, "not tried", _sentence(error))
    try:
        with at_most(3 * SECONDS):
            graph, timesteps = describe(pipe, call_kwargs=given), [float(t) for t in pipe.scheduler.timesteps]
            with stepmask.apply(pipe, schedules.fora(graph, timesteps, 1), call_kwargs=given):
                if not torch.equal(run(), plain):
                    return Outcome(name, where, "differs", "an all-ones mask changes the images", len(graph))
            mask = schedules.fora(graph, timesteps, 2)
            with stepmask.apply(pipe, mask, call_kwargs=given), warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                masked = run()
            without_effect = [str(one.message) for one in said if "has no effect" in str(one.message)]
            if without_effect:
                return Outcome(name, where, "warned", without_effect[0], len(graph))
            wanted = by_reference(pipe, mask, calls_of(log, timesteps), run)
            if not torch.equal(masked, wanted):
                return Outcome(name, where, "differs", "FORA is not what hooks make", len(graph))
            if torch.equal(masked, plain):
                return Outcome(name, where, "differs", "FORA changes nothing", len(graph))
            return Outcome(name, where, "bitwise", num_sites=len(graph))
    except StepMaskError as error:
        return Outcome(name, where, "refused", _sentence(error))
    except Exception as error:
        return Outcome(name, where, "breaks", f"{type(error).__name__}: {_sentence(error)}")


def _sentence(error: Exception) -> str:
    text = re.sub(r"\s+", " ", str(error)).strip() or type(error).__name__
    return text if len(text) < 300 else f"{text[:297]}..."


OWN = {case.name: case for case in [*UNETS, *TRANSFORMERS, *MODULAR, *VIDEOS, *PICTURED, *SOUNDS]}
"""Cases that are called by the class of their pipeline."""


def try_case(case: Case) -> Outcome:
    """What comes of a pipeline's own case."""
    first = None
    for batch in (BATCH, 1):
        try:
            pipe, given = case.build(), case.arguments(batch)
            outcome = tried(case.name, type(denoisers_of(pipe)[0]).__name__, pipe, given, batch)
        except Exception as error:
            outcome = Outcome(
                case.name, "", "refused" if isinstance(error, StepMaskError) else "not tried", _sentence(error)
            )
        if outcome.found != "not tried":
            return outcome
        first = first or outcome
    return first


def left_out(kind: type) -> str | None:
    """Why a class is not tried; None where it is."""
    name, module = kind.__name__, kind.__module__
    if name in UNTRIED:
        return UNTRIED[name]
    if issubclass(kind, diffusers.ModularPipeline) and name not in OWN:
        return OF_BLOCKS
    if ".dummy_" in module:
        named = module.rpartition(".dummy_")[2].removesuffix("_objects").split("_and_")
        return f"it needs {' and '.join(set(named) - {'torch', 'transformers'})}, which no test installs"
    return None


def try_pipeline(kind: type, bench: Bench) -> Outcome:
    """What comes of a pipeline class."""
    why = left_out(kind)
    if why is not None:
        return Outcome(kind.__name__, "", "left out", why)
    return excused(kind, _try_pipeline(kind, bench))


def excused(kind: type, outcome: Outcome) -> Outcome:
    """The outcome, left out where the class could not be tried and diffusers gives it up."""
    version = getattr(kind, "_last_supported_version", None)
    if outcome.found != "not tried" or not (version or ".deprecated." in kind.__module__):
        return outcome
    said = f"deprecated: {version} was the last version that diffusers supports it in" if version else DEPRECATED
    return Outcome(outcome.name, "", "left out", said)


def _try_pipeline(kind: type, bench: Bench) -> Outcome:
    name, denoiser = kind.__name__, denoiser_class(kind)
    if name in OWN:
        return try_case(OWN[name])
    if denoiser is None:
        return Outcome(name, "", "not tried", NO_DENOISER)
    candidates = bench.candidates(kind, denoiser)
    first = None
    for case, batch, pictures in product(candidates, (BATCH, 1), get_args(Pictures)):
        try:
            pipe = bench.build(kind, case)
            given = arguments(pipe, case, batch, pictures)
        except Exception as error:
            outcome = Outcome(name, denoiser, "not tried", _sentence(error))
        else:
            outcome = tried(name, denoiser, pipe, given, batch)
            wide = widened(pipe, outcome.why) if outcome.found == "not tried" else None
            if wide is not None:
                outcome = tried(name, denoiser, wide, given, batch)
        if outcome.found != "not tried":
            return outcome
        first = first or outcome
        if TOO_LONG in outcome.why:
            break
    return first or Outcome(name, denoiser, "not tried", f"no tiny {denoiser} is at hand")


SCHEDULED = ("Stable Diffusion", "DDPM", "Flux", "CogVideoX", "Sana", "Stable Diffusion XL", "LTX-Video")
"""Cases in which a scheduler is tried, until one runs."""


def schedulers() -> dict[str, type]:
    """Every scheduler class of diffusers, by name."""
    found = {name: getattr(diffusers, name) for name in sorted(dir(diffusers)) if name.endswith("Scheduler")}
    return {name: kind for name, kind in found.items() if inspect.isclass(kind) and not name.startswith("Flax")}


DRIVEN = {
    "CogVideoXDPMScheduler": "CogVideoX",
    "DDPMWuerstchenScheduler": "StableCascadePriorPipeline",
    "HeliosDMDScheduler": "Helios, distilled",
    "HeliosScheduler": "HeliosPipeline",
    "KarrasVeScheduler": "KarrasVePipeline",
    "PiflowScheduler": "Kandinsky6TI2VAPipeline",
    "RePaintScheduler": "RePaintPipeline",
    "SCMScheduler": "SanaSprintPipeline",
}
"""Schedulers that their own pipelines alone run, each with a case of such a one."""


def try_scheduler(kind: type, bench: Bench) -> Outcome:
    """What comes of a scheduler class, in the first case that runs with it."""
    name, by_name = kind.__name__, {case.name: case for case in CASES} | OWN
    if name in UNTRIED:
        return Outcome(name, "", "left out", UNTRIED[name])
    if name in DRIVEN:
        case = by_name[DRIVEN[name]]
        case = replace(case, make=partial(_scheduled, case, kind))
        return _followed(replace(try_case(case), name=name, denoiser=case.name), case, kind)
    outcome = Outcome(name, "", "not tried", "no pipeline runs with it")
    for where in SCHEDULED:
        case = by_name[where]
        try:
            pipe = _scheduled(case, kind)
        except Exception as error:
            outcome = Outcome(name, "", "not tried", _sentence(error))
            continue
        made = tried(name, where, pipe, case.arguments(BATCH))
        if made.found != "not tried":
            return _followed(made, case, kind)
        outcome = made if where == SCHEDULED[0] else outcome
    return outcome


def _followed(outcome: Outcome, case: Case, kind: type) -> Outcome:
    """The outcome, a fault where masks that are made before any run do not run."""
    misread = _misread(case, kind) if outcome.found == "bitwise" else ""
    return replace(outcome, found="breaks", why=misread) if misread else outcome


def _scheduled(case: Case, kind: type) -> Any:
    pipe = case.build()
    if type(pipe.scheduler) is not kind:
        pipe.scheduler = kind()
    return pipe


def _misread(case: Case, kind: type) -> str:
    """Why masks that are made before any run do not run, there or in a fresh pipeline; empty where they do.

    Some schedulers configure themselves anew when a run is set.
    """
    pipes, given = [_scheduled(case, kind) for _ in range(2)], case.arguments(BATCH)
    for pipe in pipes:
        describe(pipe, call_kwargs=given)  # some denoisers are known by a call alone
    task = Task(pipes[0], STEPS, call_kwargs={name: value for name, value in given.items() if name != "batch_size"})
    scheduler = task.scheduler
    for mask in (
        schedules.fora(pipes[0], STEPS, 2),
        replace(task.mask(np.ones(task.shape, bool)), scheduler=scheduler),
    ):
        for pipe in pipes:
            try:
                with stepmask.apply(pipe, mask, call_kwargs=given):
                    sample(pipe, given, range(BATCH), STEPS)
            except Exception as error:
                return f"a mask that was made before any run: {_sentence(error)}"
    return ""


HEAD = f"""\
# Every pipeline and every scheduler

This page is made by `python tests/pipelines/sweep.py -o docs/reference/sweep.md`, with diffusers
{diffusers.__version__}; do not edit it. Every class of diffusers was tried that can be built tiny. *Bitwise* means that
an all-ones mask makes what the plain pipeline makes, and that FORA of every second step makes what hooks make that swap
in each site's last value, bit for bit. Of a scheduler it also means that masks made before any run fit the run, in the
same pipeline and in a fresh one. *Refused* and *warned* mean that stepmask says so in the words that are quoted.
"""


def page(of_pipelines: list[Outcome], of_schedulers: list[Outcome]) -> str:
    """The outcomes in Markdown."""
    lines = [HEAD]
    for title, where, outcomes in (("Pipelines", "denoiser", of_pipelines), ("Schedulers", "tried in", of_schedulers)):
        count = Counter(outcome.found for outcome in outcomes)
        said = ", ".join(f"{number} {found}" for found, number in count.most_common())
        one = title.lower().removesuffix("s")
        lines += [f"\n## {title}\n", f"Of {len(outcomes)}: {said}.\n"]
        lines += [f"| {one} | {where} | sites | outcome |", "| --- | --- | --- | --- |"]
        for o in outcomes:
            if o.found not in ("not tried", "left out"):
                outcome = f"{o.found}: {_cell(o.why)}" if o.why else o.found
                lines.append(f"| {o.name} | {o.denoiser} | {o.num_sites or '–'} | {outcome} |")
        for how, said in (
            ("left out", "Left out"),
            ("not tried", "Not tried, since they could not be built or called so"),
        ):
            rest = [
                f"| {o.name} | {o.why if how == 'left out' else _cell(o.why)} |" for o in outcomes if o.found == how
            ]
            lines += [f"\n{said}:\n", f"| {one} | why |", "| --- | --- |", *rest] if rest else []
    return "\n".join(lines) + "\n"


def read(page: Path) -> dict[str, Outcome]:
    """The outcomes on a page, by class."""
    found = {}
    for line in page.read_text().splitlines():
        cells = line.strip("| ").split(" | ")
        if (len(cells) == 4 and cells[2].isdigit()) or cells[2:3] == ["–"]:
            how, _, why = cells[3].partition(": ")
            sites = int(cells[2]) if cells[2].isdigit() else 0
            found[cells[0]] = Outcome(cells[0], cells[1], how, why.strip("`"), sites)
        elif len(cells) == 2 and cells[1] not in ("why", "---"):
            how = "not tried" if cells[1].startswith("`") else "left out"
            found[cells[0]] = Outcome(cells[0], "", how, cells[1].strip("`"))
    return found


def _cell(text: str) -> str:
    """Text within a cell of a table, as it stands."""
    return "`" + text.replace("|", "/").replace("`", "'") + "`"


def main() -> None:
    """Try all, or those that are named; print, and write the page where that is asked for.

    Of classes that are not named the page keeps what it says.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="classes; by default all")
    parser.add_argument("-o", "--output", type=Path, help="the page")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))  # some classes are large by default
    warnings.simplefilter("ignore")
    diffusers.logging.set_verbosity_error()
    bench, found = Bench(), ([], [])
    known = read(asked.output) if asked.names and asked.output else {}
    for outcomes, classes, attempt in zip(
        found, (pipelines(), schedulers()), (try_pipeline, try_scheduler), strict=True
    ):
        for name, kind in classes.items():
            if not asked.names or name in asked.names:
                outcomes.append(attempt(kind, bench))
                print(f"{outcomes[-1].found:10} {name} {outcomes[-1].why}", flush=True)
            elif name in known:
                outcomes.append(known[name])
    if asked.output:
        asked.output.write_text(page(*found))


if __name__ == "__main__":
    main()
