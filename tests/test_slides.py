"""The slides: the talk's minutes and sections, the notes, and that nothing comes from a network."""

import re
from pathlib import Path

import pytest

pytest.importorskip("sphinx_revealjs")
from teaching import slides

HALVES = slides.talk(slides.TALK.read_text(encoding="utf-8"))


@pytest.mark.parametrize("half", HALVES, ids=["first", "second"])
def test_its_minutes_follow_one_another(half):
    assert half[0].start == 0 and half[-1].end == 45
    assert [one.end for one in half[:-1]] == [one.start for one in half[1:]]
    for one in half:
        assert one.sections and len(one.notes) > 60, one.title


def test_there_are_two_halves():
    assert len(HALVES) == 2


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """All decks: name → file."""
    folder = tmp_path_factory.mktemp("slides")
    return {path.stem: path for path in slides.write(folder)}


def test_every_section_of_the_talk_is_in_its_deck(written):
    for number, half in enumerate(HALVES, 1):
        page = written[f"talk-{number}"].read_text(encoding="utf-8")
        assert page.count('class="notes"') >= len(half)
        for one in half:
            assert f"<strong>{one.start}–{one.end} minutes.</strong>" in page


def test_exercises_and_badges_are_not_shown_and_formulas_are(written):
    page = written["02_word_swap"].read_text(encoding="utf-8")
    assert "Exercise 1" not in page and "badges/" not in page
    assert "OpenWordSwap" in page and "<msub><mi>A</mi>" in page
    assert not re.search(r"MATH[DI]|\$\$", page)


@pytest.mark.parametrize("name", ["talk-1", "talk-2", "02_word_swap", "11_capstone"])
def test_a_deck_is_shown_from_its_file_and_asks_for_nothing_else(written, browser, name):
    tab = browser.new_page()
    asked, wrong = [], []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("requestfailed", lambda request: wrong.append(request.url[:100]))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.goto(written[name].as_uri())
    tab.wait_for_function("Reveal.isReady()")
    assert tab.evaluate("Reveal.getTotalSlides()") > 8
    broken = "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
    assert tab.evaluate(broken) == []
    folder = Path(written[name]).parent.as_uri()
    assert [url for url in asked if not url.startswith((folder, "data:", "about:"))] == []
    assert wrong == []
    if name.startswith("talk"):
        first = HALVES[int(name[-1]) - 1][0]
        tab.keyboard.press("Space")
        notes = tab.evaluate("Reveal.getSlideNotes()")
        assert f"{first.start}–{first.end} minutes" in notes and first.notes[:20] in notes
    tab.close()
