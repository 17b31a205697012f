"""The browser that tests and benchmarks drive; the environment's `BROWSER` names another than Chromium."""

import os
import shutil


def launched(playwright):
    """Debian's Chromium, or Playwright's own; `BROWSER=firefox` is this machine's Firefox, `BROWSER=webkit` Playwright's WebKit.

    Playwright drives a Firefox as it comes since about version 145, and no other build of WebKit than its own.
    """
    name = os.environ.get("BROWSER", "chromium")
    if name == "firefox":
        path = shutil.which("firefox")
        return playwright.firefox.launch(channel="moz-firefox", executable_path=path)
    if name == "webkit":
        return playwright.webkit.launch()
    args = ["--no-sandbox", "--disable-gpu"]
    return playwright.chromium.launch(executable_path=shutil.which("chromium"), args=args)


def write(page, label: str, text: str):
    """Put words into a field by the keyboard, and leave it."""
    field = page.get_by_label(label, exact=True)
    field.press("ControlOrMeta+a")
    field.press("Delete")
    field.press_sequentially(text)
    field.press("Tab")
