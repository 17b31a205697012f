"""Files of inversions: whole or not at all, of any version, and never believed."""

import dataclasses
import errno
import hashlib
import json
import os
import random
import resource
import struct
import sys
import threading

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import p2p_helpers as p2p
from p2p_helpers.inversion import files

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
    with pytest.raises(p2p.InversionError, match="is missing"):  # what 0.1.0 did not know
        p2p.Inversion.load(tmp_path / "again")


def test_an_old_file_of_another_model_is_refused(pipe, made, tmp_path):
    content = in_format_1(pipe, made["exact"]).replace(
        old_facts(pipe)["weights"].encode(), b"0123456789abcdef"
    )
    known = old_facts(pipe)["weights in bfloat16"].encode()
    (tmp_path / "old").write_bytes(content.replace(known, b"0123456789abcdef"))
    with pytest.raises(p2p.InversionError, match="(?s)another model.*weights: 0123456789abcdef"):
        p2p.Inversion.load(tmp_path / "old").check(pipe)


def fact(name, value):
    def change(said, tensors):
        said["facts"][name] = value

    return change


def schedule(name, value):
    def change(said, tensors):
        said["facts"]["noise schedule"][name] = value

    return change


def word(name, value):
    def change(said, tensors):
        said[name] = value

    return change


def tensor(name, make):
    def change(said, tensors):
        tensors[name] = make(tensors[name])

    return change


def poke(value):
    def change(t):
        t = t.clone()
        t.flatten()[3] = value
        return t

    return change


DEEP = [[[[{"a": "b"}]]]]
WRONG = {  # what is wrong → how, and the field that the message names
    "unknown method": (word("method", "magic"), "method"),
    "method of another type": (word("method", ["ddim"]), "method"),
    "no prompt": (lambda said, tensors: said.pop("prompt"), "prompt is missing"),
    "prompt is a number": (word("prompt", 3), "prompt"),
    "steps is true": (word("steps", True), "steps"),
    "steps below 1": (word("steps", 0), "steps"),
    "steps of another run": (word("steps", 3), "loss_curve|null|pivot"),
    "too many steps": (word("steps", 5000), "steps"),
    "guidance is NaN": (word("guidance_scale", float("nan")), "guidance_scale"),
    "guidance is huge": (word("guidance_scale", 10**400), "guidance_scale"),
    "guidance is a text": (word("guidance_scale", "4"), "guidance_scale"),
    "a word of its own": (word("exec", "rm"), "exec does not belong"),
    "facts are a list": (word("facts", []), "facts"),
    "no facts": (lambda said, tensors: said.pop("facts"), "facts"),
    "fact missing": (lambda said, tensors: said["facts"].pop("FreeU"), "FreeU is missing"),
    "fact too many": (fact("x", 1), "x does not belong"),
    "weights are no hash": (fact("weights", {"float16": "zz", "bfloat16": "0"}), "weights"),
    "weights are a text": (fact("weights", "0123456789abcdef"), "weights"),
    "text encoders": (fact("text encoders", None), "text encoders"),
    "prompt tokens": (fact("prompt tokens", {}), "prompt tokens"),
    "adapters": (fact("adapters", {"shown": [1], "float16": [], "bfloat16": []}), "adapters"),
    "FreeU": (fact("FreeU", [1, 2, 3]), "FreeU"),
    "settings": (fact("settings", {"a": DEEP}), "settings"),
    "picture's hash": (fact("image sha256", "0" * 64), "image sha256"),
    "model is a number": (fact("model", 5), "model"),
    "no betas": (fact("noise schedule", {}), "noise schedule"),
    "schedule is a list": (fact("noise schedule", [1]), "noise schedule"),
    "endless times": (schedule("num_train_timesteps", 10**12), "num_train_timesteps"),
    "no times": (schedule("num_train_timesteps", 0), "num_train_timesteps"),
    "beta is a text": (schedule("beta_start", "0.1"), "beta_start"),
    "beta is infinite": (schedule("beta_end", float("inf")), "beta_end"),
    "betas are few": (schedule("trained_betas", [0.1, 0.2]), "trained_betas"),
    "betas are texts": (schedule("trained_betas", {"a": 1}), "trained_betas"),
    "unknown prediction": (schedule("prediction_type", "flow"), "prediction_type"),
    "offset out of range": (schedule("steps_offset", 999), "steps"),
    "negative offset": (schedule("steps_offset", -5), "steps_offset"),
    "pivot has NaN": (tensor("pivot", poke(torch.nan)), "pivot holds inf"),
    "null is infinite": (tensor("null", poke(torch.inf)), "null holds inf"),
    "a moment is missing": (tensor("pivot", lambda t: t[1:]), "pivot has the shape"),
    "pivot is flat": (tensor("pivot", lambda t: t.flatten()), "pivot has the shape"),
    "pivot is empty": (tensor("pivot", lambda t: t[:, :0]), "pivot has the shape"),
    "pivot is bytes": (tensor("pivot", lambda t: t.byte()), "pivot holds torch.uint8"),
    "pivot is half": (tensor("pivot", lambda t: t.half()), "pivot holds F16"),
    "pivot is of another picture": (tensor("pivot", lambda t: t[..., :5]), "pixels"),
    "null is missing": (lambda said, tensors: tensors.pop("null"), "null is missing"),
    "null of other steps": (tensor("null", lambda t: t[:1]), "null has the shape"),
    "null that is not used": (word("method", "direct"), "null does not belong|loss_curve"),
    "curve of other steps": (tensor("loss_curve", lambda t: t[:1]), "loss_curve has the shape"),
    "curve is infinite": (tensor("loss_curve", poke(torch.inf)), "loss_curve holds"),
    "curve is below 0": (tensor("loss_curve", lambda t: -t - 1), "loss_curve holds"),
    "curve is unknown": (tensor("loss_curve", lambda t: t * torch.nan), "loss_curve lacks"),
    "pixels are grey": (tensor("pixels", lambda t: t[..., :1]), "pixels"),
    "pixels are floats": (tensor("pixels", lambda t: t.float()), "pixels holds torch.float32"),
    "pixels are odd": (tensor("pixels", lambda t: t[:63]), "pixels|decoded"),
    "decoded is smaller": (tensor("decoded", lambda t: t[:8]), "pixels|decoded"),
    "a tensor of its own": (lambda s, t: t.update(more=torch.zeros(3)), "more does not belong"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_hostile_file_is_refused_by_the_name_of_its_field(made, case, tmp_path):
    """Its hashes are right, for whoever wrote it can hash."""
    change, field = WRONG[case]
    inversion = made["null-text"]
    keys = ("method", "prompt", "steps", "guidance_scale")
    said = {key: getattr(inversion, key) for key in keys}
    said["facts"] = json.loads(json.dumps(inversion.facts))
    tensors = {"pivot": inversion.pivot, "null": inversion.null}
    tensors |= {"loss_curve": inversion.loss_curve}
    tensors |= {k: torch.from_numpy(getattr(inversion, k).copy()) for k in ("pixels", "decoded")}
    change(said, tensors)
    files.write(tmp_path / "a", "inversion", tensors, said)
    with pytest.raises(p2p.InversionError, match=field):
        p2p.Inversion.load(tmp_path / "a")


def test_every_damage_is_noticed(made, tmp_path):
    """A bit that changed, a file that was cut or goes on."""
    path = tmp_path / "a"
    made["null-text"].save(path)
    whole, moments = path.read_bytes(), random.Random(0)
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    places = [moments.randrange(header) for _ in range(150)]
    places += [moments.randrange(header, len(whole)) for _ in range(50)]
    damaged = [whole[:i] + bytes([whole[i] ^ 255]) + whole[i + 1 :] for i in places]
    damaged += [whole[: moments.randrange(len(whole))] for _ in range(50)]
    damaged += [b"", whole + b"\0", whole[:-1], b"\xff" * 8 + whole[8:]]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(p2p.InversionError):
            p2p.Inversion.load(path)


def text_of(texts, **tensors) -> bytes:
    return safetensors.torch.save({"pivot": torch.zeros(1), **tensors}, texts)


FOREIGN = {
    "a model's weights": (text_of({"format": "pt"}), "holds no finished inversion"),
    "a text": (b"not a safetensors file at all", "damaged"),
    "a pickle": (b"\x80\x04\x95" + b"\0" * 90, "damaged"),
    "a newer version's": (text_of({files.SAID: '{"format": 99}'}), "format 99"),
    "a number that is none": (text_of({files.SAID: '{"format": "2"}'}), "format is '2'"),
    "a checkpoint": (text_of({files.SAID: '{"format": 2, "kind": "checkpoint"}'}), "another kind"),
    "no JSON": (text_of({files.SAID: "{"}), "is no JSON"),
    "deep JSON": (text_of({files.SAID: "[" * 100_000}), "is no JSON"),
    "a long number": (text_of({files.SAID: '{"a": 1' + "0" * 9999 + "}"}), "is no JSON"),
    "a list": (text_of({files.SAID: "[]"}), "no JSON object"),
    "no hashes": (text_of({files.SAID: '{"format": 2, "kind": "inversion"}'}), "sha256"),
    "old, without a schedule": (text_of({"inversion": "{}"}), "noise schedule"),
    "old, its schedule no JSON": (text_of({"inversion": "{}", "noise schedule": "?"}), "schedule"),
    "old, without words": (text_of({"inversion": "{}", "noise schedule": "{}"}), "is missing"),
    "complex": (text_of({"inversion": "{}"}, z=torch.zeros(1, dtype=torch.cfloat)), "schedule|z"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_foreign_file_is_refused(case, tmp_path):
    content, says = FOREIGN[case]
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(p2p.InversionError, match=says):
        p2p.Inversion.load(tmp_path / "a")


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    for path in (tmp_path, tmp_path / "none", tmp_path / "pipe", tmp_path / ("x" * 300), "a\0b"):
        with pytest.raises(p2p.InversionError, match="There is no file|cannot be read"):
            p2p.Inversion.load(path)


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
            patch.setattr(files.os, name, full)
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
        patch.setattr(files.os, "replace", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
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

    monkeypatch.setattr(files.os, "replace", slow)
    thread = threading.Thread(target=made["null-text"].save, args=(path,))
    thread.start()
    assert ready.wait(60)
    made["exact"].save(path)
    assert p2p.Inversion.load(path).method == "exact"
    go_on.set()
    thread.join()
    assert p2p.Inversion.load(path).method == "null-text"
    assert left_over(tmp_path) == ["a"]
