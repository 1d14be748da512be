"""Fixtures of the command line, shared with the laboratory's tests."""

from command_line import ddpm_folder, dit_folder, family_file, folder, mask_file, quick, run, saved  # noqa: F401
