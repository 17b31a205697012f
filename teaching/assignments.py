"""The exercises as assignments for nbgrader, without solutions: `python -m teaching.assignments`.

Every exercise becomes three cells: the answer, which the student changes; the check, which is locked
and gives the points; and one sentence, which a person reads. The folder is a course of nbgrader's:
`nbgrader generate_assignment 02_word_swap` in it writes what the students get.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import nbformat

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
EXERCISE = re.compile(r"\*\*Exercise (\d)\*\* \((★+)☆*, \d+ minutes\)")
CHECK = re.compile(
    r"^try:\n((?:    .*\n)+)except NotYet as hint:\n    print\(\"not yet:\", hint\)\n?", re.M
)
IMPORT = re.compile(r"^from p2p_helpers\.course\.checks import (?:\([^)]*\)|.*)\n+", re.M)
ONLY = re.compile(r"# Toyland only.*\n")
RUBRIC = Path(__file__).parent / "rubrics.md"
ROW = re.compile(r"^\| (\d\d\.\d) \|[^|]*\|[^|]*\| ([^|]+) \|$", re.M)
CONFIG = '''"""One exercise sheet for each notebook. The sheets hold no solutions, so none has to be cleared."""

c = get_config()
c.CourseDirectory.course_id = "p2p"
c.ClearSolutions.enabled = False
c.ExecutePreprocessor.timeout = 600
'''


def graded(kind: str, name: str, points: int = 0) -> dict:
    """What nbgrader keeps in a cell's metadata.

    Args:
        kind: "answer", which is not graded by itself; "check", which is locked; or "sentence".
        name: of the cell, once in a notebook.
        points: of a check or a sentence.
    """
    said = {
        "schema_version": 3,
        "grade_id": name,
        "grade": kind != "answer",
        "solution": kind != "check",
        "locked": kind == "check",
        "task": False,
    }
    return said | ({} if kind == "answer" else {"points": points})


def assignment(notebook, chapter: str):
    """A notebook of the course, a chapter as "02", as an assignment: a new notebook without outputs.

    Raises:
        ValueError: a cell with an answer does not end in a check, or the exercises are not numbered.
    """
    cells, number, stars, imports, asked = [], 0, 0, "", questions()
    for old in notebook.cells:
        cell = nbformat.from_dict(old)
        cell.metadata = {}
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\n*Solutions: \[.*", "", cell.source)
            for found in EXERCISE.finditer(cell.source):
                number, stars = int(found[1]), len(found[2])
            cells.append(cell)
            continue
        cell.outputs, cell.execution_count = [], None
        imports = next(iter(IMPORT.findall(cell.source)), imports)
        found = CHECK.search(cell.source)
        if found is None:
            if "# change me" in cell.source:
                raise ValueError(f"No check in the exercise's cell: {cell.source[:80]}")
            cells.append(cell)
            continue
        if not number:
            raise ValueError(f"No exercise stands above the check {found[0][:80]}")
        question = asked[f"{chapter}.{number}"]
        cells += _split(cell, found, imports, f"exercise-{number}", stars, question)
    made = nbformat.v4.new_notebook(cells=cells, metadata=notebook.metadata)
    nbformat.validate(made)
    return made


def questions() -> dict[str, str]:
    """The question of each exercise, by its place as in 02.1, from the rubric."""
    return dict(ROW.findall(RUBRIC.read_text(encoding="utf-8")))


def _split(cell, found: re.Match, imports: str, name: str, stars: int, question: str) -> list:
    """The answer's cell, the check's and the sentence's."""
    only = ONLY.match(cell.source)
    answer = CHECK.sub("", IMPORT.sub("", cell.source)).rstrip()
    check = re.sub("^    ", "", found[1], flags=re.M).rstrip()
    cell.source = answer
    cell.metadata["nbgrader"] = graded("answer", name)
    head = (only[0] if only else "") + re.sub(r"NotYet,\s*", "", imports.rstrip())
    test = nbformat.v4.new_code_cell(f"{head}\n\n{check}", id=f"{name}-check")
    test.metadata["nbgrader"] = graded("check", f"{name}-check", stars)
    words = nbformat.v4.new_markdown_cell(
        f"**In one sentence:** {question}\n\n", id=f"{name}-sentence"
    )
    words.metadata["nbgrader"] = graded("sentence", f"{name}-sentence", 1)
    return [cell, test, words]


def write(folder: Path) -> list[Path]:
    """Write nbgrader's course folder: its settings, and one assignment for each notebook."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nbgrader_config.py").write_text(CONFIG, encoding="utf-8")
    written = []
    for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb")):
        place = folder / "source" / path.stem / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        made = assignment(nbformat.read(path, as_version=4), path.stem[:2])
        nbformat.write(made, place)
        written.append(place)
    return written


if __name__ == "__main__":
    for path in write(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/nbgrader")):
        print(path)
