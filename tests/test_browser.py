"""The studio in Voilà and a notebook in JupyterLab, as a person uses them, in a real browser. Screenshots go to runs/screenshots."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pytest

from p2p_helpers.toyland import photos

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect
ROOT = Path(__file__).parent.parent
SHOTS = ROOT / "runs" / "screenshots"
PATIENCE = 120_000  # ms: a kernel starts slowly where two cores do everything


def served(command, folder):
    """The address of a server started on a free port of this machine, stopped at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "JUPYTER_CONFIG_DIR": str(folder),
        "JUPYTER_DATA_DIR": str(folder / "data"),
    }
    server = subprocess.Popen(
        [sys.executable, "-m", *command, f"--port={port}", "--no-browser"],
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/static/none", timeout=2)
            except urllib.error.HTTPError:
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="module")
def voila(tmp_path_factory):
    yield from served(
        ["voila", str(ROOT / "notebooks" / "studio.ipynb")], tmp_path_factory.mktemp("jupyter")
    )


@pytest.fixture
def studio(browser, voila):
    """The studio's page, ready, with few steps."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(PATIENCE)
    page.goto(voila, wait_until="commit")
    page.get_by_label("steps", exact=True).fill("5")
    page.keyboard.press("Tab")
    yield page
    page.close()


def button(page, name):
    return page.get_by_role("button", name=name, exact=True)


def pictures(page):
    return [image.get_attribute("src") for image in page.locator("figure img").all()]


def wait_for_pictures(page, old=""):
    """The pictures shown, once the edited one is another than `old`."""
    changed = "old => (now => now.length > 1 && now[1].src !== old)(document.querySelectorAll('figure img'))"
    page.wait_for_function(changed, arg=old)
    return pictures(page)


def test_from_typing_to_a_picture_and_a_fader_changes_it(studio):
    SHOTS.mkdir(parents=True, exist_ok=True)
    studio.get_by_label("target", exact=True).fill("a fox on the beach")
    studio.keyboard.press("Tab")
    expect(studio.get_by_text("map of “cat”")).to_be_visible()
    button(studio, "Edit").click()
    first = wait_for_pictures(studio)
    assert studio.get_by_role("img", name="target: a fox on the beach").is_visible()
    studio.get_by_role("slider").nth(4).focus()  # beach
    for _ in range(8):
        studio.keyboard.press("ArrowRight")
    studio.get_by_label("local blend").fill("cat, fox")
    studio.keyboard.press("Tab")
    button(studio, "Edit").click()
    second = wait_for_pictures(studio, first[1])
    assert second[0] == first[0] and len(second) == 3  # the source stays; the mask is shown
    code = studio.get_by_label("as Python").input_value()
    assert "p2p.Reweight({'beach': 3.0}, " in code and "p2p.LocalBlend(('cat', 'fox'))" in code
    for width in (1280, 800):
        studio.set_viewport_size({"width": width, "height": 900})
        studio.screenshot(path=SHOTS / f"studio-{width}.png")


def test_an_error_is_shown_in_place(studio):
    studio.get_by_label("target", exact=True).fill("a dog and a cat on the beach")
    studio.keyboard.press("Tab")
    expect(studio.get_by_role("alert")).to_contain_text("word")
    studio.get_by_label("target", exact=True).fill("a dog on the beach")
    studio.keyboard.press("Tab")
    expect(studio.get_by_role("alert")).to_have_count(0)


def test_cancel_ends_a_long_run(studio):
    studio.get_by_label("steps", exact=True).fill("200")
    studio.keyboard.press("Tab")
    button(studio, "Edit").click()
    expect(button(studio, "Cancel")).to_be_enabled()
    button(studio, "Cancel").click()
    expect(button(studio, "Cancel")).to_be_disabled()
    studio.get_by_label("steps", exact=True).fill("5")
    studio.keyboard.press("Tab")
    button(studio, "Edit").click()
    wait_for_pictures(studio)


def test_an_uploaded_picture_is_edited(studio):
    photo = photos()["cat-snow"]
    with studio.expect_file_chooser() as chooser:
        studio.get_by_role("button", name="edit a picture of mine").click()
    chooser.value.set_files(photo.path)
    expect(studio.get_by_label("inversion")).to_be_visible()
    for name, text in (("source", photo.prompt), ("target", "a dog in the snow")):
        studio.get_by_label(name, exact=True).fill(text)
        studio.keyboard.press("Tab")
    button(studio, "Edit").click()
    wait_for_pictures(studio)
    assert studio.get_by_role("img", name="target: a dog in the snow").is_visible()
    assert "p2p.invert(" in studio.get_by_label("as Python").input_value()


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    notebook = nbformat.v4.new_notebook()
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    notebook.cells = [
        nbformat.v4.new_code_cell(
            "import p2p_helpers as p2p\n"
            "pipe = p2p.load_pipeline('toyland', device='cpu')\n"
            "pair = 'a cat on the beach', 'a dog on the beach'\n"
            "p2p.explore(p2p.edit(pipe, *pair, seed=3, steps=4, record=True, progress=False))"
        )
    ]
    nbformat.write(notebook, folder / "explore.ipynb")
    more = [
        "--ServerApp.root_dir",
        str(folder),
        "--IdentityProvider.token=",
        "--allow-root",
        "--LabApp.news_url=None",
        "--LabApp.expose_app_in_browser=True",
    ]
    yield from served(["jupyterlab", *more], tmp_path_factory.mktemp("jupyter"))


def test_a_notebook_in_jupyterlab_shows_a_word_that_is_hovered(browser, lab):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(PATIENCE)
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.goto(f"{lab}/lab/tree/explore.ipynb", wait_until="commit")
    expect(page.get_by_text("| Idle").first).to_be_visible(
        timeout=PATIENCE
    )  # a kernel that still starts would miss the keys
    page.locator(".jp-Notebook .jp-CodeCell .cm-content").first.click()
    page.keyboard.press("Shift+Enter")
    explorer = page.frame_locator("iframe[title='Attention explorer']")
    explorer.get_by_role("button", name="beach").hover()
    expect(explorer.locator("#said")).to_contain_text("“beach”: at most")
    before = explorer.locator("#picture").evaluate("canvas => canvas.toDataURL()")
    explorer.get_by_role("button", name="cat").hover()
    assert explorer.locator("#picture").evaluate("canvas => canvas.toDataURL()") != before

    def paper():
        return explorer.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")

    seen = {}
    for theme in ("Light", "Dark"):
        page.evaluate(
            "theme => jupyterapp.commands.execute('apputils:change-theme', { theme })",
            f"JupyterLab {theme}",
        )
        expect(explorer.locator("html")).to_have_attribute("data-theme", theme.lower())
        seen[theme] = paper()
        for width in (1280, 800):
            page.set_viewport_size({"width": width, "height": 1000})
            fits = "() => document.documentElement.scrollHeight <= innerHeight"  # the frame is as high as its page
            page.frame(url="about:srcdoc").wait_for_function(fits)
            page.screenshot(path=SHOTS / f"lab-{theme.lower()}-{width}.png")
    assert seen == {
        "Light": "rgb(255, 255, 255)",
        "Dark": "rgb(23, 23, 27)",
    }  # as JupyterLab's own theme, not as the system's
    page.close()
