"""The explorer: one page without network, in a real browser."""

import base64
import json

import numpy as np
import pytest

import p2p_helpers as p2p

from .playground import barriers

SOURCE, TARGET = "a cat on the beach", "a dog on the beach"


@pytest.fixture(scope="module")
def result(toyland):
    return p2p.edit(toyland, SOURCE, TARGET, seed=3, steps=6, record=True, progress=False)


@pytest.fixture
def page(browser, result, tmp_path):
    """The saved page with the network off; any error in the console fails the test."""
    p2p.explore(result).save(tmp_path / "maps.html")
    context = browser.new_context(offline=True, viewport={"width": 800, "height": 600})
    page, errors = context.new_page(), []
    page.on(
        "console",
        lambda message: (
            errors.append(message.text) if message.type in ("error", "warning") else None
        ),
    )
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((tmp_path / "maps.html").as_uri())
    page.wait_for_function("pictures.every(picture => picture.complete)")
    yield page
    context.close()
    assert not errors


def picture(page):
    return page.evaluate("document.getElementById('picture').toDataURL()")


def test_the_page_is_small_and_alone(result):
    view = p2p.explore(result)
    assert len(view.page) < 1.5e6
    assert "http://" not in view.page and "https://" not in view.page
    assert "srcdoc" in view._repr_html_()
    same = p2p.explore(result.maps, [result.source, result.image])
    assert same.page == view.page
    turned = p2p.explore(result, [result.image, result.source])
    assert turned.page == p2p.explore(result.maps, [result.image, result.source]).page != view.page


def test_words_turned_to_the_negative_are_dark_and_tags_are_text(toyland):
    change = p2p.Replace() | p2p.Reweight({"cat": -2.0}, cross_steps=1.0)
    odd = "a cat <!-- <script>"
    with pytest.warns(p2p.UnknownWordWarning):
        maps = p2p.edit(toyland, odd, odd, change, steps=2, record=True, progress=False).maps
    assert maps.of(1)["cat"].tensor().max() < 0
    view = p2p.explore(maps, [maps["cat"].image()] * 2)
    assert "<!-- <script>" not in view.page
    data = json.JSONDecoder().raw_decode(view.page, view.page.index('{"grid"'))[0]
    target = data["prompts"][1]
    assert target["text"] == odd
    shown = np.frombuffer(base64.b64decode(target["maps"]), np.uint8).reshape(
        -1, len(target["words"]), *data["grid"]
    )
    assert not shown[0, target["words"].index("cat")].any() and shown[0, 1].any()


def test_what_cannot_be_explored(toyland, result):
    unrecorded = p2p.edit(toyland, SOURCE, TARGET, steps=1, progress=False)
    with pytest.raises(p2p.InputError, match="record=True"):
        p2p.explore(unrecorded)
    with pytest.raises(p2p.InputError, match="There are 2 prompts.*got 1"):
        p2p.explore(result.maps, [result.source])


def test_hovering_a_word_shows_its_map_and_leaving_takes_it_back(page):
    kept = picture(page)
    page.get_by_role("button", name="beach").hover()
    beach = picture(page)
    assert beach != kept
    assert page.inner_text("#said").startswith("“beach”: at most")
    page.mouse.move(5, 590)
    assert picture(page) == kept
    page.get_by_role("button", name="beach").click()
    page.mouse.move(5, 590)
    assert picture(page) == beach
    assert page.get_by_role("button", name="beach").get_attribute("aria-pressed") == "true"


def test_a_pixel_names_its_words_by_mouse_and_by_keyboard(page, result):
    box = page.locator("#picture").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 1.5 / 16, box["y"] + box["height"] * 2.5 / 16)
    assert page.inner_text("#said") == "Row 3, column 2 looks at:"
    shown = dict(line.rsplit("\n", 1) for line in page.locator(".bar").all_inner_texts())
    maps = result.maps.of(0)
    wanted = {heat.name: heat for heat in (maps.start, *maps.words, maps.end, maps.padding)}
    assert shown.keys() == wanted.keys()
    for name, heat in wanted.items():
        share = float(shown[name].split()[0])
        assert share == pytest.approx(100 * heat.numpy()[2, 1], abs=0.5), name
    page.locator("#picture").focus()
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#said") == "Row 3, column 3 looks at:"
    page.keyboard.press("Escape")
    assert "at most" in page.inner_text("#said")


def test_steps_layers_heads_and_the_other_picture(page):
    views = [picture(page)]
    page.select_option("#view", "step")
    views.append(picture(page))
    page.locator("#step").focus()
    page.keyboard.press("End")
    assert page.inner_text("#stepsaid") == "5"  # from 0, as in .at(step=)
    views.append(picture(page))
    page.select_option("#view", "layer")
    views.append(picture(page))
    page.select_option("#head", "2")
    views.append(picture(page))
    page.select_option("#prompt", "1")
    assert page.inner_text("#title") == TARGET
    views.append(picture(page))
    assert len(set(views)) == len(views)


def test_everything_is_reached_by_tab_and_seen(page):
    """Every word and choice takes the focus, and shows it."""
    names = []
    for _ in range(10):  # the picture, seven words, two choices
        page.keyboard.press("Tab")
        names.append(
            page.evaluate("document.activeElement.textContent || document.activeElement.id")
        )
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    for word in ("start", *SOURCE.split(), "end"):
        assert word in names


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_keeps_anyone_out(page, scheme):
    page.emulate_media(color_scheme=scheme)
    assert not barriers(page)


def test_a_slider_through_pictures(browser, result, tmp_path):
    pictures = [result.source, result.image, result.source]
    p2p.slider(pictures, [0, 0.5, "</script>"], "cross_steps", result.source).save(
        tmp_path / "slider.html"
    )
    context = browser.new_context(offline=True, viewport={"width": 340, "height": 400})
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((tmp_path / "slider.html").as_uri())
    place, after = page.get_by_role("slider", name="cross_steps"), page.locator("#after")
    assert after.get_attribute("alt") == "cross_steps = </script>"
    last = after.get_attribute("src")
    place.press("ArrowLeft")
    assert after.get_attribute("alt") == "cross_steps = 0.5"
    assert place.get_attribute("aria-valuetext") == "0.5"
    assert after.get_attribute("src") != last
    place.press("Home")
    assert after.get_attribute("src") == last == page.locator("#before").get_attribute("src")
    assert page.evaluate("document.documentElement.scrollWidth") <= 340
    assert not barriers(page)
    p2p.slider(pictures, [1, 2, 4], "guidance").save(tmp_path / "slider.html")
    page.reload()
    assert page.get_by_role("img").count() == 1
    context.close()
    assert not errors


def test_a_slider_needs_a_label_for_each_picture(result):
    for pictures, labels in (([result.image], [1]), ([result.image] * 2, [1])):
        with pytest.raises(p2p.InputError, match="one label for each"):
            p2p.slider(pictures, labels, "weight", result.source)
    one, same = (p2p.slider(kind([result.image] * 2), kind([0, 1]), "x") for kind in (list, iter))
    assert one.page == same.page
