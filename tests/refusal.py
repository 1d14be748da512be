"""What is refused, in which words: one line for a call that must raise."""

from collections.abc import Callable

import pytest
from torch import Tensor

from stepmask import StepMaskError, UnsupportedModelError


def check_refused(says: str, call: Callable, *arguments, error: type[Exception] = StepMaskError, **options) -> None:
    """Assert that a call raises an error whose words match."""
    with pytest.raises(error, match=says):
        call(*arguments, **options)


def ends_in_nan(run: Callable[[], Tensor]) -> bool:
    """Whether what a run makes has NaN, or is refused since it has."""
    try:
        return bool(run().isnan().any())
    except UnsupportedModelError as error:
        return "no finite numbers" in str(error)
