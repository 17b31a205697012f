"""The page of docs/playground in a real browser, without a model: what it says while files come, or do not, and what it keeps."""

import hashlib
import os
import re

import pytest
from PIL import Image

from p2p_helpers.toyland.world import vocabulary

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


def held(page, pattern: str) -> list:
    """The requests that wait for an answer."""
    waiting: list = []
    page.route(pattern, lambda route: waiting.append(route))
    return waiting


def test_a_picture_and_a_link_that_are_there_before_the_model_count(page, address, photo):
    waiting = held(page, "**/model.json")
    with page.expect_request("**/model.json"):
        page.goto(address)
    page.get_by_label("target", exact=True).fill("a castle in a forest at night")
    page.keyboard.press("Tab")
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
    expect(page.locator("#status")).to_contain_text("only over https or on localhost")


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
        page = context.new_page()

        def visit() -> list[str]:
            page.goto(address)
            expect(page.get_by_role("alert")).to_be_visible()  # there is no model
            return page.evaluate("caches.keys()")

        old = visit()
        build.copy_page(folder)
        style = folder / "style.css"
        style.write_text(f"{style.read_text(encoding='utf-8')}main {{ opacity: 0.5 }}")
        later = style.stat().st_mtime + 60
        os.utime(style, (later, later))
        build.seal(folder)
        for number in range(TRIES):
            page.goto("about:blank")
            page.wait_for_timeout(500 * (number + 1))  # the old version goes when it has no page
            if visit() != old:
                break
        assert page.evaluate("caches.keys()") != old
        assert page.locator("main").evaluate("main => getComputedStyle(main).opacity") == "0.5"
        context.close()
