"""StepMask: the action of every site at every step, with the identity of what it was made for.

Pure values and files: no torch, no model, no graph. What a mask costs and which of its cells are dead is said by
`stepmask.liveness`; who runs it is `stepmask.runtime`.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from stepmask.errors import MaskFileError, MaskMismatchError, StepMaskError
from stepmask.files import said_of, write_json
from stepmask.hub import Shared
from stepmask.mask_file import (
    CHANNELS_VERSION,
    FORECAST_VERSION,
    FORMAT_VERSION,
    GAINS_VERSION,
    NESTED_VERSION,
    VERSIONS,
    listed_gains,
    listed_weights,
    parsed,
    readable_json,
)
from stepmask.mask_tables import (
    Channels,
    Weights,
    boolean_table,
    channel_table,
    check_products,
    forecast_table,
    gain_table,
    score_table,
    weight_table,
)
from stepmask.nesting import parents_of
from stepmask.resample import places_among, rows_taken

DENOISER_CALLS, SECONDS = "denoiser_calls", "seconds"
EFFORT = (DENOISER_CALLS, SECONDS)
"""Where provenance says what making the mask took; masks that differ in nothing else are equal."""
MAX_ROWS = 4_000
"""No run has more rows: schedulers were trained on 1,000 steps, and some call twice or more for each."""
SHOWN = 5
"""An error names at most so many sites."""
TIMESTEPS, NOMINAL = "timesteps", "nominal"
"""What provenance says of the timesteps of a schedule whose pipeline will set others."""


def scheduler_identity(scheduler: Any) -> dict[str, Any]:
    """Class name and public configuration of a diffusers scheduler, as JSON values."""
    config = {k: _json_value(v) for k, v in dict(scheduler.config).items() if not k.startswith("_")}
    return {"class": type(scheduler).__name__, "config": config}


def check_scheduler(wanted: Mapping[str, Any], scheduler: Any, what: str, or_else: str = "") -> None:
    """Raise unless a scheduler is the one that something was made for.

    Args:
        wanted: Its class and configuration, as `scheduler_identity` gives them.
        scheduler: The scheduler that there is.
        what: What was made for it.
        or_else: What else can be done where the class differs.

    Raises:
        MaskMismatchError: It is of another class, or configured in another way.
    """
    found = scheduler_identity(scheduler)
    if found["class"] != wanted["class"]:
        raise MaskMismatchError(
            f"the {what} was made for {wanted['class']}, the run uses {found['class']}: set that scheduler on the "
            f"pipeline (pipe.scheduler = stepmask.scheduler_of({what})), or learn a {what} for this one{or_else}"
        )
    config = wanted["config"]
    differ = [k for k in config if k in found["config"] and found["config"][k] != config[k]]
    if differ:
        list_ = ", ".join(f"{k} = {config[k]!r} (here {found['config'][k]!r})" for k in differ)
        raise MaskMismatchError(
            f"the {what} was made for a {found['class']} with {list_}: configure the scheduler so, or learn anew"
        )


def _json_value(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return _json_value(value.tolist())
    if isinstance(value, Mapping):
        return {str(k): _json_value(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON knows no infinity; DPM-Solver++ has one in its configuration
    return value if isinstance(value, str | int | float | bool | None) else str(value)


class Action(IntEnum):
    """What a mask asks of a site at a step."""

    hold = 0
    """Hand out the value computed last; ``0`` in a file."""
    compute = 1
    """Run the site; ``1`` in a file."""
    linear = 2
    """Extrapolate the values computed last over the step index: two, or as many as the mask has weights for. With only
    one yet, hold. ``l`` in a file."""


SYMBOLS = {Action.hold: "0", Action.compute: "1", Action.linear: "l"}


@dataclass(frozen=True, kw_only=True, eq=False)
class StepMask(Shared):
    """A (T, B) table: at each step each site computes, holds its cached value, or forecasts it.

    Attributes:
        compute: (T, B) bool, read-only. Row 0 is the first, noisiest step and computes everywhere.
        forecast: (T, B) bool, read-only: where a site that does not compute extrapolates instead of holding. Given as
            None, nowhere: a binary mask.
        sites: B names of submodules, in execution order.
        timesteps: T values of the scheduler's run. T is ``len(scheduler.timesteps)``, not always
            ``num_inference_steps`` (Heun makes 2T - 1 rows).
        scheduler: Class and configuration as `scheduler_identity` gives them; None fits any scheduler.
        graph: Fingerprint of the block graph; None fits any model that has the sites.
        scores: Learned scores (T, B) in [0, 1], or None.
        gains: (T, B) float64 of four decimals, read-only: factors of the slopes along which cells extrapolate; 1 where
            a cell does not. None where all are 1.
        channel_gains: By name of a site that forecasts, (C,) float64 of three decimals, read-only: more such factors,
            one for each channel of its value. None where all are 1.
        weights: By name of a site that forecasts, (T, K, C) float64 of four decimals, read-only: its forecast at each
            row is a sum of K terms, 2 to 4, with a factor for each channel of its value, or one for all: the newest
            value, the slope through the newest two times the steps gone since, and the next divided differences in
            Newton's form. Such a site has no gains. Where fewer values are known yet, the first terms alone.
        provenance: Whatever says how the mask came to be, as JSON values.
    """

    kind: ClassVar[str] = "mask"
    hub_file: ClassVar[str] = "mask.json"

    compute: np.ndarray
    sites: Sequence[str]
    timesteps: Sequence[float]
    forecast: np.ndarray | None = None
    scheduler: Mapping[str, Any] | None = None
    graph: str | None = None
    scores: np.ndarray | None = None
    gains: np.ndarray | None = None
    channel_gains: Channels | None = None
    weights: Weights | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "compute", boolean_table(self.compute))
        set_(self, "sites", tuple(getattr(site, "name", site) for site in self.sites))
        set_(self, "timesteps", tuple(_number(value) for value in self.timesteps))
        set_(self, "provenance", dict(self.provenance))
        rows, columns = self.compute.shape
        if len(self.sites) != columns or not all(isinstance(site, str) for site in self.sites):
            raise StepMaskError(f"a mask with {columns} columns needs {columns} site names, got {len(self.sites)}")
        if len(set(self.sites)) != columns:
            twice = sorted(site for site, count in Counter(self.sites).items() if count > 1)
            raise StepMaskError(f"site names must differ; given twice: {', '.join(twice[:SHOWN])}")
        if len(self.timesteps) != rows:
            raise StepMaskError(f"a mask with {rows} rows needs {rows} timesteps, got {len(self.timesteps)}")
        if not self.compute[0].all():
            raise StepMaskError("row 0 must compute every site: there is nothing to reuse at the first step")
        set_(self, "forecast", forecast_table(self.forecast, self.compute))
        if self.scores is not None:
            set_(self, "scores", score_table(self.scores, self.compute.shape))
        if self.gains is not None:
            set_(self, "gains", gain_table(self.gains, self.forecast))
        if self.channel_gains is not None:
            set_(self, "channel_gains", channel_table(self.channel_gains, self.sites, self.forecast))
        if self.gains is not None and self.channel_gains is not None:
            check_products(self.gains, self.channel_gains, self.sites)
        if self.weights is not None:
            set_(self, "weights", weight_table(self.weights, self.sites, self.forecast))
            self._leave_gains_to_others()

    def _leave_gains_to_others(self) -> None:
        """Sites with weights have no gains beside them."""
        weighted = [i for i, site in enumerate(self.sites) if site in (self.weights or {})]
        if self.gains is not None and weighted:
            gains = self.gains.copy()
            gains[:, weighted] = 1.0
            object.__setattr__(self, "gains", gain_table(gains, self.forecast))
        if self.channel_gains is not None and weighted:
            others = {site: vector for site, vector in self.channel_gains.items() if site not in self.weights}
            object.__setattr__(self, "channel_gains", others or None)

    def __eq__(self, other: object) -> bool:
        """Equal in every field, scores to the last bit; what it took to make them is left out."""
        if not isinstance(other, StepMask):
            return NotImplemented
        mine, theirs = ({**mask.to_dict(), "provenance": _without_effort(mask.provenance)} for mask in (self, other))
        return mine == theirs

    __hash__ = None

    def __repr__(self) -> str:
        """Size and share of computing cells, not the table."""
        rows, columns = self.compute.shape
        forecast = "" if self.is_binary else f", {self.forecast.mean():.1%} forecast"
        resting = int((~self.compute).all(axis=1).sum())
        rest = f", {resting} steps rest as a whole" if resting else ""
        return f"StepMask({rows} steps x {columns} sites{rest}, {self.compute.mean():.1%} of cells compute{forecast})"

    @property
    def num_rows(self) -> int:
        """T, the number of rows."""
        return len(self.compute)

    @property
    def num_inference_steps(self) -> int:
        """The number of steps to call the pipeline with, as provenance has it; else that of the rows."""
        return self.provenance.get("num_inference_steps") or self.num_rows

    @property
    def made_for(self) -> str:
        """What the mask fits, in words: model, sites, steps and scheduler, as far as it says."""
        model = " of ".join(str(self.provenance[key]) for key in ("model", "base_model") if self.provenance.get(key))
        scheduler = f" of {self.scheduler['class']}" if self.scheduler else ""
        return (
            f"{model[:200] or 'a model'} with {len(self.sites)} sites, in {self.num_inference_steps!s:.20} "
            f"steps{scheduler}"
        )

    @property
    def is_binary(self) -> bool:
        """Whether no cell forecasts."""
        return not self.forecast.any()

    @property
    def actions(self) -> np.ndarray:
        """(T, B) uint8 of `Action`."""
        return np.where(self.forecast, Action.linear, self.compute).astype(np.uint8)

    def with_actions(self, actions: np.ndarray, **changes: Any) -> StepMask:
        """This mask with another (T, B) table of `Action`, and without the scores and gains of the old one."""
        actions = np.asarray(actions)
        compute, forecast = actions == Action.compute, actions == Action.linear
        blank = {"scores": None, "gains": None, "channel_gains": None, "weights": None}
        return replace(self, compute=compute, forecast=forecast, **blank | changes)

    def forecasting(self, rows: Sequence[int] | None = None) -> dict[str, Any]:
        """How the forecasts of this mask extrapolate, on these of its rows, for `with_actions` to pass on."""
        rows = slice(None) if rows is None else list(rows)
        return {
            "gains": None if self.gains is None else self.gains[rows],
            "channel_gains": self.channel_gains,
            "weights": None if self.weights is None else {site: w[rows] for site, w in self.weights.items()},
        }

    def to_dict(self) -> dict[str, Any]:
        """What a mask file says, as JSON values."""
        gains = {}
        if self.gains is not None or self.channel_gains is not None:
            cells = np.ones(self.forecast.shape) if self.gains is None else self.gains
            gains["gains"] = listed_gains(cells, self.forecast)
        if self.channel_gains is not None:
            gains["channel_gains"] = {site: vector.tolist() for site, vector in self.channel_gains.items()}
        version = FORMAT_VERSION if self.is_binary else (FORECAST_VERSION, GAINS_VERSION, CHANNELS_VERSION)[len(gains)]
        if self.weights is not None or any(parent is not None for parent in parents_of(self.sites)):
            version = NESTED_VERSION
            gains = {name: gains.get(name) for name in ("gains", "channel_gains")}
            gains["weights"] = self.weights and listed_weights(self.weights, self.sites, self.forecast)
        return {
            "format": "stepmask",
            "format_version": version,
            "scheduler": self.scheduler,
            "graph": self.graph,
            "provenance": self.provenance,
            "sites": list(self.sites),
            "timesteps": list(self.timesteps),
            "rows": ["".join(SYMBOLS[Action(cell)] for cell in row) for row in self.actions.tolist()],
            **gains,
            "scores": None if self.scores is None else [[float(s) for s in row] for row in self.scores],
        }

    @classmethod
    def from_dict(cls, content: Any) -> StepMask:
        """The mask that a file's content describes.

        Raises:
            MaskFileError: It is none, of another format version, or says impossible things.
        """
        if isinstance(content, dict) and content.get("format") == "stepmask-family":
            raise MaskFileError("a family of masks, not a mask file: MaskFamily.load reads it, and .at(0.5) picks one")
        if isinstance(content, dict) and content.get("format") == "stepmask-recipe":
            raise MaskFileError("a recipe, not a mask file: Recipe.load reads it, and .mask is its mask")
        if isinstance(content, dict) and content.get("format") == "stepmask-frontier":
            raise MaskFileError("a frontier, not a mask file: Frontier.load reads it, and .at(10) picks a recipe")
        if not isinstance(content, dict) or content.get("format") != "stepmask":
            raise MaskFileError('not a mask file: expected a JSON object with "format": "stepmask"')
        version = content.get("format_version")
        if version not in VERSIONS or isinstance(version, bool):
            raise MaskFileError(
                f"it has format version {version!r}, this stepmask reads versions {', '.join(map(str, VERSIONS))}: "
                "update stepmask, or save the mask anew"
            )
        with said_of("it"):
            return cls(**parsed(content))

    def save(self, path: str | Path) -> None:
        """Write the mask as JSON, whole or not at all.

        Raises:
            StepMaskError: The file cannot be written, or provenance holds what JSON cannot.
        """
        write_json(path, self.to_dict(), readable_json)

    def check(self, *, graph: Any | None = None, scheduler: Any | None = None) -> None:
        """Raise if the mask does not belong to this model or scheduler run; None is not checked.

        Args:
            graph: A `BlockGraph`.
            scheduler: A diffusers scheduler after ``set_timesteps``.

        Raises:
            MaskMismatchError: Another model, scheduler class, scheduler configuration or number of rows.

        Warns:
            UserWarning: The timestep values differ, as with resolution-dependent shifts; not where a schedule was made
                before they were known.
        """
        if graph is not None:
            self._check_graph(graph)
        if scheduler is not None:
            self._check_scheduler(scheduler)

    def _check_graph(self, graph: Any) -> None:
        if self.num_rows > MAX_ROWS:
            raise MaskMismatchError(
                f"the mask has {self.num_rows:,} rows, and no scheduler makes a run of more than {MAX_ROWS:,}"
            )
        known = {site.name for site in graph.sites}
        missing = [site for site in self.sites if site not in known]
        if missing:
            raise MaskMismatchError(
                f"the mask names {len(missing)} of {len(self.sites)} sites that the model lacks, {missing[0]!r} first: "
                f"it belongs to another model ({self.made_for}); this one has {len(known)} sites: learn a mask for it"
            )
        if self.graph is not None and self.graph != graph.fingerprint:
            raise MaskMismatchError(
                f"the mask was made for a model of another structure ({self.made_for}; fingerprint {self.graph}, this "
                f"model has {graph.fingerprint}): learn a mask for this one"
            )

    def _check_scheduler(self, scheduler: Any) -> None:
        if self.scheduler is not None:
            more = "; mask.resample(scheduler), after set_timesteps, takes this one over at some loss"
            check_scheduler(self.scheduler, scheduler, "mask", more)
        rows = len(scheduler.timesteps)
        if rows != self.num_rows:
            steps = self.provenance.get("num_inference_steps")
            wanted = f"num_inference_steps={steps}" if steps else f"a number of steps that makes {self.num_rows} rows"
            raise MaskMismatchError(
                f"the mask has {self.num_rows} rows, the scheduler's run has {rows}: call with {wanted}, or use "
                f"mask.resample(scheduler); it was made for {self.made_for}"
            )
        here = np.asarray([float(t) for t in scheduler.timesteps])
        there = np.asarray(self.timesteps, dtype=float)
        if self.provenance.get(TIMESTEPS) != NOMINAL and not np.allclose(here, there, rtol=1e-3, atol=1e-3):
            worst = int(np.abs(here - there).argmax())
            warnings.warn(
                f"the run's timesteps differ from the mask's (row {worst}: {here[worst]:g}, mask {there[worst]:g}), as "
                "they do at another size where the scheduler shifts them by it; the mask is applied row by row, and "
                "mask.resample(scheduler) takes rows by their timesteps",
                stacklevel=2,
            )

    def resample(self, rows: int | Iterable[float] | Any) -> StepMask:
        """The mask for another run, each new row taken from one of the old rows around its timestep.

        Of the rows around, the one is taken that keeps every site's share of computes on the way so far: so a mask that
        computes at every second step still does with half or twice as many. The same timesteps give the same mask.
        What a new run costs in quality against learning anew is measured in docs/results/transfer.md.

        Args:
            rows: A scheduler after ``set_timesteps``, which may be of another class; or the new timesteps alone; or
                just their number, which spreads them evenly over the old rows.

        Returns:
            A mask without scores, whose row 0 computes everywhere. It belongs to the given scheduler, else to its own.
        """
        scheduler = self.scheduler
        if hasattr(rows, "timesteps"):
            rows, scheduler = rows.timesteps, scheduler_identity(rows)
        new, places = places_among(self.timesteps, rows)
        taken = rows_taken(self.compute, places)
        actions = self.actions[taken]
        actions[0] = Action.compute
        return self.with_actions(
            actions,
            **self.forecasting(taken),
            timesteps=new.tolist(),
            scheduler=scheduler,
            provenance={
                **{k: v for k, v in self.provenance.items() if k not in ("num_inference_steps", TIMESTEPS, *MEASURED)},
                "resampled_from_rows": self.num_rows,
            },
        )


MEASURED = ("psnr", "cost", "macs", "cache_bytes_per_image")
"""Entries of provenance that hold for the very mask that was measured, and for no other made from it."""


def _without_effort(provenance: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in provenance.items() if name not in EFFORT}


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise StepMaskError(f"timesteps must be finite numbers, got {value!r}")
    return int(number) if number.is_integer() else number
