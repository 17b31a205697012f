"""Damaged, foreign and hostile files of inversions: each is refused by the name of its field."""

import dataclasses
import json
import os
import random
import struct

import pytest
import safetensors.torch
import torch

import p2p_helpers as p2p
from p2p_helpers.inversion import files

from .pipelines import build
from .test_inversion_files import PICTURE, PROMPT, RUN, TARGET


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return build("sd1", tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def made(pipe):
    return {m: p2p.invert(pipe, PICTURE, PROMPT, method=m, **RUN) for m in ("null-text", "exact")}


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
    "fact missing": (lambda said, tensors: said["facts"].pop("weights"), "weights is missing"),
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


def test_sizes_that_are_not_the_models_are_refused(pipe, made):
    """A file that is sound in itself, and names the right model."""
    null = dataclasses.replace(made["null-text"], null=torch.zeros(2, 77, 31))
    pivot = dataclasses.replace(made["exact"], pivot=torch.zeros(3, 4, 4, 8))
    for inversion, field in ((null, "null"), (pivot, "pivot")):
        with pytest.raises(p2p.InversionError, match=f"inversion's {field}"):
            p2p.edit(pipe, inversion, TARGET, progress=False)
    assert not pipe.unet._forward_pre_hooks
