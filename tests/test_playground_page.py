"""The page of docs/playground in a real browser, without a model: what it says while files come, or do not, and what it keeps."""

import hashlib
import json
import os
import re
import time

import pytest
from PIL import Image

from p2p_helpers.toyland.world import vocabulary

from .browsers import write
from .playground import SOURCE, barriers, build, page_folder, served

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect
GRAPH = b"graph"  # what model.json says of every file
TRIES = 10  # visits until a browser takes a new build


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Where the page is."""
    with served(page_folder(tmp_path_factory.mktemp("playground"))) as found:
        yield found


@pytest.fixture
def page(browser):
    """An empty page without a service worker, so that requests can be answered here."""
    context = browser.new_context(service_workers="block")
    yield context.new_page()
    context.close()


@pytest.fixture
def photo(tmp_path):
    """A file with a picture."""
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    return tmp_path / "red.png"


def facts() -> dict:
    """As model.json has them, as far as the page reads them."""
    file = {"bytes": len(GRAPH), "sha256": hashlib.sha256(GRAPH).hexdigest()}
    files = {f"{part}.onnx": file for part in ("unet", "text", "decoder", "encoder")}
    sizes = {"latent": [4, 16, 16], "picture": [128, 128], "text": [32, 64], "maps": [16, 16]}
    return {"files": files, **sizes, "known_words": vocabulary()}


def once(page, condition: str):
    """Waits for a condition; the page's policy forbids Playwright's own way."""
    for _ in range(300):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(100)
    raise AssertionError(condition)


def held(page, pattern: str) -> list:
    """The requests that wait for an answer."""
    waiting: list = []
    page.route(pattern, lambda route: waiting.append(route))
    return waiting


def test_a_picture_and_a_link_that_are_there_before_the_model_count(page, address, photo):
    waiting = held(page, "**/model.json")
    with page.expect_request("**/model.json"):
        page.goto(address)
    write(page, "target", "a castle in a forest at night")
    page.evaluate("location.hash = 'source=a+cat&target=a+dog&kind=refine'")
    expect(page.get_by_label("target", exact=True)).to_have_value("a dog")
    page.locator("#own").set_input_files(photo)
    waiting[0].fulfill(json=facts())
    without = page.get_by_role("button", name="Back to generated pictures")
    expect(without).to_be_visible()
    expect(page.get_by_label("kind of edit")).to_have_value("refine")
    expect(page.get_by_label("seed")).to_be_disabled()
    page.get_by_text("draw one here").click()
    page.get_by_role("button", name="Edit the drawing").click()
    expect(page.locator("#own")).to_have_value("")  # the same file can be chosen again
    without.click()
    expect(page.get_by_label("seed")).to_be_enabled()
    assert page.evaluate("document.activeElement.id") == "own"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_keeps_anyone_out(browser, address, width, scheme):
    """Names, roles, contrast, headings and the like, with all that can be opened open, and an error there."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, service_workers="block"
    )
    page = context.new_page()
    page.route("**/model.json", lambda route: route.fulfill(json=facts()))
    page.route("**/*.onnx", lambda route: route.fulfill(body=GRAPH[:3]))
    page.goto(address)
    expect(page.get_by_role("alert")).not_to_be_empty()
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    found = barriers(page)
    context.close()
    assert not found


@pytest.mark.parametrize("wrong", [GRAPH[:3], GRAPH[::-1]])
def test_a_file_of_another_model_is_said_and_forgotten(page, address, wrong):
    page.route("**/model.json", lambda route: route.fulfill(json=facts()))
    page.route("**/*.onnx", lambda route: route.fulfill(body=GRAPH))
    page.route("**/text.onnx", lambda route: route.fulfill(body=wrong))
    page.goto(f"{address}style.css")
    page.evaluate("Promise.all(['p2p-old', 'another'].map(name => caches.open(name)))")
    page.goto(address)
    expect(page.get_by_role("alert")).to_contain_text("The file text.onnx is not the one")
    assert page.evaluate("caches.keys()") == ["another"]


def test_it_says_that_the_runtime_starts(page, address):
    page.route("**/model.json", lambda route: route.fulfill(json=facts()))
    page.route("**/*.onnx", lambda route: route.fulfill(body=GRAPH))
    waiting = held(page, "**/ort*")
    page.goto(address)
    expect(page.locator("#status")).to_have_text("The model has come, and its runtime starts.")
    expect(page.locator("#step")).to_contain_text("14 MB more the first time")
    assert page.locator("#progress").get_attribute("value") is None
    waiting[0].abort()
    expect(page.get_by_role("alert")).to_contain_text("A part of the editor did not come")
    expect(page.locator("#status")).to_have_text("")


def test_a_worker_that_does_not_start_is_said_and_nothing_is_waited_for(page, address):
    page.route("**/worker.js", lambda route: route.abort())
    page.goto(address)
    expect(page.get_by_role("alert")).to_contain_text("could not start")
    expect(page.locator("#status")).to_have_text("")


def test_numbers_are_shown_as_they_are_used(page, address):
    page.goto(f"{address}#guidance=2.55&cross=0.6&self=0.123")
    for name, said in {"guidance": "2.55", "cross": "0.60", "self": "0.123"}.items():
        expect(page.locator(f"#{name}-said")).to_have_text(said)
    page.locator("#guidance").focus()
    page.keyboard.press("Home")
    expect(page.locator("#guidance-said")).to_have_text("1.0")


@pytest.fixture
def without_graphs(page):
    """The page knows its model, whose graphs never come."""
    page.route("**/model.json", lambda route: route.fulfill(json=facts()))
    held(page, "**/*.onnx")
    return page


def test_what_was_begun_is_not_undone_by_the_first_visits_reload(browser, address):
    context = browser.new_context()
    page = context.new_page()
    page.add_init_script(
        """const register = navigator.serviceWorker.register.bind(navigator.serviceWorker);
        const go = new Promise(resolve => { window.go = resolve; });
        navigator.serviceWorker.register = async file => { await go; return register(file); };"""
    )
    page.goto(address)
    page.get_by_label("target", exact=True).press("ControlOrMeta+a")
    page.get_by_label("target", exact=True).press_sequentially("a castle")
    page.evaluate("window.go()")
    expect(page.get_by_role("alert")).to_contain_text("model.json")  # the worker has begun
    expect(page.get_by_label("target", exact=True)).to_have_value("a castle")
    assert page.evaluate("sessionStorage.getItem('reloaded')") is None
    context.close()


def test_a_picture_of_ones_own_goes_with_a_reload_and_its_settings_too(
    without_graphs, address, photo
):
    page = without_graphs
    page.goto(address)
    page.locator("#own").set_input_files(photo)
    expect(page.get_by_label("seed")).to_be_disabled()
    page.reload()
    expect(page.get_by_role("button", name="forest").first).to_be_visible()
    expect(page.get_by_label("seed")).to_be_enabled()
    expect(page.locator("#own")).to_have_value("")


def test_a_browser_that_takes_no_more_addresses_still_edits(without_graphs, address):
    """Safari takes a hundred in half a minute."""
    page = without_graphs
    page.add_init_script(
        "history.replaceState = () => { throw new DOMException('', 'SecurityError'); }"
    )
    page.goto(address)
    write(page, "target", "an owl in a forest")
    expect(page.locator("#python")).to_contain_text("an owl in a forest")
    expect(page.get_by_role("alert")).to_be_hidden()


@pytest.mark.parametrize("key", ["End", "Home"])
def test_a_click_that_leaves_a_sentence_finds_its_word(without_graphs, address, key):
    page = without_graphs
    page.goto(address)
    words = page.get_by_label("Words of the target").get_by_role("button")
    expect(words.get_by_text("castle")).to_be_visible()
    field = page.get_by_label("target", exact=True)
    field.press(key)
    field.press_sequentially(" at night" if key == "End" else "at night ")
    words.get_by_text("castle").click()
    expect(words).to_have_count(7)
    pressed = page.get_by_label("Words of the target").locator("[aria-pressed=true]")
    expect(pressed).to_have_text("castle")


def test_a_known_word_goes_where_the_unknown_one_stands_by_now(without_graphs, address):
    page = without_graphs
    page.goto(f"{address}#source=a+fox&target=a+zebra+on+the+beach")
    page.get_by_text("words that this model knows").click()
    field = page.get_by_label("target", exact=True)
    field.press("Home")
    field.press_sequentially("at night ")
    page.locator("#known").get_by_role("button", name="owl", exact=True).click()
    expect(field).to_have_value("at night a owl on the beach")


@pytest.mark.parametrize(
    ("messages", "place"),
    [
        ([{"name": "trying", "gpu": "acme"}], "wasm"),  # and then the driver takes the tab with it
        (
            [
                {"name": "loaded", "seconds": 1, "place": "webgpu", "gpu": "acme", "threads": 1},
                {"name": "failed", "message": "lost", "expected": False},
            ],
            "wasm",
        ),
        (
            [
                {"name": "loaded", "seconds": 1, "place": "webgpu", "gpu": "acme", "threads": 1},
                {"name": "failed", "message": "The target is empty", "expected": True},
            ],
            "webgpu",
        ),
    ],
)
def test_a_graphics_processor_that_failed_is_not_tried_at_every_visit(
    page, address, messages, place
):
    last = {"name": "progress", "number": 0, "doing": "edit", "step": 7, "steps": 9, "pictures": {}}
    said = f"{json.dumps([*messages, last])}.forEach(one => postMessage(one))"
    script = f"onmessage = ({{ data }}) => {{ if (data.name === 'load') {said} }};"
    page.route(
        "**/worker.js", lambda route: route.fulfill(body=script, content_type="text/javascript")
    )
    page.goto(address)
    once(page, "document.getElementById('step').textContent === 'Step 7 of 9.'")
    kept = page.evaluate("JSON.parse(localStorage.getItem('place'))")
    assert kept == {"place": place, "gpu": "acme"}


def test_too_little_memory_is_a_sentence(page, address):
    page.route("**/model.json", lambda route: route.fulfill(json=facts()))
    page.route("**/*.onnx", lambda route: route.fulfill(body=GRAPH))
    worker = (SOURCE / "worker.js").read_text(encoding="utf-8")
    none = "WebAssembly.Memory = function () { throw new RangeError('WebAssembly.Memory(): could not allocate'); };"
    page.route(
        "**/worker.js",
        lambda route: route.fulfill(body=f"{worker}\n{none}", content_type="text/javascript"),
    )
    page.goto(address)
    expect(page.get_by_role("alert")).to_contain_text("not enough memory for the model")


def test_the_pads_colours_are_seen_in_a_contrast_theme(page, address):
    page.emulate_media(forced_colors="active")
    page.goto(address)
    page.get_by_text("draw one here").click()
    colours = page.locator("#colours button").evaluate_all(
        "all => all.map(one => getComputedStyle(one).backgroundColor)"
    )
    assert len(set(colours)) == len(colours) > 10


def test_a_chosen_colour_does_not_look_like_the_focus(page, address):
    page.goto(address)
    chosen = page.locator("#colours [aria-pressed=true]")
    style = chosen.evaluate(
        "one => [getComputedStyle(one).outlineStyle, getComputedStyle(one).boxShadow]"
    )
    assert style[0] == "none" and "inset" in style[1]


def test_a_link_that_cannot_be_copied_says_why(page, address):
    page.add_init_script("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.goto(address)
    page.get_by_role("button", name="Copy link").click()
    expect(page.locator("#status")).to_contain_text("did not allow it")


def test_the_page_may_ask_nobody_else(page, address):
    page.goto(address)
    blocked = page.evaluate(
        """() => new Promise(resolve => {
            document.addEventListener("securitypolicyviolation", event => resolve(event.effectiveDirective));
            fetch("https://example.org/").catch(() => setTimeout(resolve, 1000));
        })"""
    )
    assert blocked == "connect-src"


def test_the_service_worker_sends_the_pages_policy():
    page, worker = ((SOURCE / name).read_text(encoding="utf-8") for name in ("index.html", "sw.js"))
    said = re.search(r'"Content-Security-Policy" content="([^"]+)"', page)[1]
    sent = re.findall(r'"([^"]+)"', re.search(r"POLICY = (.+?)\.join", worker, re.DOTALL)[1])
    assert said.split() == "; ".join(sent).split()


def test_a_new_build_has_no_file_of_the_old_one(browser, tmp_path):
    """The host lets browsers keep all files for an hour."""
    folder = page_folder(tmp_path / "page")
    build.seal(folder)
    with served(folder, Cache_Control="max-age=3600") as address:
        context = browser.new_context()

        def visit() -> tuple[list[str], str]:
            page = context.new_page()
            page.goto(address)
            expect(page.get_by_role("alert")).to_be_visible()  # there is no model
            kept = page.evaluate("caches.keys()")
            opacity = page.locator("main").evaluate("main => getComputedStyle(main).opacity")
            page.close()
            return kept, opacity

        old, _ = visit()
        build.copy_page(folder)
        style = folder / "style.css"
        style.write_text(f"{style.read_text(encoding='utf-8')}main {{ opacity: 0.5 }}")
        build.seal(folder)
        for file in folder.glob("*.*"):  # a host knows a new file by whole seconds
            later = file.stat().st_mtime + 60
            os.utime(file, (later, later))
        for number in range(TRIES):
            time.sleep(0.5 * (number + 1))  # the old version goes when it has no page
            kept, opacity = visit()
            if kept != old:
                break
        assert kept != old
        assert opacity == "0.5"
        context.close()
