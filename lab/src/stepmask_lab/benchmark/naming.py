"""Methods by the names that the command line takes."""

from __future__ import annotations

import re

from stepmask.errors import StepMaskError
from stepmask_lab.benchmark.methods import AnyMethod, methods
from stepmask_lab.benchmark.rivals_of_2026 import rivals_of_2026
from stepmask_lab.benchmark.studies import study_methods
from stepmask_lab.shipped import shipped_methods

SHIPPED, STUDIES, OF_2026 = "shipped", "studies", "of-2026"
"""What the command line calls all rivals as they ship, all variants of learned masks, and the rivals of 2026."""


def methods_by_name(names: str | None = None) -> list[AnyMethod]:
    """Methods by the names that the command line takes, ``fora,learned`` for example.

    Args:
        names: Separated by commas; ``shipped`` are all rivals as they ship, ``studies`` all variants of learned masks,
            ``of-2026`` the rivals of 2026. None for all others.

    Raises:
        StepMaskError: There is no method of a name.
    """
    if names is None:
        return methods()
    groups = {SHIPPED: shipped_methods(), STUDIES: study_methods(), OF_2026: rivals_of_2026()}
    known = {short_name(method): method for group in (methods(), *groups.values()) for method in group}
    wanted = {name.strip().lower() for name in names.split(",")}
    for name in sorted(wanted - set(groups)):
        if name not in known:
            raise StepMaskError(f"no method {name!r}; there are {', '.join([*known, *groups])}")
    wanted |= {short_name(method) for name in wanted & set(groups) for method in groups[name]}
    return [method for name, method in known.items() if name in wanted]


def short_name(method: AnyMethod) -> str:
    """The name of a method as the command line takes it."""
    return re.sub(r"[^a-z0-9]+", "-", method.name.lower().replace("'", "")).strip("-")
