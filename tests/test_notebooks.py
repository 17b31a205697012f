"""What every notebook of the course has: its front, its thread, exercises with solutions, links that lead somewhere, words spelt right."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from p2p_helpers.course.cells import ONLY, skip_elsewhere
from teaching.badges import repository, with_badges

ROOT = Path(__file__).parent.parent
ALL = sorted([*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("notebooks/solutions/*.ipynb")])
COURSE = sorted(ROOT.glob("notebooks/[0-9]*.ipynb"))
TEXTS = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/*.md"),
    *ROOT.glob("teaching/*.md"),
    ROOT / "notebooks" / "GLOSSARY.md",
    ROOT / "data" / "toyland" / "MODEL_CARD.md",
]
SOURCE = repository()


def cells(path, kind=None):
    found = json.loads(path.read_text())["cells"]
    return [{**c, "source": "".join(c["source"])} for c in found if kind in (None, c["cell_type"])]


def prose(path):
    """The words of a page or of a notebook's cells of text."""
    return (
        path.read_text()
        if path.suffix == ".md"
        else "\n\n".join(c["source"] for c in cells(path, "markdown"))
    )


def each(paths):
    return pytest.mark.parametrize(
        "path", paths, ids=lambda path: "-".join(path.relative_to(ROOT).with_suffix("").parts[-2:])
    )


@each(ALL)
def test_it_is_executed_and_its_figures_have_a_text_alternative(path):
    found = cells(path, "code")
    assert [c["execution_count"] for c in found] == list(range(1, len(found) + 1)), (
        "run it from the top: make notebooks"
    )
    for cell in found:
        if any("image/png" in output.get("data", {}) for output in cell["outputs"]):
            said = cell["metadata"].get("alt", "")
            assert len(set(said.split())) > 4, f"no alt text: {cell['source'][:80]}"


@each(COURSE)
def test_what_is_skipped_elsewhere_makes_nothing_that_other_cells_use(path):
    skipped, made = set(), set()
    for cell in cells(path, "code"):
        source = re.sub(r"^(\s*)[%!].*$", r"\1pass", cell["source"], flags=re.MULTILINE)
        tree = ast.walk(ast.parse(source))
        bound, used = set(), set()
        for node in tree:
            if isinstance(node, ast.Name):
                (used if isinstance(node.ctx, ast.Load) else bound).add(node.id)
            elif isinstance(node, ast.arg):
                bound.add(node.arg)
            elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.alias):
                bound.add(getattr(node, "asname", None) or node.name)
        if source.startswith(ONLY):
            skipped |= bound
            continue
        made |= bound
        lost = used & skipped - made
        assert not lost, f"{lost} where nothing is skipped: {cell['source'][:80]}"


def test_badges_stand_below_the_heading_and_replace_older_ones():
    title = "# Word swap\n\nOne word changes.\n\nMore."
    older = with_badges(title, "notebooks/02.ipynb", "owner/old")
    badged = with_badges(older, "notebooks/02.ipynb", "owner/name")
    heading, badges, rest = badged.split("\n\n", 2)
    assert f"{heading}\n\n{rest}" == title
    assert re.findall(r"\]\((https://.+?)\)", badges) == [
        "https://colab.research.google.com/github/owner/name/blob/main/notebooks/02.ipynb",
        "https://mybinder.org/v2/gh/owner/name/main?urlpath=lab/tree/notebooks/02.ipynb",
    ]


@each(COURSE)
def test_its_front(path):
    (title, *_), (install, parameters, setup, *_) = cells(path), cells(path, "code")
    for row in ("You will be able to", "You need", "Time", "Model"):
        assert f"| {row} |" in title["source"]
    assert (
        f"git+https://github.com/{SOURCE}" in install["source"]
        and 'find_spec("p2p_helpers") is None' in install["source"]
    )
    assert parameters["metadata"]["tags"] == ["parameters"] and re.search(
        r'os.environ.get\("P2P_MODEL", "toyland', parameters["source"]
    )
    assert (
        "%load_ext p2p_helpers.course" in setup["source"]
        and "load_pipeline(MODEL)" in setup["source"]
    )


@each(COURSE)
def test_its_thread_and_its_end(path):
    code, text = "\n".join(c["source"] for c in cells(path, "code")), prose(path)
    if "02" < path.stem < "05":  # each brings a new kind of edit
        assert "show_edit(" in code, "it does not print S and T of its own prompts"
    assert re.search(r"## \d+\. (Where (it|they) fails?|Where)", text), (
        "it does not show where the method fails"
    )
    recap = re.search(r"## \d+\. Recap\n(.*)", text, re.S).group(1)
    assert recap.count("\n- ") == 5
    assert "GLOSSARY.md" in recap


@each(COURSE)
def test_its_exercises_have_checks_hints_and_solutions(path):
    text = prose(path)
    exercises = re.findall(r"\*\*Exercise (\d)\*\* \((★+☆*), (\d+) minutes\)", text)
    assert [int(number) for number, *_ in exercises] == list(range(1, len(exercises) + 1))
    assert 3 <= len(exercises) <= 5
    assert all(len(stars) == 3 for _, stars, _ in exercises)
    assert text.count("<summary>Hint</summary>") == len(exercises)
    starts = [c for c in cells(path, "code") if re.search(r"# change me|_ = None", c["source"])]
    said = ["".join("".join(o.get("text", "")) for o in c["outputs"]) for c in starts]
    assert len(starts) == len(exercises) and all(s.startswith("not yet:") for s in said), said
    solved = cells(path.parent / "solutions" / path.name, "code")
    ticks = sum(
        "".join("".join(o.get("text", "")) for o in c["outputs"]).count("✓") for c in solved
    )
    assert ticks >= len(exercises)


def links(path):
    """Relative links and pictures of a text."""
    return [
        link
        for link in re.findall(r"\]\(([^)\s]+)\)", prose(path))
        if not re.match(r"[a-z]+:|#", link)
    ]


@each([*ALL, *TEXTS])
def test_links_lead_somewhere(path):
    for link in links(path):
        assert (path.parent / link.split("#")[0]).exists(), link


def test_words_are_spelt_right():
    pytest.importorskip("codespell_lib")
    code = [
        *ROOT.glob("p2p_helpers/**/*.py"),
        *ROOT.glob("tests/*.py"),
        *ROOT.glob("benchmarks/*.py"),
        *ROOT.glob("teaching/*.py"),
    ]
    text = "\n".join(
        [*(prose(path) for path in [*ALL, *TEXTS]), *(path.read_text() for path in code)]
    )
    found = subprocess.run(
        [sys.executable, "-m", "codespell_lib", "-"], input=text, capture_output=True, text=True
    )
    assert not found.stdout, found.stdout


@each(COURSE)
def test_every_cell_says_how_slides_show_it(path):
    kinds = [c["metadata"].get("slideshow", {}).get("slide_type") for c in cells(path)]
    assert {"slide", "skip"} <= set(kinds) and all(kinds)


def test_a_cell_for_toyland_only_skips_itself_on_another_model():
    cell = [f"{ONLY}: the reader judges\n", "1 / 0\n"]
    assert skip_elsewhere(cell, {}) == skip_elsewhere(cell, {"MODEL": "toyland"}) == cell
    (line,) = skip_elsewhere(cell, {"MODEL": "owner/it's"})
    said = []
    exec(line, {"print": said.append})
    assert said == ["Skipped on owner/it's: the reader judges"]
    assert skip_elsewhere(["1 + 1\n"], {"MODEL": "owner/name"}) == ["1 + 1\n"]
