"""A headless Chromium for tests of pages: a page that is opened, and what went wrong on it.

Tests that ask for it are skipped where there is no browser, with the reason.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
LAPTOP, PHONE = {"width": 1280, "height": 860}, {"width": 390, "height": 844}
SLOW = 120_000
"""Milliseconds to wait at most: the machine may be busy."""


@pytest.fixture(scope="session")
def chromium():
    """A browser that runs."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    with playwright.sync_playwright() as running:
        if executable is None and not Path(running.chromium.executable_path).exists():
            pytest.skip(f"there is no browser: none of {', '.join(NAMES)}; Debian has a package chromium")
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = running.chromium.launch(executable_path=executable, args=arguments, timeout=SLOW)
        yield browser
        browser.close()


@contextmanager
def opened(browser, path: Path, size=LAPTOP, dark: bool = False) -> Iterator:
    """A page from a file, on a screen of a size; fails at the end if it logged an error or asked the network."""
    is_phone = size == PHONE
    context = browser.new_context(
        viewport=size, color_scheme="dark" if dark else "light", is_mobile=is_phone, has_touch=is_phone
    )
    page, wrong = context.new_page(), []
    page.set_default_timeout(SLOW)
    page.on("console", lambda line: wrong.append(line.text) if line.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.append(request.url) if request.url.startswith("http") else None)
    page.goto(path.as_uri())
    page.wait_for_selector("h1")
    yield page
    context.close()
    assert not wrong
