"""Bytes, seconds and names that are nearly right in words."""

import pytest

from stepmask.words import did_you_mean, duration, size


@pytest.mark.parametrize(("count", "words"), [(0, "0 B"), (1536, "1.5 KiB"), (31 * 2**30, "31 GiB")])
def test_bytes(count, words):
    assert size(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.25, "0.25 seconds"), (89, "89 seconds"), (90, "1.5 minutes"), (2400, "40 minutes"), (7200, "2 hours")],
)
def test_seconds(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(("name", "words"), [("target_mac", "; did you mean target_macs?"), ("abacus", "")])
def test_names_that_are_nearly_right(name, words):
    assert did_you_mean(name, ["min_psnr", "target_macs"]) == words
