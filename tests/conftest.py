"""Fixtures for tests of any folder."""

from hub_server import hub  # noqa: F401
