"""The command line: what a person types, and what comes back on the screen and in files."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

import p2p_helpers as p2p
from p2p_helpers import pipelines
from p2p_helpers.batch import Worker
from p2p_helpers.cli import main
from p2p_helpers.provenance import read_png
from p2p_helpers.toyland import photos

COMMANDS = ("check", "edit", "invert", "maps", "batch", "gallery", "bench", "study", "export")


@pytest.fixture
def p2p_says(toyland, tmp_path, monkeypatch, capsys):
    """Runs a command in an empty folder; gives its exit code, and what it says and complains."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipelines, "load_pipeline", lambda *args, **more: toyland)
    monkeypatch.setattr(Worker, "load", lambda self, model, device: toyland)
    monkeypatch.setattr("warnings.showwarning", None)  # the command sets it for its process

    def run(*arguments) -> tuple[int, str, str]:
        code = 0
        try:
            main([str(one) for one in arguments])
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(p2p_says, command):
    code, said, _ = p2p_says(command, "--help")
    assert code == 0 and (
        f"p2p {command} " in said.split("Usage:")[1].split("\n", 1)[1] or command == "check"
    )


def test_help_and_completion_load_no_model_library():
    env = {
        **os.environ,
        "_P2P_COMPLETE": "complete_bash",
        "COMP_WORDS": "p2p in",
        "COMP_CWORD": "1",
    }
    command = [sys.executable, "-X", "importtime", "-m", "p2p_helpers"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.stdout.split() == ["invert"]
    assert " torch" not in done.stderr and " numpy" not in done.stderr


def test_without_a_command_the_help_is_shown(p2p_says):
    _, said, complaint = p2p_says()
    assert all(f"\n  {name} " in said + complaint for name in COMMANDS)


def test_check_says_that_everything_works(p2p_says):
    code, said, _ = p2p_says("check")
    assert code == 0 and said.endswith("Everything works.\n") and "one edit, 2 prompts" in said


def test_an_edit_is_a_picture_that_says_how_it_was_made(p2p_says, toyland):
    prompts = ("a cat on the beach", "a dog on the beach")
    edit = "Replace(cross_steps=0.5)"
    code, said, _ = p2p_says(
        *("edit", *prompts, "-e", edit, "--seed", 3, "--steps", 2, "--blend", "dog"),
        *("--negative", "snow"),
    )
    assert code == 0 and said.split() == ["edited-source.png", "edited.png"]
    made = read_png("edited.png")
    assert (made["source"], made["target"]) == prompts and made["weights"]["float16"]
    assert made["negative_prompt"] == "snow"
    again = p2p.edit(
        toyland,
        made["source"],
        made["target"],
        p2p.read_edit(made["edit"]),
        local_blend="dog",
        seed=made["seed"],
        steps=made["steps"],
        guidance_scale=made["guidance_scale"],
        negative_prompt=made["negative_prompt"],
        progress=False,
    )
    assert p2p.load_image("edited.png").tobytes() == again.image.tobytes()
    assert "target" not in read_png("edited-source.png")


def test_several_targets_have_an_edit_each(p2p_says):
    code, said, _ = p2p_says(
        *("edit", "a house", "a house at night", "a castle", "-e", "Refine()", "-e", "Replace()"),
        *("--steps", 1, "--out", "house.png"),
    )
    assert code == 0 and said.split() == ["house-source.png", "house-1.png", "house-2.png"]
    assert read_png("house-2.png")["edit"] == "Replace(cross_steps=0.8)"


def test_a_photograph_is_described_inverted_and_edited(p2p_says):
    photo = next(iter(photos().values()))
    shutil.copy(photo.path, "photo.png")
    how = ("--method", "direct", "--steps", 2, "--guidance", 2)
    code, said, _ = p2p_says("invert", "photo.png", *how)
    assert code == 0 and "It shows: " in said and "photo.safetensors: comes back with" in said
    found = p2p.Inversion.load("photo.safetensors")
    prompt = found.prompt
    assert found.guidance_scale == 2
    code, said, _ = p2p_says("edit", "photo.safetensors", f"{prompt} at night", "-e", "Refine()")
    said = read_png("edited.png")
    assert code == 0 and said["source"] == prompt and said["inversion"]["method"] == "direct"
    assert len(said["inversion"]["image sha256"]) == 64


def test_maps_are_a_figure(p2p_says):
    code, said, _ = p2p_says("maps", "a cat on the beach", "--steps", 2, "--out", "cat.png")
    assert code == 0 and said.strip() == "cat.png"
    assert read_png("cat.png")["source"] == "a cat on the beach"
    usual = p2p.load_image("cat.png")
    assert usual.width > 500
    more = ("--steps", 2, "--out", "free.png", "--guidance", 1)
    assert p2p_says("maps", "a cat on the beach", *more)[0] == 0
    assert p2p.load_image("free.png").tobytes() != usual.tobytes()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["edit", "a cat", "a dog", "-e", "Swap()"], "'Swap' is none of Replace"),
        (["edit", "a cat", "a dog on the beach", "--steps", "1"], "words"),
        (["edit", "a cat", "a dog", "--out", "nowhere/a.png"], "There is no folder nowhere"),
        (["edit", "a cat", "a dog", "--out", "folder.png"], "there is a folder of this name"),
        (["maps", "a cat", "--out", "folder.png"], "there is a folder of this name"),
        (["edit", "cat.jpg", "a dog"], "p2p invert cat.jpg"),
        (["edit", "CAT.SAFETENSORS", "a dog"], "There is no file CAT.SAFETENSORS"),
        (["edit", "cat.safetensors", "a dog"], "There is no file cat.safetensors"),
        (["invert", "cat.jpg", "a cat"], "cat.jpg"),
        (["batch", "no.jsonl"], "There is no file no.jsonl"),
        (["bench", "pie", "--data", "nowhere"], "There is no nowhere/mapping_file.json"),
        (["study", "serve", "nowhere"], "holds no study"),
        (["study", "results", "nowhere"], "holds no study"),
        (["maps", "a cat", "--steps", "0"], "steps=0: it must be a whole number from 1"),
        (["maps", "a cat", "--seed", "-1"], "seed=-1: it must be a whole number from 0"),
        (["maps", "a cat", "--guidance", "nan"], "guidance_scale=nan"),
        (["maps", "a cat", "--steps", "2000"], "trained with 1000 times"),
        (["maps", " "], "prompt is empty"),
        (["maps", "fox.png"], "'fox.png' is a file's name, and no prompt"),
        (["maps", "fox.safetensors"], "is a file's name"),
        (["edit", "a cat", "dog.png"], "'dog.png' is a file's name"),
    ],
)
def test_errors_are_messages_and_the_exit_code_is_1(p2p_says, tmp_path, arguments, says):
    (tmp_path / "folder.png").mkdir()
    code, _, complaint = p2p_says(*arguments)
    assert code == 1 and complaint.startswith("Error: ") and says in complaint


def test_too_little_memory_is_a_message(p2p_says, monkeypatch):
    def full(*given, **more):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setattr("p2p_helpers.run.edit", full)
    code, _, complaint = p2p_says("edit", "a cat", "a dog")
    assert (
        code == 1 and complaint.startswith("Error: Memory has run out. ") and "2 GiB" in complaint
    )


@pytest.mark.parametrize("arguments", [["paint"], ["edit"], ["edit", "a", "b", "--seed", "x"]])
def test_a_command_that_is_written_wrongly_has_exit_code_2(p2p_says, arguments):
    code, _, complaint = p2p_says(*arguments)
    assert code == 2 and "Usage: p2p" in complaint


def test_unknown_words_are_a_note(p2p_says):
    code, _, complaint = p2p_says("edit", "a cat", "a submarine", "--steps", 1)
    assert code == 0 and "Note: " in complaint and "submarine" in complaint


def test_a_batch_with_a_bad_job_ends_with_3_and_goes_on(p2p_says, tmp_path):
    good = {"source": "a cat", "target": "a dog", "steps": 1}
    lines = [good, {**good, "target": "a dog at night"}, {"source": "a cat"}]
    (tmp_path / "jobs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    code, said, complaint = p2p_says("batch", "jobs.jsonl")
    assert code == 3 and "3 jobs are done now" in said and "has no target" in complaint
    table = tmp_path / "results" / "results.jsonl"
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    assert [row["error"] and row["error"]["kind"] for row in rows] == [
        None,
        "PromptMismatch",
        "InputError",
    ]
    code, said, _ = p2p_says("batch", "jobs.jsonl")
    assert code == 3 and "0 jobs are done now, 3 were done before" in said
    code, said, _ = p2p_says("batch", "jobs.jsonl", "--retry")
    assert code == 3 and "1 jobs are done now, 2 were done before" in said
    (tmp_path / "jobs.jsonl").write_text(json.dumps(good))
    assert p2p_says("batch", "jobs.jsonl")[0] == 0
