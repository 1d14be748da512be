"""Which methods belong together, and how each is drawn: a colour for a family, a marker for a method."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple


class Family(NamedTuple):
    """Methods of one kind."""

    name: str
    pattern: str
    """Of the names of its methods."""
    colour: str
    """Okabe-Ito, then Tol's muted ones, which all kinds of colour vision tell apart."""
    static: bool = False
    """Whether these are rivals whose decisions are known before the run, as those of a learned mask are."""


FULL = "full run"
OURS = "end-to-end"

FAMILIES = (
    Family(FULL, r"full run", "#000000"),
    Family(OURS, r"end-to-end(, .*)?", "#0072B2"),
    Family(
        "learned otherwise", r"paper's learner|HarmoniCa.*|L2C.*|Learning-to-Cache.*|ECAD.*|DiP-GO.*", "#56B4E9", True
    ),
    Family("fewer steps", r"fewer steps.*", "#7A7A7A"),
    Family("regular, forecasts", r".*\+ forecast|key steps.*", "#009E73", True),
    Family("regular, holds", r"FORA|DeepCache(, quad)?|Faster Diffusion|step skipping|PostDiff.*", "#D55E00", True),
    Family("calibrated", r"(SmoothCache|Block Caching|DiTFastAttn).*", "#CC79A7", True),
    Family("of 2026", r"(BudCache|MeanCache|L2P|DPCache|Spectrum|TaylorSeer|HiCache|hicache-pp).*", "#117733", True),
    Family("of 2026, adaptive", r"EasyCache|SeaCache|SADA", "#AA4499"),
    Family("random", r"random", "#B8B8B8", True),
    Family("as they ship", r".* package", "#E69F00"),
    Family("as they ship", r"cache-dit .*", "#999933"),
    Family("as they ship", r"diffusers .*", "#882255"),
    Family("other", r"(?s:.*)", "#8C6D31"),
)
"""In the order of legends; a method belongs to the first that its name fits."""

MARKERS = "os^Dv<>pXP*h"


class Style(NamedTuple):
    """How a method is drawn."""

    colour: str
    marker: str
    line: str
    width: float
    filled: bool


def family_of(method: str) -> Family:
    """The family of a method."""
    return next(family for family in FAMILIES if re.fullmatch(family.pattern, method))


def in_order(methods: Iterable[str]) -> list[str]:
    """Methods family by family, those of one as they came."""
    return sorted(dict.fromkeys(methods), key=lambda method: FAMILIES.index(family_of(method)))


def styles_of(methods: Iterable[str]) -> dict[str, Style]:
    """A style for each method, our learned masks in front."""
    found: dict[str, Style] = {}
    counts: dict[str, int] = {}
    for method in in_order(methods):
        family = family_of(method)
        place = counts.get(family.name, 0)
        counts[family.name] = place + 1
        ours = method == OURS
        line = "-" if place == 0 else ("--", ":", "-.")[(place - 1) % 3]
        found[method] = Style(
            family.colour, MARKERS[place % len(MARKERS)], line, 2.4 if ours else 1.2, ours or family.name != OURS
        )
    return found
