"""Null-text inversion, stopped anywhere: it goes on to the same end, to the last bit."""

import copy
import dataclasses
import itertools
import json
import multiprocessing
import os
import signal

import numpy as np
import pytest
import safetensors.torch
import torch
from diffusers import DDIMScheduler
from PIL import Image

import p2p_helpers as p2p
from benchmarks import null_text
from p2p_helpers.inversion import files, methods
from p2p_helpers.inversion import null_text as optimisation
from p2p_helpers.toyland import photos

from .pipelines import DDIM, build
from .test_inversion_files import old_facts

PROMPT = "a cat on the beach"
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 128, 3), np.uint8))
STEPS = 3
RUN = {"steps": STEPS, "inner_steps": 2, "guidance_scale": 4.0, "progress": False}


def build_it(folder):
    """A pipeline whose latents come in another order of memory than files have."""
    pipe = build("sd1", folder)
    pipe.unet.to(memory_format=torch.channels_last)
    pipe.vae.to(memory_format=torch.channels_last)
    return pipe


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return build_it(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def whole(pipe):
    return p2p.invert(pipe, PICTURE, PROMPT, **RUN)


def assert_same(a, b):
    """Every field, bit for bit."""
    for field in dataclasses.fields(a):
        one, other = getattr(a, field.name), getattr(b, field.name)
        if isinstance(one, (torch.Tensor, np.ndarray)):
            np.testing.assert_array_equal(one, other, err_msg=field.name)
        else:
            assert one == other, field.name


def die(*args):
    os.kill(os.getpid(), signal.SIGKILL)  # which no code can catch


def _invert_and_die(folder, moment: str, number: int):
    """What a process does that is killed the n-th time it comes to a moment."""
    torch.set_num_threads(1)
    count = itertools.count()

    def wrapped(call):
        def maybe(*args, **more):
            if moment == "after replace":
                call(*args, **more)
            if next(count) == number:
                die()
            return None if moment == "after replace" else call(*args, **more)

        return maybe

    callback = wrapped(lambda step: None) if moment == "callback" else None
    if moment in ("fsync", "replace", "after replace"):
        name = moment.removeprefix("after ")
        setattr(os, name, wrapped(getattr(os, name)))
    pipe = build_it(folder / "tokenizer")
    if moment == "unet":
        pipe.unet.register_forward_pre_hook(wrapped(lambda *args: None))
    inversion = p2p.invert(
        pipe, PICTURE, PROMPT, checkpoint=folder / "part", callback=callback, **RUN
    )
    inversion.save(folder / "done")


KILLS = {
    "each moment once": [
        ("callback", 1),  # while DDIM inverts
        ("unet", 5),  # before the first step is optimised
        ("fsync", 0),  # the first checkpoint is half written
        ("replace", 0),  # it is written, but not in place
        ("after replace", 0),  # it is in place
        ("unet", 8),  # a later step is optimised
        ("replace", 0),
        ("callback", 4),  # an optimised step is told
        ("callback", 5),  # all are, and DDIM goes back
        ("fsync", 0),  # the inversion itself is written
    ],
    "after every step": [("after replace", 0)] * STEPS,
}


@pytest.mark.parametrize("kills", KILLS.values(), ids=KILLS)
def test_killed_it_goes_on_to_the_same_end(kills, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.test_null_text"])

    def run(folder, moment, number) -> int:
        folder.mkdir(exist_ok=True)
        child = context.Process(target=_invert_and_die, args=(folder, moment, number))
        child.start()
        child.join()
        return child.exitcode

    for moment, number in kills:
        assert run(tmp_path / "killed", moment, number) == -signal.SIGKILL, moment
    for name in ("killed", "whole"):
        assert run(tmp_path / name, "never", 0) == 0
    killed, whole = (p2p.Inversion.load(tmp_path / name / "done") for name in ("killed", "whole"))
    assert_same(killed, whole)


@pytest.mark.parametrize("killed_at", range(STEPS))
def test_interrupted_while_it_writes_what_stood_there_stays(
    pipe, whole, tmp_path, monkeypatch, killed_at
):
    count, replace = itertools.count(), os.replace

    def interrupt(*args):
        if next(count) == killed_at:
            raise KeyboardInterrupt
        replace(*args)

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        p2p.invert(pipe, PICTURE, PROMPT, checkpoint=tmp_path / "c", **RUN)
    assert all(p.requires_grad for p in pipe.unet.parameters())
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == (["c"] if killed_at else [])
    resumed = p2p.invert(pipe, PICTURE, PROMPT, checkpoint=tmp_path / "c", **RUN)
    assert_same(resumed, whole)


def test_a_checkpoint_serves_a_machine_that_rounds_otherwise(pipe, whole, tmp_path, monkeypatch):
    p2p.invert(pipe, PICTURE, PROMPT, checkpoint=tmp_path / "c", **RUN)
    pivot = methods._pivot
    monkeypatch.setattr(methods, "_pivot", lambda *args, **more: pivot(*args, **more) + 1e-5)
    again = p2p.invert(pipe, PICTURE, PROMPT, checkpoint=tmp_path / "c", **RUN)
    np.testing.assert_array_equal(again.pivot, whole.pivot)


def test_a_checkpoint_of_another_run_is_refused(pipe, tmp_path):
    path = tmp_path / "c"
    p2p.invert(pipe, PICTURE, PROMPT, checkpoint=path, **RUN)
    turned, usual = PICTURE.rotate(180), pipe.scheduler
    for says, picture, prompt, change in [
        ("image sha256", turned, PROMPT, {}),
        ("prompt: a cat on the beach then, a cat now", PICTURE, "a cat", {}),
        ("steps: 3 then, 2 now", PICTURE, PROMPT, {"steps": 2}),
        ("guidance: 4.0 then, 5.0 now", PICTURE, PROMPT, {"guidance_scale": 5.0}),
        ("inner: 2 then, 3 now", PICTURE, PROMPT, {"inner_steps": 3}),
        ("init: null then, prompt now", PICTURE, PROMPT, {"init": "prompt"}),
    ]:
        with pytest.raises(p2p.InversionError, match="(?s)another run.*" + says):
            p2p.invert(pipe, picture, prompt, checkpoint=path, **{**RUN, **change})
    pipe.scheduler = type(usual).from_config(usual.config, beta_end=0.013)
    try:
        with pytest.raises(p2p.InversionError, match="(?s)another run.*noise schedule"):
            p2p.invert(pipe, PICTURE, PROMPT, checkpoint=path, **RUN)
    finally:
        pipe.scheduler = usual
    pipe.enable_freeu(0.9, 0.2, 1.2, 1.4)
    try:
        with pytest.raises(p2p.InversionError, match="(?s)another run.*FreeU: off then"):
            p2p.invert(pipe, PICTURE, PROMPT, checkpoint=path, **RUN)
    finally:
        pipe.disable_freeu()


def test_the_rate_falls_to_half_over_the_run(pipe, monkeypatch):
    """And the tolerance rises to 10⁻³ of the latent's variance, for any number of steps."""
    seen = []

    def found(null, landed, target, inner, rate, tolerance):
        seen.append((rate, tolerance))
        return null, [0.0]

    monkeypatch.setattr(optimisation, "_descend", found)
    made = p2p.invert(pipe, PICTURE, PROMPT, **RUN)
    variance = made.pivot[-1].var().item()
    assert [rate for rate, _ in seen] == pytest.approx([0.01, 0.05 / 6, 0.04 / 6])
    tolerances = [1e-5 * variance, (1e-5 + 1e-3 / 3) * variance, (1e-5 + 2e-3 / 3) * variance]
    assert [tolerance for _, tolerance in seen] == pytest.approx(tolerances)


WRONG = {
    "pivot": lambda tensors: tensors.update(pivot=tensors["pivot"][1:]),
    "null": lambda tensors: tensors.update(null=torch.cat([tensors["null"]] * 2)),
    "latent": lambda tensors: tensors.pop("latent"),
    "losses": lambda tensors: tensors.update(losses=tensors["losses"] * torch.nan),
    "null holds inf": lambda tensors: tensors["null"].fill_(torch.nan),
    "null has the shape": lambda tensors: tensors.update(null=tensors["null"][..., 1:]),
}


@pytest.mark.parametrize("field", WRONG)
def test_a_damaged_checkpoint_is_refused_by_the_name_of_its_field(pipe, tmp_path, field):
    path = tmp_path / "c"
    p2p.invert(pipe, PICTURE, PROMPT, checkpoint=path, **RUN)
    stored = files.read(path, "checkpoint")
    WRONG[field](stored.tensors)
    files.write(path, "checkpoint", stored.tensors, stored.said)
    with pytest.raises(p2p.InversionError, match=field):
        p2p.invert(pipe, PICTURE, PROMPT, checkpoint=path, **RUN)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(p2p.InversionError, match="damaged"):
        p2p.invert(pipe, PICTURE, PROMPT, checkpoint=path, **RUN)
    with pytest.raises(p2p.InversionError, match="damaged"):
        p2p.Inversion.load(path)


def test_a_checkpoint_of_an_older_version_goes_on(pipe, whole, tmp_path):
    path = tmp_path / "c"
    p2p.invert(pipe, PICTURE, PROMPT, checkpoint=path, **RUN)
    tensors = files.read(path, "checkpoint").tensors
    facts = {key: text for key, text in old_facts(pipe).items() if key not in ("model", "package")}
    run = {"prompt": PROMPT, "steps": STEPS, "guidance": 4.0, "inner": 2, "init": "null", **facts}
    path.write_bytes(safetensors.torch.save(tensors, {"run": json.dumps(run)}))
    assert_same(p2p.invert(pipe, PICTURE, PROMPT, checkpoint=path, **RUN), whole)


def test_the_bar_is_shown_where_it_is_wanted(pipe, capsys):
    pipe.set_progress_bar_config(disable=False)
    try:
        p2p.invert(pipe, PICTURE, PROMPT, **{**RUN, "progress": True})
        shown = capsys.readouterr().err
        said = {line.partition(":")[0].strip() for line in shown.split("\r")}
        assert said - {""} == {"null-text"}  # and no other bar
        p2p.invert(pipe, PICTURE, PROMPT, **RUN)
        assert not capsys.readouterr().err
    finally:
        pipe.set_progress_bar_config(disable=True)


def test_an_inversion_of_no_numbers_is_refused(pipe, tmp_path):
    weight = pipe.unet.conv_out.bias
    before = weight.data.clone()
    weight.data[0] = float("nan")
    try:
        for method in ("direct", "null-text"):
            file = tmp_path / f"{method}.part"
            how = {**RUN, "method": method, "checkpoint": file if method == "null-text" else None}
            with pytest.raises(p2p.InversionError, match="infinities or NaN"):
                p2p.invert(pipe, PICTURE, PROMPT, **how)
            assert not file.exists()
    finally:
        weight.data = before


def test_the_benchmarks_two_ways_agree(toyland):
    """The published procedure and ours start with the same losses."""
    picture = p2p.load_image(photos()["rabbit-beach"].path, toyland)
    words, steps, inner = "a rabbit on the beach", 3, 2
    pivot = p2p.invert(toyland, picture, words, method="ddim", steps=steps, progress=False).pivot
    pipe = copy.copy(toyland)
    pipe.scheduler = DDIMScheduler(**DDIM)
    before = dict(pipe.unet.attn_processors)
    try:
        _, theirs = null_text.original(pipe, pivot, words, steps, inner)
    finally:
        pipe.unet.set_attn_processor(before)
    _, _, ours = null_text.ours(toyland, pivot, words, steps, inner, "null")
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-2, atol=0)
