"""The experiment of TEACHING.md, run as it is written, with few steps and two pictures."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

import p2p_helpers as p2p
from p2p_helpers.cli.app import app
from p2p_helpers.toyland import photos
from p2p_helpers.voting.server import store

from .test_study import votes

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "TEACHING.md").read_text(encoding="utf-8")
MAKE, READ = re.findall(r"```python\n(.*?)```", TEXT, re.S)


def made(folder, monkeypatch):
    """The folder of a study, made by the text's first block."""
    monkeypatch.chdir(folder)
    code = re.sub(r"STEPS = \d+", "STEPS = 2", MAKE)
    fewer = re.sub(r'(    "[a-z]+-[a-z]+": .*\n){4}\}', "}", code)
    assert fewer.count("-snow") == 2 and "STEPS = 2\n" in fewer
    exec(fewer, {})
    return folder / "inversion-study"


def test_the_experiment_runs_as_it_is_written(tmp_path, monkeypatch, capsys):
    folder = made(tmp_path, monkeypatch)
    for number in range(3):
        store(folder, votes(folder, f"voter {number}", lambda a, b: max(a, b)))
    scope = {"p2p": p2p}
    exec(READ, scope)
    assert (scope["results"].votes, scope["results"].voters) == (18, 3)  # 2 edits, 3 pairs
    assert scope["results"].strengths.keys() == {"ddim", "null-text", "direct"}
    assert "null-text over ddim: 100%" in capsys.readouterr().out
    (command,) = re.findall(r"`.venv/bin/p2p (study results .*)`", TEXT)
    said = CliRunner().invoke(app, shlex.split(command))
    assert said.exit_code == 0 and "null-text over ddim: 100%" in said.output


def test_its_command_serves_the_study(monkeypatch):
    (command,) = re.findall(r"^.venv/bin/p2p (study .*)$", TEXT, re.M)
    asked = []

    class Served:
        server_port = 8000

        def serve_forever(self):
            asked.append("served")

    def serve(*arguments):
        asked.append(arguments)
        return Served()

    monkeypatch.setattr("p2p_helpers.voting.server.serve", serve)
    assert CliRunner().invoke(app, shlex.split(command)).exit_code == 0
    assert asked == [(Path("inversion-study"), "0.0.0.0", 8000), "served"]


def test_its_edits_line_up(toyland):
    targets = re.findall(r'^    "([a-z-]+)": "(.+)",$', MAKE, re.M)
    assert len(targets) == 6
    for name, target in targets:
        p2p.replacement_matrix(toyland.tokenizer, photos()[name].prompt, target)
        assert not p2p.prompts.words.unknown_words(toyland.tokenizer, target), target


def test_its_interval_is_what_it_says():
    from scipy.stats import binomtest

    (said,) = re.findall(r"(\d+) votes, from (\d+) voters, give ±(\d+) %", TEXT)
    count, voters, half = map(int, said)
    edits = re.findall(r'^    "[a-z-]+": ".+",$', MAKE, re.M)
    assert count == voters * len(edits)  # each judges a pair of methods once for each edit
    low, high = binomtest(count // 2, count).proportion_ci(method="wilson")
    assert (high - low) * 50 == pytest.approx(half, abs=1)


def page(name):
    return (ROOT / "teaching" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("which", ["Before", "After"])
def test_a_quiz_has_a_question_for_each_outcome_and_its_key_explains_every_answer(which):
    questions, key = (
        re.split(r"^## ", page(n), flags=re.M)[1:] for n in ("quiz.md", "quiz_key.md")
    )
    (asked,) = (part for part in questions if part.startswith(which))
    (answers,) = (part for part in key if part.startswith(which))
    outcomes = TEXT.split("## Learning outcomes")[1].split("\n\n")[1].strip().splitlines()[2:]
    asked = re.findall(r"^\*\*(\d+)\.\*\*(?:.*\n)+?((?:- [A-D]\. .+\n?){4})", asked, re.M)
    rows = re.findall(r"^\| (\d+) \| ([A-D]) \| (.+) \|$", answers, re.M)
    numbers = [str(n) for n in range(1, len(outcomes) + 1)]
    assert [n for n, _ in asked] == [n for n, *_ in rows] == numbers and len(numbers) == 11
    for number, right, why in rows:
        explained = set(re.findall(r"\b([A-D])(?=:| and [A-D]:)", why))
        assert explained == set("ABCD") - {right}, (which, number)


def test_set_up_names_every_command_that_make_has_for_learners():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make (\w+)`", page("setup.md")):
        assert re.search(rf"^{target}:", makefile, re.M), target
    for target in ("lab", "studio", "check", "test", "slides", "assignments", "docs"):
        assert f"| `make {target}` |" in page("setup.md")
    for block in re.findall(r"```powershell\n(.*?)```", page("setup.md"), re.S):
        assert "make" not in block and "bin/" not in block


def test_binders_files_are_what_setup_says():
    from packaging.requirements import Requirement

    lines = (ROOT / ".binder" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if not line.startswith("#")]
    index, torch, package = lines
    assert index.split() == ["--extra-index-url", "https://download.pytorch.org/whl/cpu"]
    assert str(Requirement(torch).specifier).endswith("+cpu") and index.split()[1] in page(
        "setup.md"
    )
    extras = Requirement(package.replace("-e .", "here")).extras
    assert package.startswith("-e .") and extras == {"notebooks", "photos"}
    assert torch.removesuffix("+cpu") in (ROOT / "Makefile").read_text(encoding="utf-8")
    runtime = (ROOT / ".binder" / "runtime.txt").read_text(encoding="utf-8").strip()
    assert re.fullmatch(r"python-3\.1[0-9]", runtime)
