"""Settings that hold for every test."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "stepmask", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("stepmask")


@pytest.fixture(autouse=True, scope="session")
def _quiet_diffusers():
    from diffusers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
