"""Fixtures of the command line."""

from command_line import run  # noqa: F401
