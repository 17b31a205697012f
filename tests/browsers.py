"""The browser that tests and benchmarks drive; `P2P_BROWSER` in the environment names another than Chromium."""

import os
import shutil


def launched(playwright, gpu: bool = False):
    """Debian's Chromium, or Playwright's own; "firefox" is this machine's Firefox, "webkit" Playwright's WebKit.

    Playwright drives a Firefox as it comes since about version 145, and no other build of WebKit than its own.
    """
    name = os.environ.get("P2P_BROWSER", "chromium")
    if name not in ("chromium", "firefox", "webkit"):
        raise ValueError(f"P2P_BROWSER={name}: it is chromium, firefox or webkit.")
    if name == "firefox":
        path = shutil.which("firefox")
        return playwright.firefox.launch(channel="moz-firefox", executable_path=path)
    if name == "webkit":
        return playwright.webkit.launch()
    args = ["--no-sandbox", *([] if gpu else ["--disable-gpu"])]
    return playwright.chromium.launch(executable_path=shutil.which("chromium"), args=args)


def write(page, label: str, text: str):
    """Put words into a field by the keyboard, and leave it."""
    field = page.get_by_label(label, exact=True)
    field.press("ControlOrMeta+a")
    field.press("Delete")
    field.press_sequentially(text)
    field.press("Tab")
