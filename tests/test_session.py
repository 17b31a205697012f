"""A session: everything put back whatever happens, one run at a time, and the step is the pipeline's."""

import contextlib
import itertools
import os
import random
import signal
import sys
import threading
import time

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image

import p2p_helpers as p2p
from p2p_helpers.attention import changes
from p2p_helpers.attention.families import family_of
from p2p_helpers.attention.intercept import modes
from p2p_helpers.attention.phases import step_of, steps_of
from p2p_helpers.course.opened import opened

CAT, DOG = "a cat on the beach", "a dog on the beach"


@pytest.fixture(scope="module")
def tiny(random_pipe):
    """A UNet of one block, eight attention layers, on 4×4 latents: a run takes a few milliseconds."""
    block = {
        "block_out_channels": (16,),
        "layers_per_block": 1,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    blocks = {
        "down_block_types": ("CrossAttnDownBlock2D",),
        "up_block_types": ("CrossAttnUpBlock2D",),
    }
    unet = UNet2DConditionModel(
        sample_size=4, in_channels=8, out_channels=8, cross_attention_dim=128, **block, **blocks
    )
    scheduler = DDIMScheduler.from_config(random_pipe.scheduler.config)
    pipe = StableDiffusionPipeline(
        **{**random_pipe.components, "unet": unet, "scheduler": scheduler},
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def inverted_tiny(tiny):
    picture = Image.new("RGB", (32, 32), "red")
    return p2p.invert(tiny, picture, CAT, steps=2, method="direct", progress=False)


def state(pipe) -> dict:
    """Everything that a session may change."""
    model = family_of(pipe).model(pipe)
    return {
        "processors": dict(model.attn_processors),
        "attributes": [sorted(vars(part)) for part in model.modules()],
        "hooks": [
            len(part._forward_pre_hooks) + len(part._forward_hooks) for part in model.modules()
        ],
        "scheduler": (
            id(pipe.scheduler),
            sorted(set(vars(pipe.scheduler)) & {"step", "set_timesteps"}),
        ),
        "pipeline": sorted(set(vars(pipe)) & {"encode_prompt", "check_inputs"}),
        "bar": dict(pipe._progress_bar_config),
        "gradients": [p.requires_grad for p in model.parameters()],
        "grad mode": torch.is_grad_enabled(),
        "modes": modes(),
        "handler": signal.getsignal(signal.SIGINT),
    }


def edit(pipe):
    p2p.edit(
        pipe,
        CAT,
        DOG,
        local_blend=p2p.LocalBlend(("cat", "dog")),
        record=True,
        steps=1,
        progress=False,
    )


def invert(pipe):
    picture = Image.new("RGB", (32, 32), "red")
    p2p.invert(pipe, picture, CAT, steps=1, inner_steps=1, guidance_scale=2.0, progress=False)


def record(pipe):
    with p2p.record(pipe):
        pipe([CAT], num_inference_steps=1)


WAYS = (edit, invert, record)


@pytest.mark.parametrize("run", WAYS)
def test_a_ctrl_c_at_a_line_of_ours_leaves_everything_as_it_was(tiny, run):
    """A real interrupt at some of the lines that the package runs, those of the cleanup included."""
    before, lines = state(tiny), itertools.count()

    def trace_to(at):
        def trace(frame, event, arg):
            if "p2p_helpers" not in frame.f_code.co_filename:
                return None
            if event == "line" and next(lines) == at:
                signal.raise_signal(signal.SIGINT)
            return trace

        return trace

    def attempt(at):
        nonlocal lines
        lines = itertools.count()
        sys.settrace(trace_to(at))
        try:
            run(tiny)
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(None)
        return False

    for _ in range(2):  # the first run does some things once only
        attempt(-1)
    total = next(lines)
    chosen = sorted(random.Random(0).sample(range(total), min(total, 25)))
    interrupted = 0
    for at in chosen:
        interrupted += attempt(at)
        assert state(tiny) == before, f"line {at} of {total}"
    assert interrupted == len(chosen)  # none was lost


@pytest.mark.parametrize("run", WAYS)
def test_real_interrupts_at_random_moments(tiny, run):
    before, moments, hits = state(tiny), random.Random(1), 0
    start = time.perf_counter()
    run(tiny)
    usual = time.perf_counter() - start
    for _ in range(30):
        timer = threading.Timer(moments.uniform(0, usual), os.kill, (os.getpid(), signal.SIGINT))
        try:
            timer.start()
            try:
                run(tiny)
            finally:
                timer.join()
                time.sleep(0)
        except KeyboardInterrupt:
            hits += 1
        assert state(tiny) == before
    assert hits == 30


def test_an_interrupt_while_it_is_put_back_comes_afterwards(tiny, monkeypatch):
    before = state(tiny)
    restore = changes._restore
    monkeypatch.setattr(
        changes,
        "_restore",
        lambda *args: (signal.raise_signal(signal.SIGINT), restore(*args)),
    )
    for run in WAYS:
        with pytest.raises(KeyboardInterrupt):
            run(tiny)
        assert state(tiny) == before


def test_ctrl_c_works_after_sessions_that_end_out_of_order(tiny, random_pipe):
    before = signal.getsignal(signal.SIGINT)
    first, second = (p2p.record(pipe) for pipe in (tiny, random_pipe))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    second.__exit__(None, None, None)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def being_edited(pipe):
    """An edit in another thread, held in its first step."""
    inside, go = threading.Event(), threading.Event()
    found = []

    def hold(pipe, step, timestep, tensors):
        inside.set()
        go.wait(30)
        return tensors

    def work():
        found.append(p2p.edit(pipe, CAT, DOG, steps=3, callback=hold, progress=False))

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(30)
    try:
        yield found
    finally:
        go.set()
        thread.join()


@pytest.mark.parametrize(
    "scheduler", [DDIMScheduler, DPMSolverMultistepScheduler, HeunDiscreteScheduler]
)
def test_of_two_threads_the_second_is_refused(tiny, monkeypatch, scheduler):
    """And the first one's picture is what it is alone, also under a scheduler that remembers earlier steps."""
    monkeypatch.setattr(tiny, "scheduler", scheduler.from_config(tiny.scheduler.config))
    alone = p2p.edit(tiny, CAT, DOG, steps=3, progress=False)
    with being_edited(tiny) as found:
        for run in (*WAYS, lambda pipe: pipe(CAT, num_inference_steps=5)):
            with pytest.raises(p2p.AttentionControlError, match="edited in another thread.*Wait"):
                run(tiny)
    other = np.asarray(found[0].image).astype(int)  # another thread may add up in another order
    np.testing.assert_allclose(other, np.asarray(alone.image).astype(int), atol=1)
    edit(tiny)  # and now it is free


def test_what_another_thread_is_refused_leaves_a_recording_as_it_is(tiny):
    """An edit asks the scheduler how many steps it has before it is refused."""
    refused = []

    def other():
        for run in (*WAYS, lambda pipe: pipe(CAT, num_inference_steps=5)):
            try:
                run(tiny)
            except p2p.AttentionControlError as error:
                refused.append(error)

    def meddle(pipe, step, timestep, tensors):
        if step == 2:
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
        return tensors

    found = []
    for between in ({}, {"callback_on_step_end": meddle}):
        with p2p.record(tiny) as maps:
            run = {"num_inference_steps": 6, "output_type": "latent", **between}
            found.append(tiny(CAT, generator=torch.Generator().manual_seed(0), **run).images)
        assert maps.steps == 6
    assert len(refused) == len(WAYS) + 1
    torch.testing.assert_close(*found, rtol=0, atol=1e-4)


def test_a_recording_goes_on_in_another_thread(tiny):
    """One run after the other; the last one counts."""
    with p2p.record(tiny) as maps:
        tiny(CAT, num_inference_steps=1)
        thread = threading.Thread(target=tiny, args=(DOG,), kwargs={"num_inference_steps": 2})
        thread.start()
        thread.join()
        assert maps.prompts == [DOG] and maps.steps == 2
        tiny(CAT, num_inference_steps=3)
    assert maps.prompts == [CAT] and maps.steps == 3


def test_a_session_is_of_one_pipeline_and_not_of_its_model(tiny, inverted_tiny):
    """Where two pipelines share a model, the other one's scheduler would be changed."""
    other = StableDiffusionPipeline.from_pipe(tiny)
    before = tiny.scheduler, other.scheduler
    with p2p.record(tiny):
        with inverted_tiny.sampling(tiny):
            assert tiny.scheduler is not before[0]
        refused = pytest.raises(p2p.AttentionControlError, match="being recorded already")
        with refused, inverted_tiny.sampling(other):
            pass
    assert (tiny.scheduler, other.scheduler) == before


def test_a_result_goes_on_with_its_model_compiled(tiny, monkeypatch):
    result = p2p.edit(tiny, CAT, DOG, steps=1, progress=False)
    monkeypatch.setattr(tiny, "unet", torch.compile(tiny.unet))
    result.origin.check(tiny)
    monkeypatch.setattr(tiny, "unet", UNet2DConditionModel.from_config(tiny.unet.config))
    with pytest.raises(p2p.InputError, match="made with another pipeline"):
        result.origin.check(tiny)


def test_ones_own_handler_of_ctrl_c_gets_the_frame(tiny, monkeypatch):
    seen = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(frame))
    try:
        with p2p.record(tiny):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert [type(frame).__name__ for frame in seen] == ["frame"]


def test_edits_in_two_threads_on_two_pipelines(tiny, random_pipe):
    alone = p2p.edit(random_pipe, CAT, DOG, steps=2, progress=False)
    with being_edited(tiny):
        beside = p2p.edit(random_pipe, CAT, DOG, steps=2, progress=False)
    np.testing.assert_array_equal(np.asarray(beside.image), np.asarray(alone.image))


def turns_with_terms(pipe, kind: str, steps: int, change) -> list[bool]:
    """For every turn of a run's loop whether a layer is edited in it."""
    seen = []
    layer = next(m for n, m in pipe.unet.named_modules() if n.endswith(kind))
    hook = layer.register_forward_pre_hook(
        lambda module, args: seen.append(bool(module.forward.terms))
    )
    try:
        p2p.edit(pipe, CAT, DOG, change, steps=steps, progress=False)
    finally:
        hook.remove()
    return seen


@pytest.mark.parametrize(
    ("scheduler", "turns", "cross", "own"),
    [
        (DDIMScheduler, 50, 40, 20),
        (LCMScheduler, 50, 40, 20),
        (PNDMScheduler, 51, 40, 20),  # as the authors count: int(0.8 · 51) of 51 turns
        (HeunDiscreteScheduler, 99, 80, 40),  # two turns to a step
    ],
)
def test_schedules_are_the_authors_under_every_scheduler(tiny, scheduler, turns, cross, own):
    extra = {"skip_prk_steps": True} if scheduler is PNDMScheduler else {}
    before, tiny.scheduler = tiny.scheduler, scheduler.from_config(tiny.scheduler.config, **extra)
    try:
        change = p2p.Replace(cross_steps=0.8, self_steps=0.4, self_size=1.0)
        edited = turns_with_terms(tiny, "attn2", 50, change)
        injected = turns_with_terms(tiny, "attn1", 50, change)
    finally:
        tiny.scheduler = before
    assert edited == [True] * cross + [False] * (turns - cross)
    assert injected == [True] * own + [False] * (turns - own)


def test_a_run_that_starts_in_the_middle_has_fewer_steps():
    class Scheduler:
        num_inference_steps, timesteps = 50, range(51)

    assert steps_of(Scheduler, 51) == 50
    assert steps_of(Scheduler, 26) == 25  # an img2img pipeline of strength 0.5
    assert [step_of(turn, 4, 3) for turn in range(4)] == [0, 1, 2, 2]
    assert [step_of(turn, 5, 3) for turn in range(5)] == [0, 0, 1, 1, 2]


def test_an_edit_written_out_puts_the_pipeline_back_after_an_error(toyland, monkeypatch):
    before = dict(toyland.unet.attn_processors)
    monkeypatch.delitem(toyland.tokenizer.init_kwargs, "guidance_scale")
    with pytest.raises(KeyError):
        opened(toyland, "a cat", "a dog", lambda source, own: own, seed=0, steps=1)
    assert toyland.unet.attn_processors == before
