"""Fixtures of the command line, and the browser for tests of pages."""

from browser import chromium  # noqa: F401
from command_line import ddpm_folder, dit_folder, family_file, folder, mask_file, run, saved  # noqa: F401
