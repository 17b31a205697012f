"""Files of inversions: whole or not at all, of any version, and never believed."""

import dataclasses
import errno
import hashlib
import json
import os
import resource
import sys
import threading

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import p2p_helpers as p2p

from .pipelines import build

PROMPT, TARGET = "a cat on the beach", "a dog on the beach"
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 128, 3), np.uint8))
RUN = {"steps": 2, "inner_steps": 2, "guidance_scale": 4.0, "progress": False}


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return build("sd1", tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def made(pipe):
    return {m: p2p.invert(pipe, PICTURE, PROMPT, method=m, **RUN) for m in ("null-text", "exact")}


@pytest.mark.parametrize("method", ["null-text", "exact"])
def test_what_was_saved_comes_back(made, method, tmp_path):
    made[method].save(tmp_path / "a")
    back = p2p.Inversion.load(tmp_path / "a")
    for field in dataclasses.fields(back):
        here, there = getattr(made[method], field.name), getattr(back, field.name)
        if isinstance(here, (torch.Tensor, np.ndarray)):
            np.testing.assert_array_equal(there, here)
        else:
            assert there == here
    assert back.pivot.stride() == made[method].pivot.stride()


def old_facts(pipe) -> dict[str, str]:
    """As version 0.1.0 wrote them, with its own way to hash weights."""
    digests = {torch.float16: hashlib.sha256(), torch.bfloat16: hashlib.sha256()}
    for part in (pipe.unet, pipe.vae):
        for name, weight in sorted(part.state_dict().items()):
            few = weight.flatten()[:: max(1, weight.numel() // 64)]
            for dtype, digest in digests.items():
                digest.update(f"{name} {tuple(weight.shape)}".encode())
                digest.update(few.to(dtype).view(torch.int16).numpy().tobytes())
    keys = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
    keys += ("rescale_betas_zero_snr", "prediction_type", "timestep_spacing", "steps_offset")
    keys += ("set_alpha_to_one",)
    return {
        "model": "",
        "weights": digests[torch.float16].hexdigest()[:16],
        "weights in bfloat16": digests[torch.bfloat16].hexdigest()[:16],
        "noise schedule": json.dumps({key: pipe.scheduler.config.get(key) for key in keys}),
        "package": "p2p_helpers 0.1.0",
        "image sha256": hashlib.sha256(np.asarray(PICTURE).tobytes()).hexdigest(),
    }


def in_format_1(pipe, inversion, drop=()) -> bytes:
    """The file that version 0.1.0 would have written."""
    tensors = {"pivot": inversion.pivot, "loss_curve": inversion.loss_curve}
    tensors |= {k: torch.from_numpy(getattr(inversion, k).copy()) for k in ("pixels", "decoded")}
    if inversion.null is not None:
        tensors["null"] = inversion.null
    keys = ("method", "prompt", "steps", "guidance_scale")
    said = json.dumps({key: getattr(inversion, key) for key in keys})
    facts = {key: text for key, text in old_facts(pipe).items() if key not in drop}
    return safetensors.torch.save(tensors, {**facts, "inversion": said})


NEWER = ("model", "package", "image sha256", "weights in bfloat16")  # the first files lack these


@pytest.mark.parametrize("drop", [(), NEWER], ids=["0.1.0", "before"])
@pytest.mark.parametrize("method", ["null-text", "exact"])
def test_files_of_older_versions_load_and_edit_the_same(pipe, made, method, drop, tmp_path):
    (tmp_path / "old").write_bytes(in_format_1(pipe, made[method], drop))
    old = p2p.Inversion.load(tmp_path / "old")
    assert (old.method, old.prompt, old.steps) == (method, PROMPT, 2)
    assert old.facts["noise schedule"] == made[method].facts["noise schedule"]
    pictures = [p2p.edit(pipe, inv, TARGET, progress=False).image for inv in (made[method], old)]
    np.testing.assert_array_equal(*map(np.asarray, pictures))
    old.save(tmp_path / "again")
    again = p2p.edit(pipe, p2p.Inversion.load(tmp_path / "again"), TARGET, progress=False)
    np.testing.assert_array_equal(*map(np.asarray, (pictures[0], again.image)))


def test_an_old_file_of_another_model_is_refused(pipe, made, tmp_path):
    content = in_format_1(pipe, made["exact"]).replace(
        old_facts(pipe)["weights"].encode(), b"0123456789abcdef"
    )
    known = old_facts(pipe)["weights in bfloat16"].encode()
    (tmp_path / "old").write_bytes(content.replace(known, b"0123456789abcdef"))
    with pytest.raises(p2p.InversionError, match="(?s)another model.*weights: 0123456789abcdef"):
        p2p.Inversion.load(tmp_path / "old").check(pipe)


def left_over(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_that_cannot_be_written_leaves_the_old_one(made, tmp_path, monkeypatch):
    path = tmp_path / "a"
    made["null-text"].save(path)
    before = path.read_bytes()

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            with pytest.raises(p2p.InversionError, match="cannot be written.*No space left"):
                made["exact"].save(path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # as a disk fills half-way
    try:
        with pytest.raises(p2p.InversionError, match="cannot be written.*too large"):
            made["exact"].save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            made["exact"].save(path)
    assert path.read_bytes() == before
    assert left_over(tmp_path) == ["a"]


def test_a_place_that_cannot_be_written_is_explained(made, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "in it").touch()
    wrong = {
        tmp_path / "no" / "a": "There is no folder",
        tmp_path / "folder": "cannot be written",
        tmp_path / ("x" * 256): "too long",
        tmp_path / "a\0b": "cannot be written",
        tmp_path / "folder" / "in it" / "a": "There is no folder",
    }
    if sys.platform == "linux":
        wrong["/proc/a"] = "cannot be written"  # a read-only folder, for the superuser too
    for path, says in wrong.items():
        with pytest.raises(p2p.InversionError, match=says):
            made["exact"].save(path)
    assert left_over(tmp_path) == ["folder"]
    made["exact"].save(tmp_path / ("x" * 255))  # the longest name that a folder takes
    assert p2p.Inversion.load(tmp_path / ("x" * 255)).method == "exact"


def test_writers_at_once_do_not_meet(made, tmp_path, monkeypatch):
    """One that was slow finishes its own file, and not what another has begun."""
    path, replace = tmp_path / "a", os.replace
    ready, go_on = threading.Event(), threading.Event()

    def slow(part, whole):
        if threading.current_thread() is thread:
            ready.set()
            assert go_on.wait(60)
        replace(part, whole)

    monkeypatch.setattr(os, "replace", slow)
    thread = threading.Thread(target=made["null-text"].save, args=(path,))
    thread.start()
    assert ready.wait(60)
    made["exact"].save(path)
    assert p2p.Inversion.load(path).method == "exact"
    go_on.set()
    thread.join()
    assert p2p.Inversion.load(path).method == "null-text"
    assert left_over(tmp_path) == ["a"]
