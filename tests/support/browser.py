"""A headless Chromium for tests, where Playwright and Debian's chromium are installed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

TIMEOUT_MS = 20_000  # of a busy machine; a quiet one needs a tenth


@contextmanager
def open_browser() -> Iterator[Any]:
    """The browser; the test is skipped with a reason where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    with api.sync_playwright() as playwright:
        # Without a sandbox of its own: containers run tests as root.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A page in a window of its own, and what it complained about."""

    def __init__(self, browser: Any, address: str | Path, **options: Any) -> None:
        context = browser.new_context(viewport={"width": 1300, "height": 900}, **options)
        context.set_default_timeout(TIMEOUT_MS)
        self.page = context.new_page()
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on(
            "console", lambda message: message.type == "error" and self.errors.append(message.text)
        )
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address.as_uri() if isinstance(address, Path) else address)
        self.page.wait_for_selector("body[data-ready]")

    def show(self, section: str) -> None:
        self.page.evaluate("name => { location.hash = name }", section)
        self.page.wait_for_selector(f"#section-{section}:not([hidden])")

    def text(self, selector: str) -> str:
        return self.page.inner_text(selector)

    def close(self) -> None:
        self.page.context.close()
