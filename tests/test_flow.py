"""Flow matching backwards, and what an inversion along it refuses."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

import p2p_helpers as p2p
from p2p_helpers.attention.families import family_of
from p2p_helpers.inversion import flow

from .transformers import FLOWS, build, photo

CAT = "a cat on the beach"


@pytest.fixture(scope="module", params=FLOWS)
def pipe(request, tmp_path_factory):
    return build(request.param, tmp_path_factory.mktemp("tokenizer"))


def test_the_reverse_of_a_straight_flow_is_exact():
    """Where the velocity is the same everywhere, Euler's steps forwards and backwards meet."""
    for shift in ({"shift": 3.0}, {"use_dynamic_shifting": True}):
        schedule = flow.flow_schedule(flow.DEFAULTS | shift)
        more = {"mu": 0.7} if schedule["use_dynamic_shifting"] else {}
        forwards, backwards = flow.sampler(schedule), flow.inverse(schedule)
        start = torch.randn(1, 4, 2, 2, dtype=torch.float64)
        x, velocity = start, torch.randn(1, 4, 2, 2, dtype=torch.float64)
        for scheduler in (backwards, forwards):
            scheduler.set_timesteps(5, **more)
            for t in scheduler.timesteps:
                x = scheduler.step(velocity, t, x, return_dict=False)[0]
            assert (x - start).abs().max() > 0.1 or scheduler is forwards
        torch.testing.assert_close(x, start, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", ["null-text", "negative-prompt", "exact", "ddim"])
def test_methods_that_do_not_fit_are_refused_with_the_reason(pipe, method):
    of_diffusion = method in ("exact", "ddim")
    if family_of(pipe).optimises_null and not of_diffusion:
        pytest.skip("it fits: the next test")
    reason = "DDIM's steps" if of_diffusion else "an empty prompt beside the prompt"
    with pytest.raises(p2p.InversionError, match=f"{reason}.*method='direct'"):
        p2p.invert(pipe, photo(), CAT, method=method, steps=2, progress=False)


def test_what_an_inversion_refuses_has_its_reason(pipe):
    wrong = [
        ({"prompt": "snow " * 600}, "text encoder of .* reads (77|256|512).*Shorten"),
        ({"steps": 1001}, "trained with 1000 times.*Take fewer steps"),
        ({"method": "nul-text"}, "method='nul-text': methods are ddim, null-text"),
        ({"init": "nil"}, "init='nil': init is null or prompt"),
        ({"image": photo().resize((136, 136))}, "sides must be multiples of 16"),
    ]
    if family_of(pipe).optimises_null:
        less = {"method": "null-text", "guidance_scale": 1.0}
        wrong.append((less, "guidance above 1 uses. Take method='direct'"))
    for arguments, says in wrong:
        with pytest.raises(p2p.InputError, match=says):
            given = {"image": photo(), "prompt": CAT, **arguments}
            p2p.invert(pipe, **given, progress=False)


def test_where_there_is_a_null_text_it_is_optimised(pipe, tmp_path):
    if not family_of(pipe).optimises_null:
        pytest.skip("there is none: the test before")
    run = {"steps": 3, "guidance_scale": 4.0, "progress": False}
    direct, optimised, negative = (
        p2p.invert(pipe, photo(), CAT, method=method, **run)
        for method in ("direct", "null-text", "negative-prompt")
    )
    assert torch.equal(optimised.pivot, direct.pivot)
    assert len(optimised.null) == 3 and (optimised.null[0] != optimised.null[2]).any()
    curves = optimised.loss_curve
    last = torch.stack([curve[~curve.isnan()][-1] for curve in curves])
    assert (last < curves[:, 0]).all()
    assert all(p.requires_grad for p in pipe.transformer.parameters())
    optimised.save(tmp_path / "a")
    edits = [
        p2p.edit(pipe, one, "a dog on the beach", progress=False)
        for one in (optimised, p2p.Inversion.load(tmp_path / "a"), negative)
    ]
    shown = [np.asarray(one.image) for one in edits]
    assert np.array_equal(shown[0], shown[1]) and not np.array_equal(shown[0], shown[2])
    with pytest.raises(p2p.InversionError, match="Leave max_sequence_length out"):
        p2p.edit(pipe, optimised, "a dog on the beach", max_sequence_length=32, progress=False)


def test_shifted_times_are_refused_for_null_text(pipe):
    if not family_of(pipe).optimises_null:
        pytest.skip("there is none")
    own = pipe.scheduler
    pipe.scheduler = type(own).from_config(own.config, use_dynamic_shifting=True)
    try:
        with pytest.raises(p2p.InversionError, match="depend on the picture's size"):
            p2p.invert(pipe, photo(), CAT, method="null-text", steps=2, progress=False)
    finally:
        pipe.scheduler = own


def test_another_scheduler_is_refused_for_inversion(pipe):
    own = pipe.scheduler
    pipe.scheduler = DDIMScheduler()
    try:
        with pytest.raises(p2p.InversionError, match="predicts a flow"):
            p2p.invert(pipe, photo(), CAT, steps=2, progress=False)
    finally:
        pipe.scheduler = own


@pytest.mark.parametrize(
    "key, value", [("shift", "3"), ("time_shift_type", "none"), ("base_image_seq_len", 0)]
)
def test_a_schedule_that_is_none_is_refused_by_name(key, value):
    with pytest.raises(p2p.InversionError, match=key):
        flow.flow_schedule(flow.DEFAULTS | {key: value})
