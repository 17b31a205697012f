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

TEXT = (Path(__file__).parent.parent / "TEACHING.md").read_text(encoding="utf-8")
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
    (command,) = re.findall(r"`.venv/bin/p2p (study .*--results)`", TEXT)
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


@pytest.mark.parametrize("votes, half", [(72, 12)])
def test_its_interval_is_what_it_says(votes, half):
    from scipy.stats import binomtest

    low, high = binomtest(votes // 2, votes).proportion_ci(method="wilson")
    assert (high - low) * 50 == pytest.approx(half, abs=1)
