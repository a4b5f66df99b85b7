"""A Chromium that is installed on this machine, and the pages that were built last."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


def newest_html() -> Path | None:
    """The folder of the built pages: $BOOK_HTML, or the newest under _build/; None if not built."""
    if "BOOK_HTML" in os.environ:
        return ROOT / os.environ["BOOK_HTML"]
    built = ROOT.glob("_build/**/html/index.html")
    newest = max(built, key=lambda path: path.stat().st_mtime, default=None)
    return newest and newest.parent


HTML = newest_html()


@contextmanager
def open_browser() -> Iterator:
    """Chromium, driven by playwright; closed at the end.

    Raises FileNotFoundError where there is none.
    """
    from playwright.sync_api import sync_playwright

    if CHROMIUM is None:
        raise FileNotFoundError("no Chromium on this machine: install one, or name it in $CHROMIUM")
    sandbox = [] if hasattr(os, "geteuid") and os.geteuid() else ["--no-sandbox"]
    arguments = [*sandbox, "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as driver:
        yield driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
