"""What is refused, in which words: one line for a call that must raise."""

from collections.abc import Callable

import pytest

from stepmask import StepMaskError


def check_refused(says: str, call: Callable, *arguments, error: type[Exception] = StepMaskError, **options) -> None:
    """Assert that a call raises an error whose words match."""
    with pytest.raises(error, match=says):
        call(*arguments, **options)
