"""`p2p gallery` makes a page of a model's edits."""

import json
import re

import pytest
from PIL import Image
from typer.testing import CliRunner

import p2p_helpers as p2p
from p2p_helpers.batch import Job, read_jobs
from p2p_helpers.cli.app import app
from p2p_helpers.view.gallery_page import _said, examples, write_gallery

SWAP = {"source": "a cat on the beach", "seed": 3, "steps": 1, "target": "a dog on the beach"}
NIGHT = {**SWAP, "target": ["a cat on the beach at night"] * 2, "edit": "Refine()"}
FREE = {**SWAP, "edit": "Replace(cross_steps=0.0, self_steps=0.0)", "local_blend": ["cat"]}


def gallery_of(folder, *jobs):
    file = folder / "jobs.jsonl"
    file.write_text("\n".join(map(json.dumps, jobs)))
    arguments = ["gallery", "--jobs", str(file), "--out", str(folder / "out"), "--device", "cpu"]
    said = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert said.exit_code == 0, said.output
    return folder / "out"


def test_the_page_has_every_picture_and_marks_what_is_new(tmp_path):
    out = gallery_of(tmp_path, SWAP, NIGHT, FREE, {**SWAP, "target": "a\u2028dog"})
    page = (out / "index.html").read_text()
    data = json.loads(re.search(r"const data = (.*);", page).group(1))
    assert [len(row) for row in data["rows"]] == [2, 3, 2]  # the last line of jobs is an error
    assert all((out / one["picture"]).is_file() for row in data["rows"] for one in row)
    new = [[word for word, is_new in row[1]["words"] if is_new] for row in data["rows"]]
    assert new == [["dog"], ["at", "night"], ["dog"]]
    assert "seed 3" in data["rows"][0][0]["said"]
    assert data["rows"][2][1]["said"] == "the same seed, no control"
    assert "p2p_helpers" in data["made"] and "torch" in data["made"]
    figure = Image.open(out / "gallery.png")
    assert min(figure.size) > 700  # three rows of three


def test_a_line_says_the_edit_and_its_blend():
    settings = {"edit": "Replace()", "local_blend": None}
    assert _said(settings) == "Replace()"
    blended = {**settings, "local_blend": "LocalBlend(('cat',))"}
    assert _said(blended) == "Replace(), LocalBlend(('cat',))"


@pytest.mark.parametrize("model", ["toyland", "toyland-transformer", "owner/name"])
def test_the_examples_are_jobs_that_can_be_done(model, tokenizer):
    assert (examples(model).name == "toyland.jsonl") == model.startswith("toyland")
    jobs = list(read_jobs(examples(model)))
    assert len(jobs) >= 4 and all(isinstance(job, Job) for job in jobs)
    for job in jobs:
        for target, edit in zip(job.target, job.edit * len(job.target), strict=False):
            edit.matrices(tokenizer, job.source, target, 10)


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(p2p.InputError, match=r"no results\.jsonl"):
        write_gallery(tmp_path)
    (tmp_path / "results.jsonl").write_text('{"error": {"message": "no"}}\n')
    with pytest.raises(p2p.InputError, match="No job"):
        write_gallery(tmp_path)
