"""The web site, built as `make docs` builds it and read in a browser that can reach nothing else."""

import functools
import http.server
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

import p2p_helpers as p2p
from p2p_helpers import batch, bench, metrics, toyland
from p2p_helpers.view import figures, map_figures

ROOT = Path(__file__).parent.parent
PHONE = {"width": 390, "height": 844}
READ = """() => {
    for (const folded of document.querySelectorAll('details')) folded.open = true;
    const boxed = e => { for (let p = e.parentElement; p.tagName !== 'ARTICLE'; p = p.parentElement)
        if (getComputedStyle(p).overflowX !== 'visible') return true };
    const all = (what, say) => [...document.querySelectorAll(what)].map(say);
    return {
        width: document.documentElement.scrollWidth,
        wide: [...document.querySelectorAll('article *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !boxed(e))
            .map(e => e.outerHTML.slice(0, 200)),
        links: all('a[href]', a => a.href),
        ids: all('[id]', e => e.id),
        images: all('img', i => [i.alt, i.naturalWidth]),
        formulas: all('math', m => m.getBoundingClientRect().width * m.getBoundingClientRect().height),
        font: document.fonts.check('16px "STIX Two Math"'),
    };
}"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A new site's folder, and how the building ended."""
    folder = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-c",
        "docs",
        "-d",
        folder / "doctrees",
        ".",
        folder / "html",
    ]
    return folder / "html", subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(built):
    """The folder with the pages."""
    return built[0]


@pytest.fixture(scope="module")
def address(site):
    """Where a server on this machine has it."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *said):
            pass

    class Patient(http.server.ThreadingHTTPServer):
        def handle_error(self, request, client):
            pass  # the browser left a page before it had all of it

    with Patient(("127.0.0.1", 0), functools.partial(Quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def pages(browser, site, address):
    """What a phone shows of every page, and what went wrong meanwhile: name → what `READ` gives and `wrong`."""
    found, wrong = {}, []
    page = browser.new_page(viewport=PHONE)
    page.on(
        "console",
        lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None,
    )
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "requestfailed",
        lambda r: (
            None if r.failure == "net::ERR_ABORTED" else wrong.append(f"{r.failure}: {r.url}")
        ),
    )  # or we left
    page.on(
        "response",
        lambda answer: (
            wrong.append(f"{answer.status}: {answer.url}") if answer.status >= 400 else None
        ),
    )
    page.on(
        "request",
        lambda request: (
            None
            if request.url.startswith((address, "data:"))
            else wrong.append(f"leaves: {request.url}")
        ),
    )
    for name in sorted(
        {path.relative_to(site).as_posix() for path in site.rglob("*.html")} - {"index.html"}
    ):  # which leads on at once
        wrong.clear()
        page.goto(address + name, wait_until="load")
        found[name] = {**page.evaluate(READ), "wrong": list(wrong)}
    page.close()
    return found


def test_it_is_built_without_a_warning(built):
    assert built[1].returncode == 0, built[1].stderr


def test_every_page_loads_without_an_error_and_without_the_network(pages):
    assert {name: facts["wrong"] for name, facts in pages.items() if facts["wrong"]} == {}


def test_every_notebook_is_a_page_and_the_first_page_is_the_landing_page(pages, browser, address):
    notebooks = [*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("notebooks/solutions/*.ipynb")]
    assert {path.relative_to(ROOT).with_suffix(".html").as_posix() for path in notebooks} <= set(
        pages
    )
    page = browser.new_page()
    page.goto(address)
    page.wait_for_url(f"{address}docs/index.html")
    order = [
        a.get_attribute("href")
        for a in page.locator(".sidebar-tree > ul").first.locator("> li > a").all()
    ]
    wanted = [
        f"../{path.relative_to(ROOT).with_suffix('.html')}"
        for path in sorted(ROOT.glob("notebooks/[0-9]*.ipynb"))
    ]
    assert order[: len(wanted)] == wanted
    page.close()


def test_every_link_leads_somewhere(pages, site, address):
    broken = []
    for name, facts in pages.items():
        for link in facts["links"]:
            target, anchor = urldefrag(link.removeprefix(address))
            target, anchor = unquote(target) or "docs/index.html", unquote(anchor)
            if link.startswith(("http", "mailto")) and not link.startswith(address):
                continue
            if not (site / target).is_file() or (anchor and anchor not in pages[target]["ids"]):
                broken.append((name, link))
    assert broken == []


def test_every_image_is_shown_and_has_a_text_alternative(pages):
    bare = [
        (name, alt)
        for name, facts in pages.items()
        for alt, width in facts["images"]
        if not width or not alt or alt.endswith(".png")
    ]
    assert bare == []


def test_formulas_are_drawn_in_the_font_that_comes_along(pages):
    formulas = {name: facts["formulas"] for name, facts in pages.items() if facts["formulas"]}
    assert "notebooks/02_word_swap.html" in formulas
    for name, areas in formulas.items():
        assert all(areas) and pages[name]["font"], name


def test_no_page_is_wider_than_a_phone(pages):
    assert {
        name: facts["wide"]
        for name, facts in pages.items()
        if facts["wide"] or facts["width"] > PHONE["width"]
    } == {}


def test_the_api_page_has_every_public_name(pages):
    public = {
        name
        for module in (figures, map_figures, metrics)
        for name, what in vars(module).items()
        if getattr(what, "__module__", "") == module.__name__
    }
    names = {
        name
        for name in {*p2p.__all__, *batch.__all__, *bench.__all__, *toyland.__all__, *public}
        if not name.startswith("_")
    }
    assert names <= {entry.split(".")[-1] for entry in pages["docs/api.html"]["ids"]}


def test_the_switch_to_dark_holds_on_the_next_page_and_in_an_explorer(
    browser, address, random_pipe
):
    edited = p2p.edit(
        random_pipe,
        "a cat on the beach",
        "a dog on the beach",
        steps=1,
        record=True,
        progress=False,
    )
    page = browser.new_page(color_scheme="light")
    page.goto(f"{address}notebooks/02_word_swap.html")
    page.evaluate(
        "html => document.querySelector('article').insertAdjacentHTML('beforeend', html)",
        p2p.explore(edited)._repr_html_(),
    )
    explorer = page.frame_locator("iframe[title='Attention explorer']")
    explorer.locator("html[data-theme=light]").wait_for()
    page.locator(".theme-toggle:visible").click()
    explorer.locator("html[data-theme=dark]").wait_for()
    page.goto(f"{address}docs/api.html")
    assert (
        max(
            page.evaluate(
                "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
            )
        )
        < 60
    )
    page.close()


def test_search_finds_a_word(browser, address):
    page = browser.new_page()
    page.goto(f"{address}docs/index.html")
    page.get_by_label("Search").fill("snowman")
    page.keyboard.press("Enter")
    page.locator("#search-results a", has_text="Word swap").first.click()
    assert "snowman" in page.locator("article").inner_text()
    page.close()
