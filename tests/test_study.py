"""Blind comparisons: the page, votes in real browsers, a server that is killed, and what the votes say."""

import dataclasses
import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

import p2p_helpers as p2p
from p2p_helpers.voting import Comparison, study, study_results
from p2p_helpers.voting.server import serve, store, stored

from .playground import barriers

COLOURS = {"good": (0, 160, 0), "bad": (160, 0, 0), "worse": (0, 0, 160)}


def comparisons(count=3, methods=("good", "bad")):
    """Pictures of one colour for each method."""
    pictures = {name: Image.new("RGB", (16, 16), COLOURS[name]) for name in methods}
    return [Comparison(f"edit {n}", pictures, Image.new("RGB", (16, 16))) for n in range(count)]


@pytest.fixture
def folder(tmp_path):
    study(comparisons(), tmp_path)
    return tmp_path


def votes(folder, voter, choose):
    """Votes of one voter; `choose` gives the number of the picture, or None, from the methods."""
    key = json.loads((folder / "key.json").read_text())
    found = []
    for item, methods in enumerate(key["items"]):
        for left in range(len(methods)):
            for right in range(left + 1, len(methods)):
                chosen = choose(methods[left], methods[right])
                choice = {None: "same", methods[left]: "left", methods[right]: "right"}[chosen]
                found.append(
                    {
                        "study": key["study"],
                        "voter": voter,
                        "item": item,
                        "left": left,
                        "right": right,
                        "choice": choice,
                    }
                )
    return found


def test_the_page_does_not_say_which_is_which(folder):
    page = (folder / "index.html").read_text()
    assert "good" not in page and "bad" not in page and "http://" not in page
    items = json.loads((folder / "key.json").read_text())["items"]
    assert all(sorted(item) == ["bad", "good"] for item in items)


@pytest.mark.parametrize("odd", ["</script>", "a cat <!-- <script>"])
def test_a_text_does_not_end_the_pages_script(tmp_path, odd):
    study([dataclasses.replace(one, what=odd) for one in comparisons(2)], tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert page.count(odd) == (odd == "</script>")  # the page's own
    assert odd.replace("<", "\\u003c") in page


def test_votes_of_an_older_study_are_named(folder, tmp_path):
    store(folder, votes(folder, "me", lambda a, b: a))
    old = votes(folder, "you", lambda a, b: b)
    (folder / "key.json").unlink()
    study(comparisons(4), folder)
    with pytest.raises(p2p.InputError, match="holds no votes yet"):
        study_results(folder)
    (folder / "votes-you.json").write_text(json.dumps(old))
    with pytest.raises(p2p.InputError, match="votes-you.json: This is no vote.*Remove it"):
        study_results(folder)
    taken = tmp_path / "taken"
    taken.write_text("")
    with pytest.raises(p2p.InputError, match="cannot be written"):
        study(comparisons(), taken)


def test_what_votes_say(folder):
    for number in range(10):
        store(folder, votes(folder, f"voter {number}", lambda a, b: "good"))
    store(folder, votes(folder, "undecided", lambda a, b: None))
    found = study_results(folder)
    (one,) = found.preferences
    assert (found.votes, found.voters) == (33, 11)
    assert (one.first, one.wins, one.losses, one.ties) == ("good", 30, 0, 3)
    assert one.share == 1.0 and one.low == pytest.approx(0.8865, abs=1e-3) and one.p < 1e-6
    assert found.strengths["good"] > 1 > found.strengths["bad"]
    assert found.agreement[0] == pytest.approx(3 * 45 / (3 * 55))
    assert "good over bad: 100%" in str(found) and found.plot().axes


def test_strengths_follow_bradley_and_terry(tmp_path):
    """With p(i over j) = s_i / (s_i + s_j) the strengths come out as the logarithms of s."""
    study(comparisons(1, ("good", "bad", "worse")), tmp_path)
    strong = {"good": 4.0, "bad": 2.0, "worse": 1.0}
    random = np.random.default_rng(0)
    for number in range(600):
        store(
            tmp_path,
            votes(
                tmp_path,
                str(number),
                lambda a, b: a if random.random() < strong[a] / (strong[a] + strong[b]) else b,
            ),
        )
    found = study_results(tmp_path).strengths
    assert found["good"] - found["worse"] == pytest.approx(np.log(4), abs=0.2)
    assert found["bad"] - found["worse"] == pytest.approx(np.log(2), abs=0.2)


def test_a_tie_is_half_a_win_for_each(tmp_path):
    """And every pair has half a win more each way than was voted."""
    study(comparisons(1), tmp_path)
    for voters, chosen in ((range(10), "good"), (range(10, 30), None)):
        each = (votes(tmp_path, str(n), lambda a, b, chosen=chosen: chosen) for n in voters)
        store(tmp_path, [vote for own in each for vote in own])
    found = study_results(tmp_path).strengths
    assert found["good"] - found["bad"] == pytest.approx(np.log(20.5 / 10.5), abs=1e-3)


def test_votes_count_once_and_downloads_count_too(folder):
    mine = votes(folder, "me", lambda a, b: "bad")
    store(folder, mine)
    store(folder, mine)
    (folder / "votes-you.json").write_text(json.dumps(votes(folder, "you", lambda a, b: "good")))
    (folder / "votes-me.json").write_text(json.dumps(mine))
    assert (study_results(folder).votes, study_results(folder).voters) == (6, 2)
    other = votes(folder, "me", lambda a, b: "good")
    (folder / "votes-me.json").write_text(json.dumps(other))
    (one,) = study_results(folder).preferences
    assert (one.wins, one.losses) == (3, 3)  # the vote that was stored first counts


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    "changed",
    [
        {"study": "other"},
        {"item": 99},
        {"left": 7},
        {"right": 0, "left": 0},
        {"choice": "up"},
        {"item": float("inf")},
    ],
    ids=str,
)
def test_what_is_no_vote_is_refused(folder, changed):
    vote = votes(folder, "me", lambda a, b: a)[0]
    with pytest.raises(p2p.InputError, match="no vote of this study"):
        store(folder, [{**vote, **changed}])
    with pytest.raises(p2p.InputError, match="no vote"):
        store(folder, ["nothing"])


@pytest.mark.usefixtures("untyped")
def test_what_is_no_study_is_refused(tmp_path):
    with pytest.raises(p2p.InputError, match="nothing to compare"):
        study([], tmp_path)
    with pytest.raises(p2p.InputError, match="two are needed"):
        study(comparisons(1, ("good",)), tmp_path)
    with pytest.raises(p2p.InputError, match="the same methods"):
        study([*comparisons(1), *comparisons(1, ("good", "worse"))], tmp_path)
    with pytest.raises(p2p.InputError, match="no study"):
        study_results(tmp_path)
    study(comparisons(), tmp_path)
    with pytest.raises(p2p.InputError, match="no votes yet"):
        study_results(tmp_path)
    store(tmp_path, votes(tmp_path, "me", lambda a, b: a))
    for file in ("votes.sqlite", "votes-me.json"):
        with pytest.raises(p2p.InputError, match="another study"):
            study(comparisons(5), tmp_path)
        (tmp_path / "votes-me.json").write_text("[]")
        (tmp_path / file).unlink()
    study(comparisons(5), tmp_path)


BLACK = Image.new("RGB", (16, 16))


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("x", [BLACK, BLACK]), "edits=.*by their names"),
        (("x", {1: BLACK, 2: BLACK}), "edits=.*by their names"),
        (({"a": BLACK, "b": BLACK}, BLACK), "what=.*say in words"),
        (("x", {"a": "a.png", "b": "b.png"}), "'a' of 'x' is 'a.png'; give a picture"),
        (("x", {"a": BLACK, "b": [BLACK]}), "'b' of 'x' is .*; give a picture"),
        (("x", {"a": BLACK, "b": BLACK}, "before.png"), "source='before.png': give the picture"),
    ],
)
def test_what_is_no_comparison_is_refused(given, says):
    with pytest.raises(p2p.InputError, match=says):
        Comparison(*given)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    "given", [comparisons(1)[0], "study.json", None, [{"a": BLACK, "b": BLACK}]]
)
def test_a_study_is_of_a_list_of_comparisons(tmp_path, given):
    with pytest.raises(p2p.InputError, match="comparisons=.*give a list of Comparison"):
        study(given, tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_damaged_study_is_made_once_more_and_keeps_its_votes(folder, text):
    store(folder, votes(folder, "me", lambda a, b: "good"))
    found = study_results(folder)
    (folder / "key.json").write_text(text)
    for use in (lambda: study_results(folder), lambda: serve(folder, port=0)):
        with pytest.raises(p2p.InputError, match="key.json is damaged. Make the study"):
            use()
    study(comparisons(), folder)
    assert study_results(folder) == found


def test_votes_that_cannot_be_read_are_said(folder):
    (folder / "votes.sqlite").write_text("no database" * 100)
    for use in (lambda: study_results(folder), lambda: serve(folder, port=0)):
        with pytest.raises(p2p.InputError, match="votes.sqlite cannot be read: .*Take a copy"):
            use()


@pytest.fixture
def served(folder):
    server = serve(folder, port=0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_port_that_is_taken_is_a_message(served):
    folder, address = served
    for port in (int(address.split(":")[-1].strip("/")), 99_999):
        with pytest.raises(
            p2p.InputError, match=f"served at 127.0.0.1:{port}.*Take another port or host"
        ):
            serve(folder, port=port)


@pytest.mark.usefixtures("untyped")
def test_the_server_gives_the_page_and_not_the_key(served):
    folder, address = served
    assert urllib.request.urlopen(address).read() == (folder / "index.html").read_bytes()
    for path in ("key.json", "votes.sqlite", "../key.json"):
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(address + path)
        assert error.value.code == 404
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(address + "votes", data=b"[1]")
    assert error.value.code == 400


def test_three_voters_at_once(browser, served):
    folder, address = served
    pages = [browser.new_context().new_page() for _ in range(3)]
    for page in pages:
        page.goto(address)
    for _ in range(3):
        for page, key in zip(pages, ("ArrowLeft", "ArrowRight", "ArrowDown"), strict=True):
            page.keyboard.press(key)
    for page in pages:
        expect(page.get_by_text("Thank you")).to_be_visible()
        expect(page.get_by_role("status")).to_have_text("3 of 3 judged")
        expect(page.get_by_text("Your votes are stored")).to_be_visible()
    assert len(stored(folder)) == 9 and study_results(folder).voters == 3
    with pages[0].expect_download() as download:
        pages[0].get_by_role("button", name="Download").click()
    assert len(json.loads(download.value.path().read_text())) == 3
    for page in pages:
        page.context.close()


def shown(page):
    """What a page asks, in its order, and which picture stands left."""
    return page.evaluate("pairs.map(([item, left]) => [item, left])")


def test_sides_and_order_are_another_for_every_voter(browser, tmp_path):
    study(comparisons(8), tmp_path)
    pages = [browser.new_context().new_page() for _ in range(6)]
    for page in pages:
        page.goto((tmp_path / "index.html").as_uri())
    asked = [shown(page) for page in pages]
    assert all(sorted(item for item, _ in one) == list(range(8)) for one in asked)
    assert len({str([item for item, _ in one]) for one in asked}) > 3  # orders
    assert {left for one in asked for _, left in one} == {0, 1}  # sides
    pages[0].reload()
    assert shown(pages[0]) == asked[0]
    for page in pages:
        page.context.close()


def test_the_next_voter_on_one_machine_is_another(browser, served):
    folder, address = served
    page = browser.new_context().new_page()
    page.goto(address)
    following = page.get_by_role("button", name="The next voter")
    expect(following).to_be_hidden()
    for _ in range(2):
        for _ in range(3):
            page.keyboard.press("ArrowLeft")
        following.click()
        expect(page.get_by_role("status")).to_have_text("0 of 3 judged")
    assert len(stored(folder)) == 6 and study_results(folder).voters == 2
    page.context.close()


def test_a_page_without_storage_or_of_another_study_says_what_to_do(browser, served):
    folder, address = served
    context = browser.new_context()
    context.add_init_script(
        "Object.defineProperty(window, 'localStorage', { get() { throw new Error('blocked') } })"
    )
    page = context.new_page()
    page.goto(address)
    key = json.loads((folder / "key.json").read_text())
    (folder / "key.json").write_text(json.dumps({**key, "study": "another"}))
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("status")).to_contain_text("The server does not take them")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    assert len(json.loads(download.value.path().read_text())) == 1
    context.close()


@pytest.mark.parametrize("content", ["not json", '{"votes": []}', ""])
def test_a_file_of_no_votes_is_named(folder, content):
    (folder / "votes-me.json").write_text(content)
    with pytest.raises(p2p.InputError, match=r"votes-me\.json.*Ask its voter again"):
        study_results(folder)


def test_agreement_is_beside_what_chance_gives(folder):
    """Two always choose the good one, one always the bad one: a third of the pairs agree, and 4/9 + 1/9 would by chance."""
    for voter, chosen in (("a", "good"), ("b", "good"), ("c", "bad")):
        store(folder, votes(folder, voter, lambda *pair, chosen=chosen: chosen))
    seen, chance = study_results(folder).agreement
    assert seen == pytest.approx(1 / 3)
    key = json.loads((folder / "key.json").read_text())["items"]
    first = sum(2 if item[0] == "good" else 1 for item in key) / 9
    assert chance == pytest.approx(first**2 + (1 - first) ** 2)


def test_on_a_phone_the_two_pictures_stand_side_by_side(browser, folder):
    context = browser.new_context(viewport={"width": 390, "height": 844})
    page = context.new_page()
    page.goto((folder / "index.html").as_uri())
    left, right = (page.locator(f"#{name} img").bounding_box() for name in ("left", "right"))
    assert left["y"] == right["y"] and left["width"] == right["width"]
    assert right["x"] + right["width"] <= 390
    assert not barriers(page)
    for _ in range(3):
        page.get_by_role("button", name="no difference").click()
    assert not barriers(page)
    expect(page.get_by_text("download your votes and send the file")).to_be_visible()
    context.close()


def test_nothing_is_lost_when_the_server_is_killed(browser, folder):
    def start(port=0):
        command = [
            sys.executable,
            "-m",
            "p2p_helpers",
            "study",
            "serve",
            str(folder),
            "--port",
            str(port),
        ]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        return process, process.stdout.readline().split()[0]

    process, address = start()
    page = browser.new_context().new_page()
    page.goto(address)
    page.get_by_role("button", name="left").click()
    expect(page.get_by_role("status")).to_have_text("1 of 3 judged")
    process.kill()
    process.wait()
    page.get_by_role("button", name="right").click()
    expect(page.get_by_role("status")).to_have_text("2 of 3 judged, 1 not stored yet")
    assert len(stored(folder)) == 1
    again, _ = start(int(address.rstrip("/").rpartition(":")[2]))
    try:
        expect(page.get_by_role("status")).to_have_text("2 of 3 judged", timeout=20_000)
        page.reload()
        expect(page.get_by_role("status")).to_have_text("2 of 3 judged")  # it goes on where it was
        assert len(stored(folder)) == 2
    finally:
        again.kill()
        again.wait()
        page.context.close()
