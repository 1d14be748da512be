"""Settings that hold for every test."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "stepmask", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("stepmask")


@pytest.fixture(autouse=True, scope="session")
def _quiet_and_single_threaded():
    import gc

    import torch
    from diffusers.utils import logging

    torch.set_num_threads(1)  # tiny models: threads only wait for each other
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    gc.collect()
    gc.freeze()  # what was imported stays anyway


def pytest_configure(config):
    """Leave warnings of other packages out that nothing here can change."""
    # diffusers hands torch tensors to numpy in a way that numpy 2 announces to drop
    config.addinivalue_line("filterwarnings", "ignore:__array__ implementation:DeprecationWarning")
    config.addinivalue_line("filterwarnings", "ignore:.torch.jit:DeprecationWarning")
