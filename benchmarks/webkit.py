"""The editor in WebKitGTK, the Linux relative of Safari: `xvfb-run python -m benchmarks.webkit`. Prints what docs/playground.md quotes.

Playwright cannot drive it as Debian builds it, so this goes through its own driver (packages webkit2gtk-driver and xvfb; `pip install
selenium`). Seconds of two visits, and the largest difference from `p2p.edit` over random edits and an inverted photo.
"""

import argparse
import base64
import io
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait
from selenium.webdriver.webkitgtk.options import Options
from selenium.webdriver.webkitgtk.service import Service

import p2p_helpers as p2p
from p2p_helpers.provenance import machine
from p2p_helpers.toyland import photos
from tests.playground import NAMES, build, page_folder, served
from tests.test_playground_edits import FIRST, PATIENCE, link, python_pictures

from .playground import STEPS, random_edits

SAID = """const text = id => document.getElementById(id).textContent;
return [text("status"), document.querySelector("[role=alert]").textContent];"""


def browser() -> webdriver.WebKitGTK:
    """A window of WebKitGTK's MiniBrowser."""
    options = Options()
    (options.binary_location,) = map(str, Path("/usr/lib").glob("*/webkit2gtk-4.1/MiniBrowser"))
    options.add_argument("--automation")
    return webdriver.WebKitGTK(options=options, service=Service("/usr/bin/WebKitWebDriver"))


def done(window) -> str:
    """What the page says once its pictures are there. Raises RuntimeError with what it says instead."""

    def said(window):
        status, wrong = window.execute_script(SAID)
        if wrong:
            raise RuntimeError(wrong)
        return status if status.startswith("Done") else None

    return WebDriverWait(window, PATIENCE / 1000, 0.1).until(said)


def set_to(window, settings: dict) -> str:
    """The page with other settings, once their pictures are there."""
    window.execute_script(
        "document.getElementById('status').textContent = ''; location.hash = arguments[0]",
        link(settings),
    )
    return done(window)


def furthest(window, pictures: list[np.ndarray], names=NAMES) -> int:
    """The largest difference of the page's pictures from Python's, in grey levels."""

    def shown(name: str) -> np.ndarray:
        url = window.execute_script(f"return document.getElementById('picture-{name}').toDataURL()")
        content = base64.b64decode(url.partition(",")[2])
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), np.int16)

    pairs = zip(names, pictures, strict=False)
    return max(int(np.abs(shown(name) - one).max()) for name, one in pairs)


def main():
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.webkit", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--edits", type=int, default=50)
    chosen = parser.parse_args()
    pipe = p2p.load_pipeline("toyland", device="cpu")
    kept = tempfile.TemporaryDirectory()
    folder = page_folder(Path(kept.name))
    p2p.export(pipe, folder / "model")
    build.seal(folder)
    with browser() as window, served(folder) as address:
        about = {"machine": machine(), "browser": window.capabilities["browserVersion"]}
        print(json.dumps(about))
        for visit in ("first", "second"):
            began = time.perf_counter()
            window.get(f"{address}index.html?{visit}#{link({**FIRST, 'steps': 1})}")
            said = done(window)
            loaded = window.execute_script("return document.body.dataset.loaded")
            print(f"{visit} visit: {time.perf_counter() - began:.1f} s; {loaded}; {said}")
        for seed in range(3):
            print(set_to(window, {**FIRST, "steps": STEPS, "seed": seed}))
            print(
                "the next edit:",
                set_to(window, {**FIRST, "steps": STEPS, "seed": seed, "cross": 0.6}),
            )
        far = []
        for settings in random_edits(pipe, chosen.edits):
            set_to(window, settings)
            far.append(furthest(window, python_pictures(pipe, settings)))
        print(f"{len(far)} edits: at most {max(far)} grey levels apart")
        photo = photos()["cat-snow"]
        target = photo.prompt.replace("cat", "dog")
        settings = {**FIRST, "source": photo.prompt, "target": target, "steps": 4}
        set_to(window, settings)
        window.execute_script("document.getElementById('status').textContent = ''")
        window.find_element("id", "own").send_keys(str(photo.path.resolve()))
        done(window)
        given = {"method": "direct", "steps": settings["steps"], "progress": False}
        inversion = p2p.invert(pipe, p2p.load_image(photo.path), photo.prompt, **given)
        apart = furthest(window, python_pictures(pipe, settings, inversion), NAMES[:2])
        print(f"an inverted photo and its edit: at most {apart} grey levels apart")


if __name__ == "__main__":
    main()
