"""The exercises as assignments for nbgrader: valid, without outputs and solutions, with the rubric's points."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from p2p_helpers.course.checks import NotYet
from teaching.assignments import assignment, write

ROOT = Path(__file__).parent.parent
COURSE = sorted(ROOT.glob("notebooks/[0-9]*.ipynb"))
POINTS = {
    place: int(points)
    for place, points in re.findall(
        r"^\| (\d\d\.\d) \| [^|]+ \| (\d) \|",
        (ROOT / "teaching/rubrics.md").read_text("utf-8"),
        re.M,
    )
}
each = pytest.mark.parametrize("path", COURSE, ids=lambda path: path.stem)


def made(path):
    return assignment(nbformat.read(path, as_version=4), path.stem[:2])


def graded(notebook):
    """The cells that nbgrader knows, by their name."""
    cells = [cell for cell in notebook.cells if "nbgrader" in cell.metadata]
    return {cell.metadata.nbgrader.grade_id: cell for cell in cells}


@each
def test_nbgrader_takes_it(path):
    validator = pytest.importorskip("nbgrader.nbgraderformat").MetadataValidator()
    validator.validate_nb(made(path))


@each
def test_its_points_are_those_of_the_rubric(path):
    cells = graded(made(path))
    for name in (name for name in cells if re.fullmatch(r"exercise-\d", name)):
        place = f"{path.stem[:2]}.{name[-1]}"
        assert cells[f"{name}-check"].metadata.nbgrader.points == POINTS[place], place
        sentence = cells[f"{name}-sentence"]
        assert sentence.metadata.nbgrader.points == 1 and sentence.source.strip().endswith("?")
        assert not cells[name].metadata.nbgrader.locked
        assert cells[f"{name}-check"].metadata.nbgrader.locked
    found = {f"{path.stem[:2]}.{name[-1]}" for name in cells if name[-1].isdigit()}
    assert found == {place for place in POINTS if place.startswith(path.stem[:2])}


@each
def test_it_holds_no_output_and_no_solution(path):
    notebook = made(path)
    text = json.dumps(notebook, ensure_ascii=False)
    solved = json.loads((path.parent / "solutions" / path.name).read_text("utf-8"))["cells"]
    given = "".join(
        "".join(cell["source"]) for cell in json.loads(path.read_text("utf-8"))["cells"]
    )
    code = "".join("".join(c["source"]) + "\n" for c in solved if c["cell_type"] == "code")
    solution = [
        line
        for line in code.splitlines()
        if len(line) > 25 and line not in given and "import" not in line
    ]
    assert solution and not [line for line in solution if json.dumps(line)[1:-1] in text]
    assert "solutions/" not in text
    assert all(not c.outputs for c in notebook.cells if c.cell_type == "code")


def test_a_check_tells_a_wrong_answer_from_a_right_one():
    cells = graded(made(ROOT / "notebooks" / "10_moving_things.ipynb"))
    import torch

    scope = {"torch": torch}
    exec(cells["exercise-1"].source, scope)
    with pytest.raises(NotYet):
        exec(cells["exercise-1-check"].source, scope)
    scope["mine"] = lambda n, shift: torch.eye(n)[(torch.arange(n) - shift).clamp(min=0)]
    exec(cells["exercise-1-check"].source, scope)


def test_an_exercise_without_a_check_is_an_error():
    cell = nbformat.v4.new_code_cell("mine = 1  # change me")
    with pytest.raises(ValueError, match="No check"):
        assignment(nbformat.v4.new_notebook(cells=[cell]), "00")


def test_it_is_a_course_of_nbgraders(tmp_path):
    pytest.importorskip("nbgrader")
    assert len(write(tmp_path)) == len(COURSE)
    command = [sys.executable, "-m", "nbgrader", "generate_assignment", "02_word_swap"]
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # it calls alembic
    env = os.environ | {"PATH": tools}
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, env=env)
    release = nbformat.read(tmp_path / "release/02_word_swap/02_word_swap.ipynb", as_version=4)
    assert "# change me" in graded(release)["exercise-3"].source
