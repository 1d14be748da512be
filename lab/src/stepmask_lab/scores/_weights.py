"""What the extra ``metrics`` brings, or a sentence that says how to get it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

from stepmask.errors import StepMaskError

EXTRA = "pip install 'stepmask-lab[metrics]'"


def need(metric: str, *packages: str) -> None:
    """Check that packages are installed.

    Raises:
        StepMaskError: One is not.
    """
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise StepMaskError(f"{metric} needs {' and '.join(missing)} and the weights of its network: {EXTRA}")


def loaded(metric: str, load: Callable[[], Any]) -> Any:
    """A network with its weights, which are downloaded on first use.

    Raises:
        StepMaskError: They cannot be read or downloaded.
    """
    try:
        return load()
    except (OSError, RuntimeError, ValueError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise StepMaskError(f"{metric}: the weights of its network cannot be read or downloaded: {reason}") from error
