"""An installed Chromium: it prints, draws, and shows the pages to the tests.

$CHROMIUM names one in an unusual place.
"""

import os
import shutil
import sys
from contextlib import contextmanager

from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find() -> str | None:
    """The path of the program, or None."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


def required() -> str:
    """The path of the program. Ends the build with a sentence where there is none."""
    return find() or sys.exit(
        "Chromium or Chrome prints the pages and draws the cover, and neither is on the PATH. "
        "Install one, or name it: CHROMIUM=path/to/chrome"
    )


@contextmanager
def launch():
    """A browser without a window, closed at the end."""
    program = required()
    sandbox = [] if hasattr(os, "geteuid") and os.geteuid() else ["--no-sandbox"]
    arguments = [*sandbox, "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=arguments)
        try:
            yield browser
        finally:
            browser.close()
