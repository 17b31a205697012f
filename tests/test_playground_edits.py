"""Whole edits on the page, in a real browser with the exported model, against `p2p.edit`. Screenshots go to runs/screenshots."""

import json
import os
import re
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
from PIL import Image

import p2p_helpers as p2p
from p2p_helpers.provenance import read_png
from p2p_helpers.toyland import photos

from .browsers import write
from .playground import NAMES, build, page_folder, picture, served

pytest.importorskip("onnxruntime")
sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect
SHOTS = Path(__file__).parent.parent / "runs" / "screenshots"
PATIENCE = 300_000  # ms: two cores do everything
CAT, DOG = "a cat on the beach", "a dog on the beach"
FIRST = {"source": CAT, "target": DOG, "kind": "swap", "cross": 0.8, "self": 0.4, "seed": 3}
FIRST |= {"steps": 3, "guidance": 4, "blend": "", "weights": []}
EDITS = [
    {},
    {"target": "a snowman on the beach", "cross": 0.4, "self": 1},
    {"weights": [["dog", 3], ["beach", -1]]},
    {"target": "a red cat on the beach at night", "kind": "refine", "cross": 0.6},
    {"target": f"{CAT} in falling snow", "kind": "refine", "weights": [["falling", 2.5]]},
    {"target": CAT, "weights": [["beach", 4]]},
    {"blend": "cat, dog", "steps": 6},
    {"target": DOG, "guidance": 1, "seed": 2**40 + 5},
]


@pytest.fixture(scope="module")
def address(toyland, tmp_path_factory):
    """Where the whole page is."""
    folder = page_folder(tmp_path_factory.mktemp("playground"))
    p2p.export(toyland, folder / "model")
    build.seal(folder)
    with served(folder) as found:
        yield found


@pytest.fixture(scope="module")
def opened(browser, address):
    """The page once its first pictures are there, and every address that it asked for."""
    context = browser.new_context(accept_downloads=True)
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(f"{address}index.html#{link(FIRST)}")
    done(page)
    yield page, asked
    context.close()


@pytest.fixture
def page(opened):
    return opened[0]


def cores() -> int:
    """As a browser counts them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def link(settings: dict) -> str:
    """As the page writes it."""
    return urlencode({n: json.dumps(v) if n == "weights" else v for n, v in settings.items()})


def done(page):
    expect(page.locator("#status")).to_have_text(re.compile("^Done"), timeout=PATIENCE)


def set_to(page, settings: dict):
    """The page with other settings, once their pictures are there."""
    page.evaluate(
        "hash => { document.getElementById('status').textContent = ''; location.hash = hash }",
        link(settings),
    )
    done(page)


def python_edit(settings: dict) -> p2p.Edit:
    kind = {"swap": p2p.Replace, "refine": p2p.Refine}[settings["kind"]]
    edit = kind(cross_steps=settings["cross"], self_steps=settings["self"])
    weights = dict(settings["weights"])
    return edit | p2p.Reweight(weights) if weights else edit


def python_pictures(pipe, settings: dict, source=None, **more) -> list[np.ndarray]:
    """Source, edit, and the target without control."""
    free = type(python_edit({**settings, "weights": []}))(cross_steps=0.0, self_steps=0.0)
    blend = settings["blend"].split(", ") if settings["blend"] else None
    given = {"guidance_scale": settings["guidance"], "progress": False, **more}
    if source is None:
        given |= {"seed": settings["seed"], "steps": settings["steps"]}
    start, target = source or settings["source"], settings["target"]
    edited = p2p.edit(pipe, start, target, python_edit(settings), local_blend=blend, **given)
    uncontrolled = p2p.edit(pipe, start, target, free, **given)
    found = (edited.source, edited.image, uncontrolled.image)
    return [np.asarray(image, np.int16) for image in found]


def load_photo(page, photo):
    """The page with a picture of one's own, once it is edited."""
    page.evaluate("document.getElementById('status').textContent = ''")
    page.get_by_label("a picture or drawing of your own").set_input_files(photo.path)
    done(page)


def saved(page, path: Path) -> dict:
    """What a picture that the page saves says of itself."""
    with page.expect_download() as download:
        page.get_by_role("button", name="Save picture").click()
    download.value.save_as(path)
    return read_png(path)


def edited_photo(page, pipe, photo, settings: dict) -> list[np.ndarray]:
    """Put a photo on the page and edit it there; gives what Python makes of it."""
    set_to(page, settings)
    load_photo(page, photo)
    given = {"method": "direct", "steps": settings["steps"], "progress": False}
    inversion = p2p.invert(pipe, p2p.load_image(photo.path), photo.prompt, **given)
    return python_pictures(pipe, settings, inversion)


def compare(page, pictures: list[np.ndarray], names=NAMES) -> dict[str, int]:
    """The largest difference in grey levels of each picture."""
    shown = zip(names, pictures, strict=False)
    far = {name: int(np.abs(picture(page, name) - one).max()) for name, one in shown}
    assert max(far.values()) <= 1, far
    return far


@pytest.mark.parametrize("change", EDITS, ids=lambda change: "-".join(change) or "swap")
def test_an_edit_on_the_page_is_pythons(page, toyland, change):
    settings = {**FIRST, **change}
    set_to(page, settings)
    names = NAMES if settings["source"] != settings["target"] else NAMES[:2]
    compare(page, python_pictures(toyland, settings), names)


@pytest.mark.parametrize("blend", ["", "cat, dog"])
def test_a_picture_of_ones_own_is_inverted_and_edited_as_in_python(page, toyland, tmp_path, blend):
    photo = photos()["cat-snow"]
    settings = {**FIRST, "source": photo.prompt, "target": photo.prompt.replace("cat", "dog")}
    settings |= {"blend": blend, "steps": 4}
    compare(page, edited_photo(page, toyland, photo, settings), NAMES[:2])
    assert "p2p.invert" in page.locator("#python").text_content()
    said = saved(page, tmp_path / "dog.png")
    assert said["inversion"] == {"method": "direct"}
    assert (said["seed"], said["target"]) == (None, settings["target"])
    page.evaluate("document.getElementById('status').textContent = ''")
    page.get_by_role("button", name="Back to generated pictures").click()
    done(page)


def test_an_example_leaves_the_picture_of_ones_own(page, toyland):
    set_to(page, {**FIRST, "steps": 2})
    load_photo(page, photos()["cat-snow"])
    back = page.get_by_role("button", name="Back to generated pictures")
    expect(back).to_be_visible()
    page.get_by_role("link", name="a fox becomes a panda").click()
    expect(back).to_be_hidden()
    assert page.locator("#own").input_value() == ""
    set_to(page, FIRST)
    compare(page, python_pictures(toyland, FIRST))


def test_a_photo_of_another_shape_is_cut_to_its_middle(page, toyland, tmp_path):
    """Wide, turned by its EXIF, and half transparent: what the package makes of it, up to the resampling."""
    settings = {**FIRST, "source": "a cat in the snow", "target": "a dog in the snow", "steps": 2}
    picture_of = Image.open(photos()["cat-snow"].path).convert("RGB")
    wide = Image.new("RGB", (384, 256), "red")
    wide.paste(picture_of.resize((256, 256), Image.Resampling.LANCZOS), (64, 0))
    turned = wide.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[274] = 6  # to be turned to the right
    files = {"wide": wide, "turned": turned, "clear": wide.copy()}
    files["clear"].putalpha(128)
    set_to(page, settings)
    for name, image in files.items():
        file = tmp_path / f"{name}.png"
        image.save(file, **({"exif": exif} if name == "turned" else {}))
        page.evaluate("document.getElementById('status').textContent = ''")
        page.get_by_label("a picture or drawing of your own").set_input_files(file)
        done(page)
        wanted = np.asarray(p2p.load_image(file, toyland), np.int16)
        shown = picture(page, "source")
        far = np.abs(shown - wanted)
        assert np.median(far) < 12 and abs(shown.mean() - wanted.mean()) < 4, name
        assert max(far[:, :6].mean(), far[:, -6:].mean()) < 30, name  # nothing of the red margins
    page.evaluate("document.getElementById('status').textContent = ''")
    page.get_by_role("button", name="Back to generated pictures").click()
    done(page)


def test_a_drawing_is_inverted_and_edited(page):
    set_to(page, {**FIRST, "steps": 2})
    generated = picture(page, "source")
    page.get_by_text("draw one here").click()
    page.get_by_role("button", name="Begin with the source").click()
    page.get_by_role("button", name="red", exact=True).click()
    page.locator("#paper").click(position={"x": 20, "y": 20})
    page.evaluate("document.getElementById('status').textContent = ''")
    page.get_by_role("button", name="Edit the drawing").click()
    done(page)
    far = np.abs(picture(page, "source") - generated).max(-1)
    assert far[:24, :24].max() > 60 and np.median(far) < 12
    page.evaluate("document.getElementById('status').textContent = ''")
    page.get_by_role("button", name="Back to generated pictures").click()
    done(page)
    assert (picture(page, "source") == generated).all()


def test_a_word_shows_where_the_picture_looks_and_a_slider_turns_it(page):
    set_to(page, FIRST)
    before = picture(page, "edit")
    page.get_by_role("button", name="dog", exact=True).hover()
    assert np.abs(picture(page, "edit") - before).max() > 50
    assert "coloured by the map of “dog”" in page.locator("#picture-edit").get_attribute(
        "aria-label"
    )
    page.mouse.move(0, 0)
    assert (picture(page, "edit") == before).all()
    page.evaluate("document.getElementById('status').textContent = ''")
    page.get_by_label("weight of dog").focus()
    page.keyboard.press("ArrowRight")
    done(page)
    assert '["dog",1.25]' in page.evaluate(
        "new URLSearchParams(location.hash.slice(1)).get('weights')"
    )
    assert (picture(page, "edit") != before).any()


def test_sliders_under_words_hold_the_weights_of_a_link(page):
    page.get_by_role("link", name="more snow").click()
    for word in ("falling", "snow"):
        slider = page.get_by_label(f"weight of {word}")
        expect(slider).to_have_value("1.75")
        expect(slider.locator("xpath=following-sibling::output")).to_have_text("1.75")
    set_to(page, {**FIRST, "weights": [["dog", 6.5], ["beach", -3]]})
    expect(page.get_by_label("weight of dog")).to_have_value("6.5")
    expect(page.get_by_label("weight of beach")).to_have_value("-3")
    write(page, "target", "a dog and a dog on the beach")  # both have it
    for place in range(2):
        expect(page.get_by_label("weight of dog").nth(place)).to_have_value("6.5")
    write(page, "target", DOG)
    expect(page.get_by_label("weight of dog")).to_have_value("6.5")
    done(page)


def test_a_link_restores_everything(page, browser, address):
    settings = {**FIRST, "target": "a red dog on the beach", "kind": "refine", "cross": 0.35}
    settings |= {"weights": [["red", 2]], "seed": 7, "blend": "dog"}
    set_to(page, settings)
    shown = picture(page, "edit")
    other = browser.new_page()
    other.set_default_timeout(PATIENCE)
    other.goto(page.url)
    done(other)
    for name in ("source", "target", "kind", "cross", "seed", "steps", "blend"):
        assert other.locator(f"#{name}").input_value() == str(settings[name])
    assert other.get_by_label("weight of red").input_value() == "2"
    assert (picture(other, "edit") == shown).all()
    other.close()


def test_other_sentences_choose_their_kind_of_edit_and_a_wrong_one_is_explained(page):
    set_to(page, FIRST)
    write(page, "target", f"{DOG} at night")
    expect(page.get_by_label("kind of edit")).to_have_value("refine")
    expect(page.locator("#aligned")).to_contain_text("“dog at night”")
    page.get_by_label("kind of edit").select_option("swap")
    expect(page.get_by_role("alert")).to_contain_text("as many words on both sides")
    page.get_by_label("kind of edit").select_option("refine")
    expect(page.get_by_role("alert")).to_be_hidden()
    write(page, "local blend: only where these words are", "owl")
    expect(page.get_by_role("alert")).to_contain_text("“owl” is not in either sentence")
    write(page, "local blend: only where these words are", "")
    write(page, "target", "a zebra on the beach")
    expect(page.locator("#aligned")).to_contain_text("never seen “zebra”")
    done(page)


def test_an_unknown_word_is_marked_and_a_known_one_can_replace_it(page):
    set_to(page, {**FIRST, "target": "a zebra on the beach"})
    assert page.locator("#aligned").get_attribute("aria-live") == "polite"
    strange = page.get_by_role("button", name="zebra", exact=True)
    expect(strange).to_have_attribute("title", "unknown to this model")
    assert "dotted" in strange.evaluate("button => getComputedStyle(button).textDecoration")
    page.get_by_text("words that this model knows").click()
    page.locator("#known").get_by_role("button", name="owl", exact=True).click()
    expect(page.get_by_label("target", exact=True)).to_have_value("a owl on the beach")
    expect(page.locator("#aligned")).not_to_contain_text("never seen")
    assert page.locator("#known").get_by_role("button").count() == 0
    assert page.evaluate("document.activeElement.id") == "known-title"
    page.get_by_text("words that this model knows").click()
    done(page)


def test_cancel_ends_a_long_run_and_the_next_one_works(page):
    page.evaluate("hash => { location.hash = hash }", link({**FIRST, "steps": 100, "seed": 11}))
    expect(page.locator("#step")).to_contain_text("of 100", timeout=PATIENCE)
    expect(page.locator("#picture-edit")).to_have_attribute(
        "aria-label", re.compile("as it looks at step"), timeout=PATIENCE
    )
    page.get_by_role("button", name="dog", exact=True).hover()
    label = page.locator("#picture-edit").get_attribute("aria-label")
    assert "as it looks" in label  # and no map over the picture before
    save = page.get_by_role("button", name="Save picture")
    expect(save).to_be_disabled()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#status")).to_have_text("Cancelled.")
    assert page.evaluate("document.activeElement.id") == "make"
    expect(save).to_be_enabled()  # the pictures before are here again
    label = page.locator("#picture-edit").get_attribute("aria-label")
    assert "as it looks" not in label
    set_to(page, FIRST)
    assert page.get_by_role("button", name="Cancel").is_disabled()


def test_a_setting_that_cannot_be_ends_the_run_and_leaves_the_last_pictures(page, tmp_path):
    set_to(page, {**FIRST, "seed": 4})
    before = picture(page, "edit")
    page.evaluate("hash => { location.hash = hash }", link({**FIRST, "steps": 100, "seed": 12}))
    expect(page.locator("#step")).to_contain_text("of 100", timeout=PATIENCE)
    write(page, "target", " ")
    expect(page.get_by_role("alert")).to_contain_text("The target is empty")
    expect(page.get_by_role("button", name="Cancel")).to_be_disabled()
    assert (picture(page, "edit") == before).all()
    assert saved(page, tmp_path / "dog.png")["seed"] == 4
    set_to(page, FIRST)


def test_a_saved_picture_says_what_made_it(page, tmp_path):
    set_to(page, {**FIRST, "weights": [["dog", 2]], "blend": "dog"})
    said = saved(page, tmp_path / "dog.png")
    wanted = p2p.Replace(cross_steps=0.8, self_steps=0.4) | p2p.Reweight({"dog": 2})
    assert p2p.read_edit(said["edit"]) == wanted
    assert (said["source"], said["target"], said["seed"]) == (CAT, DOG, 3)
    assert said["local_blend"] == ["dog"] and "inversion" not in said


def test_no_request_leaves_the_host_and_threads_are_allowed(opened, address):
    page, asked = opened
    assert asked and all(url.startswith((address, "data:", "blob:")) for url in asked)
    assert page.evaluate("crossOriginIsolated")
    assert int(page.evaluate("document.body.dataset.loaded").rpartition(" ")[2]) == min(cores(), 4)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_every_control_has_a_name(page, scheme):
    page.set_viewport_size({"width": 390, "height": 844})
    page.emulate_media(color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    bare = """[...document.querySelectorAll('input, select, button, canvas, progress')].filter(e => !e.hidden
        && !e.labels?.length && !e.ariaLabel && !e.getAttribute('aria-label') && !e.textContent.trim()).map(e => e.outerHTML)"""
    assert page.evaluate(bare) == []
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.evaluate("scrollTo(0, 0)")
    page.screenshot(path=SHOTS / f"playground-390-{scheme}.png", full_page=True)
    page.set_viewport_size({"width": 1280, "height": 900})
    page.screenshot(path=SHOTS / f"playground-1280-{scheme}.png")


def test_it_works_without_a_network_once_it_was_there(page):
    set_to(page, FIRST)
    page.context.set_offline(True)
    try:
        page.reload()
        done(page)
    finally:
        page.context.set_offline(False)


def test_one_thread_gives_the_same_pictures(page, browser, address):
    set_to(page, FIRST)
    wanted = [picture(page, name) for name in NAMES]
    context = browser.new_context(service_workers="block")
    other = context.new_page()
    other.set_default_timeout(PATIENCE)
    other.goto(f"{address}index.html#{link(FIRST)}")
    done(other)
    assert other.evaluate("document.body.dataset.loaded").endswith("threads: 1")
    assert other.text_content("#status").endswith("s on 1 thread.")
    compare(other, wanted)
    context.close()


def test_a_browser_without_webassembly_is_a_sentence(browser, address):
    context = browser.new_context(service_workers="block")
    page = context.new_page()
    page.add_init_script("delete window.WebAssembly")
    page.goto(f"{address}index.html")
    expect(page.get_by_role("alert")).to_contain_text("does not run WebAssembly")
    assert page.locator("#unstarted").count() == 0
    context.close()


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("**/unet.onnx", "unet.onnx did not come.*Check the connection"),
        ("**/ort*", "A part of the editor did not come. Check the connection"),
    ],
)
def test_what_does_not_come_is_a_sentence(browser, address, lost, said):
    context = browser.new_context(service_workers="block")
    page = context.new_page()
    page.route(lost, lambda route: route.abort())
    page.goto(f"{address}index.html")
    expect(page.get_by_role("alert")).to_contain_text(re.compile(said), timeout=PATIENCE)
    context.close()
