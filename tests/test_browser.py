"""The studio in Voilà and a notebook in JupyterLab, as a person uses them, in a real browser. Screenshots go to runs/screenshots."""

import base64
import contextlib
import io
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import numpy as np
import psutil
import pytest
from PIL import Image

from p2p_helpers.toyland import photos
from p2p_helpers.toyland.reader import load_reader

from .browsers import write

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect
ROOT = Path(__file__).parent.parent
SHOTS = ROOT / "runs" / "screenshots"
PATIENCE = 120_000  # ms: a kernel starts slowly where two cores do everything


def served(command, settings, folder=None):
    """A server started in a folder on a free port of this machine, stopped at the end: its address and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "JUPYTER_CONFIG_DIR": str(settings),
        "JUPYTER_DATA_DIR": str(settings / "data"),
    }
    server = subprocess.Popen(
        [sys.executable, "-m", *command, f"--port={port}", "--no-browser"],
        env=environment,
        cwd=folder,
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
        yield f"http://127.0.0.1:{port}", psutil.Process(server.pid)
    finally:
        server.terminate()
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:  # it waits for a kernel that is starting
            server.kill()


@pytest.fixture(scope="module")
def voila(tmp_path_factory):
    yield from served(
        ["voila", "studio.ipynb"], tmp_path_factory.mktemp("jupyter"), ROOT / "notebooks"
    )


def kernels(voila):
    """The processes of the server's kernels."""
    return {process for process in voila[1].children() if process.is_running()}


def opened(browser, voila, **viewport):
    """The studio's page, once its first picture is there."""
    page = browser.new_page(viewport={"width": 1280, "height": 720, **viewport})
    page.set_default_timeout(PATIENCE)
    page.goto(voila[0], wait_until="commit")
    wait_for_pictures(page)
    return page


@pytest.fixture
def studio(browser, voila):
    """The studio's page with its first picture, set to few steps."""
    page = opened(browser, voila)
    write(page, "steps", "5")
    yield page
    page.close()


def button(page, name):
    return page.get_by_role("button", name=name, exact=True)


def pictures(page):
    return page.locator(PANEL).evaluate_all("images => images.map(image => image.src)")


PANEL = "figure img:not([alt^='your picture']):not([alt=''])"


def wait_for_pictures(page, old=""):
    """The pictures shown, once the edited one is another than `old`."""
    changed = f'old => (now => now.length > 2 && now[1].src !== old)(document.querySelectorAll("{PANEL}"))'
    page.wait_for_function(changed, arg=old)
    return pictures(page)


def test_from_typing_to_a_picture_and_a_fader_changes_it(studio):
    SHOTS.mkdir(parents=True, exist_ok=True)
    write(studio, "target", "a fox on the beach")
    expect(studio.get_by_text("map of “cat”")).to_be_visible()
    before = pictures(studio)
    button(studio, "Edit").click()
    wait_for_pictures(studio, before[1])
    expect(studio.get_by_role("img", name="target: a fox on the beach")).to_be_visible()
    expect(studio.locator(PANEL)).to_have_count(3)  # with the one without control
    first = pictures(studio)
    studio.get_by_role("slider").nth(4).focus()  # beach
    for _ in range(8):
        studio.keyboard.press("ArrowRight")
    write(studio, "local blend", "cat, fox")
    button(studio, "Edit").click()
    wait_for_pictures(studio, first[1])
    expect(studio.locator(PANEL)).to_have_count(4)  # the mask is shown
    assert pictures(studio)[0] == first[0]  # the source stays
    said = re.compile(
        r"p2p\.Reweight\(\{'beach': 3\.0\}, .*p2p\.LocalBlend\(\('cat', 'fox'\)\)", re.S
    )
    expect(studio.get_by_label("as Python")).to_have_value(said)  # it comes after the pictures
    edit = button(studio, "Edit").bounding_box()  # where it was, whatever the pictures take
    assert edit["y"] + edit["height"] <= 720
    for width, height in ((1280, 720), (800, 1100)):
        studio.set_viewport_size({"width": width, "height": height})
        studio.screenshot(path=SHOTS / f"studio-{width}.png")


def test_an_error_is_shown_in_place(studio):
    write(studio, "target", "a dog and a cat on the beach")
    expect(studio.get_by_role("alert")).to_contain_text("word")
    write(studio, "target", "a dog on the beach")
    expect(studio.get_by_role("alert")).to_have_count(0)


def test_cancel_ends_a_long_run(studio):
    write(studio, "steps", "200")
    button(studio, "Edit").click()
    expect(button(studio, "Cancel")).to_be_enabled()
    button(studio, "Cancel").click()
    expect(button(studio, "Cancel")).to_be_disabled()
    write(studio, "steps", "5")
    before = pictures(studio)
    button(studio, "Edit").click()
    wait_for_pictures(studio, before[1])


def test_an_uploaded_picture_is_edited(studio):
    photo = photos()["cat-snow"]
    with studio.expect_file_chooser() as chooser:
        studio.get_by_role("button", name="edit a picture of mine").click()
    chooser.value.set_files(photo.path)
    expect(studio.get_by_label("inversion")).to_be_visible()
    expect(studio.get_by_text("This prompt is a suggestion")).to_be_visible()
    for name in ("source", "target"):
        expect(studio.get_by_label(name, exact=True)).to_have_value("a cat in the snow")
    for name, text in (("source", photo.prompt), ("target", "a dog in the snow")):
        write(studio, name, text)
    before = pictures(studio)
    button(studio, "Edit").click()
    wait_for_pictures(studio, before[1])
    expect(studio.get_by_role("img", name="target: a dog in the snow")).to_be_visible()
    expect(studio.get_by_label("as Python")).to_have_value(re.compile(r"p2p\.invert\("))


def box_of(page, name):
    """An object's box, and where its middle is on the page."""
    box = page.get_by_role("application", name=re.compile(f"^{name}:"))
    return box, middle(box)


def middle(box):
    at = box.bounding_box()
    return at["x"] + at["width"] / 2, at["y"] + at["height"] / 2


def side(page):
    """Of the source's picture, in pixels of the page."""
    return page.locator(".p2p-frame").bounding_box()["width"]


def column_of(name, url):
    """Where the embedded model's reader sees an object in a picture, as a share of its width."""
    picture = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    (seen,) = [one for one in load_reader().read([picture])[0].objects if one.name == name]
    return np.argwhere(seen.cells)[:, 1].mean() / seen.cells.shape[1]


def test_a_box_is_dragged_and_its_object_is_there_after_the_edit(studio):
    write(studio, "steps", "10")
    before = pictures(studio)
    box, (x, y) = box_of(studio, "dog")
    studio.mouse.move(x, y)
    studio.mouse.down()
    studio.mouse.move(x + side(studio) / 4, y, steps=5)
    studio.mouse.up()
    assert middle(box) == pytest.approx((x + side(studio) / 4, y), abs=2)
    expect(studio.get_by_text("dog: dx +0.25 · dy 0.00 · scale 1.00")).to_be_visible()
    button(studio, "Edit").click()
    after = wait_for_pictures(studio, before[1])
    expect(studio.get_by_label("as Python")).to_have_value(
        re.compile(r"\| p2p\.Move\('dog', dx=0\.25\),")
    )
    assert column_of("dog", after[1]) - column_of("cat", after[0]) == pytest.approx(0.25, abs=0.13)
    studio.screenshot(path=SHOTS / "studio-moved.png")


def test_a_corner_resizes_and_the_foot_stays(studio):
    box, _ = box_of(studio, "dog")
    was = box.bounding_box()
    foot = was["y"] + was["height"]
    studio.mouse.move(was["x"] + was["width"] - 1, was["y"] + 1)
    studio.mouse.down()
    studio.mouse.move(was["x"] + was["width"] * 3 / 4, was["y"] + was["height"] / 2, steps=5)
    studio.mouse.up()
    now = box.bounding_box()
    assert now["height"] == pytest.approx(was["height"] / 2, rel=0.06)
    assert now["y"] + now["height"] == pytest.approx(foot, abs=2)
    expect(studio.get_by_text(re.compile(r"scale 0\.(45|50|55)"))).to_be_visible()
    button(studio, "Put back").click()
    assert box.bounding_box() == was


def test_keys_move_resize_and_put_back(studio):
    box, _ = box_of(studio, "dog")
    box.focus()
    for key in ("Shift+ArrowRight", "ArrowUp", "ArrowUp", "ArrowDown", "-", "-", "+"):
        studio.keyboard.press(key)
    for key in ("Control+-", "Alt+ArrowUp"):  # the browser's own
        studio.keyboard.press(key)
    expect(studio.get_by_text("dog: dx +0.25 · dy −0.06 · scale 0.95")).to_be_visible()
    before = pictures(studio)
    button(studio, "Edit").click()
    wait_for_pictures(studio, before[1])
    expect(studio.get_by_label("as Python")).to_have_value(
        re.compile(r"p2p\.Move\('dog', dx=0\.25, dy=-0\.0625, scale=0\.95\)")
    )
    box.focus()
    studio.keyboard.press("Escape")
    expect(studio.get_by_text("dog: dx 0.00 · dy 0.00 · scale 1.00")).to_be_visible()


def test_a_finger_drags_too_and_objects_are_removed_and_duplicated(browser, voila):
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(voila[0], wait_until="commit")
    wait_for_pictures(page)
    write(page, "target", "a cat on the beach")
    box, _ = box_of(page, "cat")
    box.scroll_into_view_if_needed()
    x, y = middle(box)
    finger = context.new_cdp_session(page)
    for kind, dx in (
        ("touchStart", 0),
        ("touchMove", side(page) / 8),
        ("touchMove", side(page) / 4),
    ):
        where = {"type": kind, "touchPoints": [{"x": x + dx, "y": y}]}
        finger.send("Input.dispatchTouchEvent", where)
    finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    expect(page.get_by_text("cat: dx +0.25 · dy 0.00 · scale 1.00")).to_be_visible()
    page.screenshot(path=SHOTS / "studio-390.png")
    button(page, "Duplicate").click()
    expect(page.get_by_text("a second cat: dx +0.25")).to_be_visible()
    button(page, "Remove").click()
    expect(page.get_by_text("cat: removed")).to_be_visible()
    write(page, "steps", "4")
    button(page, "Edit").click()
    expect(page.get_by_label("as Python")).to_have_value(re.compile(r"    p2p\.Remove\('cat'\),"))
    context.close()


def test_the_page_shows_a_picture_and_all_controls_and_neither_code_nor_introduction(
    browser, voila
):
    page = opened(browser, voila)
    expect(page.get_by_role("heading")).to_have_count(0)
    expect(page.get_by_text("import p2p")).to_have_count(0)
    for control in (
        *(page.get_by_label(name, exact=True) for name in ("source", "target", "seed", "steps")),
        page.get_by_label("kind of edit"),
        page.get_by_label("local blend"),
        page.get_by_role("button", name="edit a picture of mine"),
        *(button(page, name) for name in ("Edit", "Cancel", "Undo")),
        *page.get_by_role("slider").all(),
    ):
        box = control.bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= 720, control
    page.get_by_text("words that this model knows").click()
    expect(page.get_by_text("butterfly").first).to_be_visible()
    write(page, "target", "a zebra on the beach")
    expect(page.get_by_role("status").get_by_text("never seen “zebra”")).to_be_visible()
    page.close()


def test_a_fader_acts_when_it_is_let_go(studio):
    before = pictures(studio)
    fader = studio.get_by_role("slider").nth(1)  # the object's word
    box = fader.bounding_box()
    studio.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    studio.mouse.down()
    studio.mouse.move(box["x"] + 30, box["y"] + box["height"] / 2, steps=4)
    studio.wait_for_timeout(1500)
    assert pictures(studio) == before
    studio.mouse.up()
    after = wait_for_pictures(studio, before[1])
    assert after[0] != before[0]  # five steps now


def test_uploads_of_25_megabytes_work_and_larger_ones_say_so(studio, tmp_path):
    photo = photos()["cat-snow"].path.read_bytes()
    for size, said in ((24_900_000, None), (26_000_000, "at most 25 MB")):
        file = tmp_path / f"{size}.png"
        file.write_bytes(photo + bytes(size - len(photo)))
        with studio.expect_file_chooser() as chooser:
            studio.get_by_role("button", name="edit a picture of mine").click()
        chooser.value.set_files(file)
        if said:
            expect(studio.get_by_role("alert")).to_contain_text(said)
        else:
            expect(studio.get_by_role("img", name="your picture")).to_be_visible()


def test_a_page_that_is_gone_ends_its_kernel_within_a_minute(browser, voila, start_browser):
    def running(starter):
        before = kernels(voila)
        page = opened(starter, voila)
        write(page, "steps", "200")
        button(page, "Edit").click()
        expect(button(page, "Cancel")).to_be_enabled()
        return page, kernels(voila) - before

    mine = set(psutil.Process().children(recursive=True))
    other = start_browser()
    theirs = set(psutil.Process().children(recursive=True)) - mine
    (closed, first), (reloaded, second), (_, third) = map(running, (browser, browser, other))
    closed.close()
    reloaded.goto("about:blank")
    for process in theirs:
        process.send_signal(signal.SIGKILL)
    gone, alive = psutil.wait_procs(first | second | third, timeout=60)
    assert len(gone) == 3 and not alive
    reloaded.close()


def test_another_sites_page_starts_no_kernel(browser, voila):
    page, before = browser.new_page(), kernels(voila)
    address = voila[0]
    shown = f"""<iframe src="{address}"></iframe><img src="{address}/"><script>
        fetch("{address}/", {{mode: "no-cors"}}); new WebSocket("{address.replace("http", "ws")}/api/kernels/1/channels")
        </script>"""
    page.route(
        "http://other.test/**", lambda route: route.fulfill(body=shown, content_type="text/html")
    )
    page.goto("http://other.test/")
    page.wait_for_timeout(3000)
    page.evaluate("address => { location = address }", address)
    link = page.get_by_role("link", name="Open the studio")
    expect(link).to_be_visible()
    assert kernels(voila) <= before
    link.click()  # the user's own wish
    page.set_default_timeout(PATIENCE)
    wait_for_pictures(page)
    page.close()


@pytest.mark.parametrize("path", ["/", "/voila/files/studio.ipynb", "/api/kernels/1"])
def test_a_foreign_host_is_refused(voila, path):
    before, (address, _) = kernels(voila), voila
    with socket.socket() as connection:
        connection.connect(("127.0.0.1", int(address.rpartition(":")[2])))
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: other.test\r\n\r\n".encode())
        assert b" 403 " in connection.recv(100)
    assert kernels(voila) <= before


def test_no_request_leaves_the_machine(browser, voila):
    context, asked = browser.new_context(), []
    context.route("**/*", lambda route: (asked.append(route.request.url), route.continue_()))
    page = context.new_page()
    page.goto(voila[0], wait_until="commit")
    page.set_default_timeout(PATIENCE)
    wait_for_pictures(page)
    assert asked and all(url.startswith((voila[0], "data:", "blob:")) for url in asked)
    context.close()


LAB = [
    "jupyterlab",
    "--IdentityProvider.token=",
    "--allow-root",
    "--LabApp.news_url=None",
    "--LabApp.expose_app_in_browser=True",
]


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
    notebook.cells = [
        nbformat.v4.new_code_cell(
            "import p2p_helpers as p2p\n"
            "from p2p_helpers.view.studio import Settings, Studio\n"
            "Studio(p2p.load_pipeline('toyland', device='cpu'), Settings(steps=4))"
        )
    ]
    nbformat.write(notebook, folder / "studio.ipynb")
    yield from served(LAB, tmp_path_factory.mktemp("jupyter"), folder)


def run_first_cell(browser, lab, notebook):
    """A notebook in JupyterLab, after its first cell."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(PATIENCE)
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.goto(f"{lab[0]}/lab/tree/{notebook}.ipynb?reset", wait_until="commit")
    # A kernel that still starts would miss the keys.
    expect(page.get_by_text("| Idle").first).to_be_visible(timeout=PATIENCE)
    page.locator(".jp-Notebook .jp-CodeCell .cm-content").first.click()
    page.keyboard.press("Shift+Enter")
    return page


def test_keys_move_an_object_in_jupyterlab_and_leave_the_notebook_alone(browser, lab):
    page = run_first_cell(browser, lab, "studio")
    wait_for_pictures(page)
    box, (x, _) = box_of(page, "dog")
    box.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    expect(page.get_by_text("dog: dx +0.19")).to_be_visible()
    assert middle(box)[0] == pytest.approx(x + 3 / 16 * side(page), abs=2)
    page.keyboard.press("ArrowLeft")
    before = pictures(page)
    button(page, "Edit").click()
    wait_for_pictures(page, before[1])
    expect(page.get_by_label("as Python")).to_have_value(re.compile(r"Move\('dog', dx=0\.125\)"))
    page.screenshot(path=SHOTS / "lab-studio.png")
    page.close()


def test_make_lab_opens_the_course_and_shows_its_pictures(browser, tmp_path):
    (recipe,) = re.findall(r"jupyter lab (--.*)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    lab = contextlib.contextmanager(served)([*LAB, *shlex.split(recipe)], tmp_path, ROOT)
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    with lab as (address, _):
        page.goto(address)
        expect(page.get_by_role("heading", name="Start here")).to_be_visible(timeout=PATIENCE)
        picture = page.locator("img[src*='editor.webp']")
        picture.scroll_into_view_if_needed()
        expect(picture).not_to_have_js_property("naturalWidth", 0)
        expect(page.get_by_text("| Idle").first).to_be_visible(timeout=PATIENCE)
    page.close()


def test_a_notebook_in_jupyterlab_shows_a_word_that_is_hovered(browser, lab):
    page = run_first_cell(browser, lab, "explore")
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
