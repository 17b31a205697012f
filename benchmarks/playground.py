"""The editor in a browser tab: `python -m benchmarks.playground`. Prints what docs/playground.md quotes; `--picture` makes its picture.

Sizes; seconds until the model is there, the first time and from the browser's cache, and seconds of an edit, with all threads and with
one; and the largest difference from `p2p.edit` over random edits of every kind that the page has. Give it a quiet machine. The browser is
Chromium; `P2P_BROWSER=firefox` in the environment makes it Firefox.
"""

import argparse
import io
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

import p2p_helpers as p2p
from p2p_helpers.errors import PromptError
from p2p_helpers.provenance import machine
from p2p_helpers.toyland import EDITS, caption, counterfactual, photos, scene_at
from tests.browsers import launched
from tests.playground import NAMES, build, page_folder, picture, served
from tests.test_playground_edits import (
    FIRST,
    PATIENCE,
    done,
    edited_photo,
    link,
    python_pictures,
    set_to,
)

STEPS = 20
PICTURE = Path(__file__).parent.parent / "data" / "pictures" / "editor.webp"


def random_edits(pipe, count: int):
    """Settings of the page: counterfactuals of validation scenes in turn, with faders, blends and schedules at random."""
    rng, number, found = np.random.default_rng(0), 0, []
    while len(found) < count:
        number += 1
        try:
            case = counterfactual(scene_at("validation", number), EDITS[number % len(EDITS)], rng)
        except p2p.P2PError:
            continue
        source, target = caption(case.before), caption(case.after)
        words = [
            [word.text for word in p2p.words(pipe.tokenizer, prompt)] for prompt in (source, target)
        ]
        settings = {**FIRST, "source": source, "target": target, "seed": int(rng.integers(2**40))}
        settings["kind"] = "swap" if len(words[0]) == len(words[1]) else "refine"
        settings["steps"] = int(rng.integers(2, 7))
        settings["cross"], settings["self"] = (round(x, 2) for x in rng.random(2))
        settings["guidance"] = float(rng.choice([1, 2.5, 4, 7.5]))
        if rng.random() < 0.4:
            settings["weights"] = [[str(rng.choice(words[1])), float(rng.choice([-2, 0, 0.5, 3]))]]
        if rng.random() < 0.3:
            settings["blend"] = str(rng.choice(sorted({*words[0]} & {*words[1]})))
        try:  # a word that stands twice needs a number, which the page asks for
            python_pictures(pipe, {**settings, "steps": 1})
        except PromptError:
            continue
        found.append(settings)
    return found


def furthest(page, pipe, edits) -> list[int]:
    """The largest difference of each edit's pictures, in grey levels."""
    far = []
    for settings in edits:
        set_to(page, settings)
        pictures = python_pictures(pipe, settings)
        pairs = zip(NAMES, pictures, strict=True)
        far.append(max(int(np.abs(picture(page, name) - one).max()) for name, one in pairs))
    return far


def inverted(page, pipe) -> list[int]:
    """The same of all photos of the repository, with their own edits."""
    far = []
    for photo in photos().values():
        target = photo.edits[0].target
        swap = len(p2p.words(pipe.tokenizer, target)) == len(
            p2p.words(pipe.tokenizer, photo.prompt)
        )
        settings = {
            **FIRST,
            "source": photo.prompt,
            "target": target,
            "steps": 4,
            "kind": "swap" if swap else "refine",
        }
        pairs = zip(NAMES[:2], edited_photo(page, pipe, photo, settings), strict=False)
        far.append(max(int(np.abs(picture(page, name) - one).max()) for name, one in pairs))
        page.get_by_role("button", name="Back to generated pictures").click()
        done(page)
    return far


def seconds(browser, address: str, **how) -> dict[str, float | str]:
    """Until the model is there, twice, and of a first and a next edit."""
    context, found = browser.new_context(**how), {}
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    for visit in ("first visit", "second visit"):
        page.goto(f"{address}index.html?{visit[0]}#{link({**FIRST, 'steps': 1})}")
        done(page)
        loaded = page.evaluate("document.body.dataset.loaded")
        found[visit] = float(loaded.split(" s,")[0])
    found["where"] = loaded.partition(", ")[2]
    usual = {**FIRST, "steps": STEPS}
    times: dict[str, list[float]] = {"three pictures": [], "the next edit": []}
    for seed in range(3):
        for name, cross in zip(times, (0.5, 0.6), strict=True):  # the second has its source already
            set_to(page, {**usual, "seed": seed, "cross": cross})
            times[name].append(float(page.text_content("#status").split()[2]))
    found |= {name: statistics.median(runs) for name, runs in times.items()}
    context.close()
    return found


def take_picture(browser, address: str, file: Path):
    """The top of the page with what it shows first, for the README."""
    page = browser.new_page(viewport={"width": 765, "height": 790})
    page.set_default_timeout(PATIENCE)
    page.goto(f"{address}index.html")
    done(page)
    Image.open(io.BytesIO(page.screenshot())).save(file, quality=85)


def main():
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.playground", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--edits", type=int, default=50)
    parser.add_argument("--picture", action="store_true", help=f"only write {PICTURE.name}")
    chosen = parser.parse_args()
    pipe = p2p.load_pipeline("toyland", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    kept = tempfile.TemporaryDirectory()
    folder = page_folder(Path(kept.name))
    p2p.export(pipe, folder / "model")
    build.seal(folder)
    size = {
        part: sum(f.stat().st_size for f in (folder / part).glob("*")) / 1e6
        for part in ("model", "lib")
    }
    with sync_playwright() as playwright, served(folder) as address:
        browser = launched(playwright, gpu=True)
        about = {"machine": machine(), "browser": f"{browser.browser_type.name} {browser.version}"}
        print(json.dumps({**about, "MB": size}))
        if chosen.picture:
            take_picture(browser, address, PICTURE)
            return
        print("all threads:", json.dumps(seconds(browser, address)))
        print("one thread:", json.dumps(seconds(browser, address, service_workers="block")))
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(f"{address}index.html#{link(FIRST)}")
        done(page)
        far, photo = furthest(page, pipe, random_edits(pipe, chosen.edits)), inverted(page, pipe)
        browser.close()
    print(
        f"{len(far)} edits: at most {max(far)} grey levels apart; {len(photo)} inverted pictures: {max(photo)}"
    )


if __name__ == "__main__":
    main()
