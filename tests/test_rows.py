"""Nobody computes what nobody needs: the rows of a source whose latents are known."""

import copy
import pickle

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerAncestralDiscreteScheduler

import p2p_helpers as p2p
from p2p_helpers.provenance import settings_of
from p2p_helpers.toyland import caption, render, scene_at

CAT, DOG, SNOWMAN = "a cat on the beach", "a dog on the beach", "a snowman on the beach"
HASH = "latents sha256"
RUN = {"steps": 10, "seed": 3, "progress": False}


def rows_of(pipe, run) -> tuple[list[int], p2p.EditResult]:
    """How many rows each call of the UNet has, and what the run gives."""
    seen = []
    hook = pipe.unet.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    try:
        return seen, run()
    finally:
        hook.remove()


def apart(one, other) -> int:
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other)).max())


@pytest.mark.parametrize("guidance", [4.0, 1.0])
def test_the_second_edit_of_one_picture_computes_less(toyland, guidance):
    """With cross 0.8 and self 0.4 of ten steps: three rows as long as it borrows, then two."""
    first = p2p.edit(toyland, CAT, DOG, guidance_scale=guidance, **RUN)
    seen, second = rows_of(toyland, lambda: p2p.edit(toyland, first, SNOWMAN, progress=False))
    fresh = p2p.edit(toyland, CAT, SNOWMAN, guidance_scale=guidance, **RUN)
    assert seen == ([3] * 8 + [2] * 2 if guidance > 1 else [2] * 8 + [1] * 2)
    assert apart(second.source, first.source) <= 1
    assert apart(second.image, fresh.image) <= 1
    assert (second.steps, second.seed, second.guidance_scale) == (10, 3, guidance)
    third = p2p.edit(toyland, second, DOG, progress=False)
    assert apart(third.image, first.image) <= 1


def test_a_source_that_someone_looks_at_runs(toyland):
    """Recorded or blended by words, its maps are needed in every step; with a mask of one's own they are not."""
    first = p2p.edit(toyland, CAT, DOG, **RUN)
    for more in ({"record": True}, {"local_blend": p2p.LocalBlend(("cat", "dog"))}):
        seen, found = rows_of(
            toyland, lambda more=more: p2p.edit(toyland, first, DOG, progress=False, **more)
        )
        assert set(seen) == {3}
        fresh = p2p.edit(toyland, CAT, DOG, **RUN, **more)
        assert apart(found.image, fresh.image) <= 2
    mask = {"local_blend": p2p.LocalBlend(mask=np.ones((16, 16)))}
    assert set(
        rows_of(toyland, lambda: p2p.edit(toyland, first, DOG, progress=False, **mask))[0]
    ) == {2, 3}


@pytest.mark.parametrize("method", ["ddim", "null-text", "direct", "exact"])
def test_an_inversions_pivot_is_known(toyland, method):
    scene = scene_at("test", 3)
    prompt = caption(scene)
    target = prompt.replace("tree", "pumpkin")
    run = {"steps": 6, "inner_steps": 1, "guidance_scale": 4.0, "progress": False}
    inversion = p2p.invert(toyland, render(scene)[0], prompt, method=method, **run)
    seen, first = rows_of(toyland, lambda: p2p.edit(toyland, inversion, target, progress=False))
    assert set(seen) == ({2, 3} if method in ("direct", "exact") else {4})
    assert apart(first.source, inversion.reconstruction) <= 2
    seen, again = rows_of(toyland, lambda: p2p.edit(toyland, first, target, progress=False))
    assert set(seen) == {2, 3}
    assert apart(again.image, first.image) <= 1


def test_schedulers_that_draw_noise_draw_the_same(toyland):
    before = toyland.scheduler
    toyland.scheduler = EulerAncestralDiscreteScheduler.from_config(before.config)
    try:
        generator = torch.Generator().manual_seed(5)
        first = p2p.edit(toyland, CAT, DOG, steps=6, generator=generator, progress=False)
        second = p2p.edit(toyland, first, DOG, progress=False)
        assert apart(second.image, first.image) <= 1
        toyland.scheduler = DDIMScheduler.from_config(before.config)
        with pytest.raises(p2p.InputError, match="another scheduler"):
            p2p.edit(toyland, first, DOG, progress=False)
    finally:
        toyland.scheduler = before


def test_what_does_not_go_on_is_explained(toyland, random_pipe):
    first = p2p.edit(toyland, CAT, DOG, steps=2, progress=False)
    for run, says in [
        (lambda: p2p.edit(random_pipe, first, DOG), "another pipeline"),
        (lambda: p2p.edit(toyland, first, DOG, steps=3), "took 2"),
        (lambda: p2p.edit(toyland, first, DOG, generator=torch.Generator()), "leave generator out"),
        (lambda: p2p.edit(toyland, first, DOG, clip_skip=1), "made with another clip_skip"),
        (lambda: p2p.edit(toyland, first, DOG, output_type="latent"), "sets .* output_type itself"),
    ]:
        with pytest.raises(p2p.InputError, match=says):
            run()
    p2p.edit(toyland, first, DOG, clip_skip=None, guidance_rescale=0.5, progress=False)


def test_a_result_from_another_process_shows_and_does_not_go_on(random_pipe):
    run = {"local_blend": ("cat", "dog"), "record": True, "steps": 2, "progress": False}
    made = p2p.edit(random_pipe, CAT, DOG, **run)
    read = pickle.loads(pickle.dumps(made))
    again = pickle.loads(pickle.dumps(read))
    assert again.edits == made.edits and again.local_blend == made.local_blend
    assert apart(again.image, made.image) == 0
    assert np.array_equal(again.maps["dog"], made.maps["dog"])
    with pytest.raises(p2p.InputError, match="another pipeline"):
        p2p.edit(random_pipe, again, DOG, progress=False)
    p2p.edit(random_pipe, copy.deepcopy(made), DOG, progress=False)


@pytest.mark.parametrize("seed", [None, 3])
def test_where_latents_were_given_no_seed_is_said_to_decide_them(random_pipe, seed):
    pipe = copy.copy(random_pipe)
    pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
    latents = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(1))
    first = p2p.edit(pipe, CAT, DOG, seed=seed, latents=latents, steps=3, progress=False)
    assert first.seed == seed  # it decides a scheduler's noise
    second = p2p.edit(pipe, first, DOG, progress=False)
    assert second.seed == seed and apart(second.image, first.image) <= 1
    said = settings_of(first)[HASH]
    assert said == settings_of(second)[HASH] and len(said) == 64
    other = p2p.edit(pipe, CAT, DOG, latents=latents.flip(0, 2), steps=1, progress=False)
    assert settings_of(other)[HASH] != said
    assert HASH not in settings_of(p2p.edit(pipe, CAT, DOG, steps=1, progress=False))
