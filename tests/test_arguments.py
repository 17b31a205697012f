"""Every mistake of a first hour gets a message of ours at once: what was wrong, and what to do."""

import copy
import inspect
import warnings

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
from diffusers.utils import logging
from PIL import Image

import p2p_helpers as p2p
from p2p_helpers.arguments import NAMES
from p2p_helpers.prompts.weights import warn_of_weights
from p2p_helpers.provenance import settings_of

pytestmark = pytest.mark.usefixtures("untyped")
CAT, DOG = "a cat on the beach", "a dog on the beach"
PICTURE = Image.new("RGB", (128, 128), "red")


def edit(pipe, source=CAT, target=DOG, **arguments):
    return p2p.edit(pipe, source, target, **{"steps": 1, "progress": False, **arguments})


EDITS = {  # arguments of edit → what the message says
    "a picture": ({"source": PICTURE}, "inverted before it can be edited.*load_image"),
    "an array": ({"source": np.zeros((8, 8, 3))}, "inverted before"),
    "sources": ({"source": [CAT, CAT]}, "one source"),
    "no source": ({"source": None}, "source=None: give the prompt"),
    "no target": ({"target": None}, "target=None: give the prompt"),
    "a number among targets": ({"target": [DOG, 3]}, "target=3"),
    "a picture as target": ({"target": PICTURE}, "target=an Image"),
    "an inversion's file": ({"source": "fox.safetensors"}, "a file's name.*Inversion.load"),
    "a picture's file": ({"source": "my/Cat.JPG"}, "a file's name.*load_image"),
    "an empty source": ({"source": " "}, "prompt is empty"),
    "a word as edit": ({"edit": "dog"}, "'dog' is no edit"),
    "a kind of edit": ({"edit": p2p.Replace}, "Replace is a kind of edit: write Replace"),
    "one of two edits is a kind": ({"edit": [p2p.Refine]}, "write Refine"),
    "a blend for each": ({"local_blend": [p2p.LocalBlend("cat")]}, "for all targets"),
    "a blend as edit": ({"edit": p2p.LocalBlend("cat")}, "a LocalBlend is no edit"),
    "a text as seed": ({"seed": "x"}, "seed='x'"),
    "a large seed": ({"seed": 2**70}, "from 0 to 18446744073709551615"),
    "a seed below 0": ({"seed": -1}, "seed=-1"),
    "a broken seed": ({"seed": 1.5}, "seed=1.5"),
    "seed and generator": ({"seed": 0, "generator": torch.Generator()}, "not both"),
    "a mistyped name": ({"step": 3}, "take no step. Did you mean steps\\?.*local_blend"),
    "another mistyped name": ({"local_blending": "cat"}, "Did you mean local_blend"),
    "keywords": ({"kwargs": 3}, "take no kwargs"),
    "diffusers' steps": ({"num_inference_steps": 3}, "Give steps="),
    "diffusers' output": ({"output_type": "latent"}, "PIL pictures"),
    "one side": ({"width": 160}, "width alone"),
    "a side as text": ({"width": "128", "height": 128}, "width='128'"),
    "an odd side": ({"width": 100, "height": 128}, "multiple of 8, e.g. 96"),
    "a file as record": ({"record": "maps.safetensors"}, "record='maps.safetensors'"),
    "a kind of blend": ({"local_blend": p2p.LocalBlend}, "local_blend=the class LocalBlend: give"),
    "the class as record": ({"record": p2p.Record}, "record=the class Record: give True"),
    "a kind of generator": ({"generator": torch.Generator}, "generator=the class Generator"),
    "the function as record": ({"record": p2p.record}, "record=a function"),
    "no callback": ({"callback": 3}, "callback=3: give a function"),
    "a number as generator": ({"generator": 3}, "generator=3.*use seed="),
    "generators": ({"generator": [torch.Generator(), torch.Generator()]}, "Give one generator"),
    "guidance as text": ({"guidance_scale": "7.5"}, "guidance_scale='7.5'"),
    "guidance NaN": ({"guidance_scale": float("nan")}, "guidance_scale=nan.*finite"),
    "much guidance": ({"guidance_scale": 1e30}, "guidance_scale=1e\\+30"),
    "too many steps": ({"steps": 1000}, "scheduler begins at 1"),
    "more steps than times": ({"steps": 1001}, "trained with 1000 times"),
    "steps as text": ({"steps": "30"}, "steps='30'"),
    "half a step": ({"steps": 2.5}, "steps=2.5"),
    "a number as blend": ({"local_blend": 3}, "local_blend=3: give words"),
    "a picture as blend": ({"local_blend": PICTURE}, "mask=..."),
    "embeddings": ({"prompt_embeds": torch.zeros(1)}, "prompt_embeds: edit\\(\\) lines up"),
    "negative embeddings": ({"negative_prompt_embeds": torch.zeros(1)}, "needs them as text"),
    "latents as an array": ({"latents": np.zeros((1, 8, 16, 16))}, "float64 .*from_numpy"),
    "latents of one row": ({"latents": torch.zeros(8, 16, 16)}, "\\(1, 8, height, width\\)"),
    "latents of another model": ({"latents": torch.zeros(1, 4, 16, 16)}, "\\(1, 8, height"),
    "latents of whole numbers": ({"latents": torch.zeros(1, 8, 16, 16).int()}, "a float tensor"),
    "latents of another size": (
        {"latents": torch.zeros(1, 8, 16, 16), "height": 128, "width": 160},
        "\\(1, 8, 16, 16\\) do not fit height=128, width=160.*\\(1, 8, 16, 20\\)",
    ),
    "latents of no size": ({"latents": torch.zeros(1, 8, 0, 0)}, "\\(1, 8, 0, 0\\).*at least 1"),
    "latents NaN": ({"latents": torch.full((1, 8, 16, 16), torch.nan)}, "latents hold infinities"),
    "latents inf": ({"latents": torch.full((1, 8, 16, 16), torch.inf)}, "latents hold infinities"),
    "own times": ({"timesteps": [900, 500, 1]}, "timesteps: DDIMScheduler takes none.*give steps="),
    "own noise": ({"sigmas": [1.0, 0.5]}, "sigmas: DDIMScheduler takes none.*EulerDiscrete"),
    "a picture for no adapter": ({"ip_adapter_image": PICTURE}, "load_ip_adapter"),
    "latents as text": ({"latents": "noise"}, "latents='noise'.*seed draws it"),
    "negative prompts": ({"negative_prompt": ["a", "b"]}, "one text for all prompts"),
}


def test_the_names_that_a_message_offers_are_edits():
    names = [*inspect.signature(p2p.edit).parameters]
    assert ["pipe", "source", "target", *NAMES, "pipeline_arguments"] == names


@pytest.mark.parametrize("name", EDITS)
def test_edit_explains(random_pipe, name):
    arguments, says = EDITS[name]
    with pytest.raises(p2p.InputError, match="(?s)" + says):
        edit(random_pipe, **arguments)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda pipe: p2p.words(pipe, CAT), "StableDiffusionPipeline is no tokenizer"),
        (lambda pipe: p2p.find_words(pipe, CAT, "cat"), "pipe.tokenizer"),
        (lambda pipe: p2p.replacement_matrix(pipe, CAT, DOG), "no tokenizer"),
        (lambda pipe: p2p.refinement_alignment(pipe, CAT, DOG), "no tokenizer"),
        (lambda pipe: p2p.alignment(pipe, CAT, DOG, torch.eye(32)), "no tokenizer"),
        (lambda pipe: p2p.show_edit(p2p.Reweight({"cat": 2}), pipe, CAT, CAT), "no tokenizer"),
        (lambda pipe: p2p.words(pipe.tokenizer, None), "None is no prompt"),
        (lambda pipe: p2p.words(pipe.tokenizer, [CAT]), "is no prompt"),
        (lambda pipe: p2p.Reweight({"cat": 1e39}), "weight of 'cat'=1e\\+39"),
        (lambda pipe: p2p.Reweight({"cat": "2"}), "weight of 'cat'='2'"),
        (lambda pipe: p2p.LocalBlend("cat", threshold="0.3"), "threshold='0.3'"),
        (lambda pipe: p2p.LocalBlend(5), "5 is no word"),
        (lambda pipe: p2p.LocalBlend("cat", exclude=5), "5 is no word"),
        (lambda pipe: p2p.Replace(self_size="0.5"), "self_size is a share.*'0.5'"),
        (lambda pipe: p2p.Replace(layers=7), "layers=7"),
        (lambda pipe: p2p.invert(pipe, PICTURE, None), "prompt=None"),
        (lambda pipe: p2p.invert(pipe, PICTURE, [CAT]), "give one text"),
        (lambda pipe: p2p.invert(pipe, "cat.png", CAT), "load_image\\('cat.png', pipe\\)"),
        (lambda pipe: p2p.invert(pipe, np.zeros((8, 8, 3)), CAT), "A picture is needed"),
        (lambda pipe: p2p.invert(pipe, PICTURE, CAT, steps="50"), "steps='50'"),
        (lambda pipe: p2p.invert(pipe, PICTURE, CAT, guidance_scale="7"), "guidance_scale='7'"),
        (lambda pipe: p2p.invert(pipe, PICTURE, CAT, checkpoint=3), "checkpoint=3"),
        (lambda pipe: p2p.invert(pipe, PICTURE, CAT, callback=3), "callback=3.*the step's number"),
        (lambda pipe: p2p.Inversion.load(None), "path=None"),
        (lambda pipe: p2p.show(PICTURE), "not an Image"),
        (lambda pipe: p2p.show([PICTURE]), "gallery"),
        (lambda pipe: p2p.gallery([3]), "A picture is needed, not 3"),
        (lambda pipe: p2p.explore(PICTURE), "not an Image"),
        (
            lambda pipe: p2p.slider([PICTURE] * 2, [0, 1], "x").save("no/x.html"),
            "cannot be written",
        ),
        (lambda pipe: p2p.record(pipe, 3).__enter__(), "record=3"),
        (lambda pipe: p2p.invert(pipe, PICTURE, CAT, checkpoint="."), "is a folder"),
        (
            lambda pipe: p2p.invert(pipe, PICTURE, CAT, method="direct", checkpoint="x"),
            "for null-text",
        ),
    ],
)
def test_the_rest_explains(random_pipe, call, says):
    with pytest.raises(p2p.InputError, match="(?s)" + says):
        call(random_pipe)


def test_words_alone_are_a_local_blend(random_pipe):
    for words in ("cat", ("cat", "dog"), ["cat", "dog"], ("cat", 1)):
        blended = edit(random_pipe, local_blend=words)
        assert blended.local_blend == p2p.LocalBlend(words)
    with pytest.raises(TypeError):
        p2p.LocalBlend("cat", "dog")  # once this kept the dog's place


def test_a_result_says_what_its_own_pictures_were_made_with(random_pipe):
    pipe = copy.copy(random_pipe)
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    how = {"timesteps": [900, 500, 100], "height": 64, "width": 96}
    first = edit(pipe, guidance_scale=3.0, negative_prompt="a dog", **how)
    assert first.steps == 3
    again = p2p.edit(pipe, first, DOG, guidance_scale=9.0, negative_prompt="a fox", progress=False)
    source, target = settings_of(again), settings_of(again, 0)
    assert (source["height"], source["width"]) == (target["height"], target["width"]) == (64, 96)
    assert (source["guidance_scale"], source["negative_prompt"]) == (3.0, "a dog")
    assert (target["guidance_scale"], target["negative_prompt"]) == (9.0, "a fox")
    assert settings_of(p2p.edit(pipe, again, DOG, progress=False))["guidance_scale"] == 3.0


FIXED = {
    "seed": 3,
    "generator": torch.Generator(),
    "latents": torch.zeros(1, 8, 16, 16),
    "height": 256,
    "width": 256,
    "eta": 0.5,
    "timesteps": [1],
    "sigmas": [1.0],
}


@pytest.fixture(scope="module")
def inverted(random_pipe):
    return p2p.invert(random_pipe, PICTURE, CAT, method="direct", steps=2, progress=False)


@pytest.mark.parametrize("name", FIXED)
def test_what_a_known_source_has_decided_is_refused(random_pipe, inverted, name):
    for source in (inverted, edit(random_pipe, seed=1)):
        with pytest.raises(p2p.InputError, match=f"leave {name} out"):
            p2p.edit(random_pipe, source, DOG, progress=False, **{name: FIXED[name]})


@pytest.mark.parametrize("name", ["image", "strength", "mask_image"])
def test_an_inversion_takes_no_other_picture(random_pipe, inverted, name):
    pipe = StableDiffusionImg2ImgPipeline(**random_pipe.components, requires_safety_checker=False)
    with pytest.raises(p2p.InputError, match=f"leave {name} out|takes no"):
        p2p.edit(pipe, inverted, DOG, progress=False, **{name: 0.5})
    with pytest.raises(p2p.InversionError, match="from text to image"):
        p2p.invert(pipe, PICTURE, CAT)


def of_kind(kind, pipe):
    """The same model as a pipeline of another kind."""
    net = {"controlnet": ControlNetModel.from_unet(pipe.unet)} if "Control" in kind.__name__ else {}
    return kind(**pipe.components, **net, requires_safety_checker=False)


NEEDED = {  # a kind of pipeline, its arguments → what the message says
    "no picture": (StableDiffusionImg2ImgPipeline, {}, "image=load_image"),
    "None": (StableDiffusionImg2ImgPipeline, {"image": None}, "image=load_image"),
    "a file": (StableDiffusionImg2ImgPipeline, {"image": "cat.png"}, "'cat.png'.*image=load_image"),
    "one of two": (StableDiffusionImg2ImgPipeline, {"image": [PICTURE, None]}, "image=load_image"),
    "no mask": (StableDiffusionInpaintPipeline, {"image": PICTURE}, "mask_image=Image.open"),
    "a ControlNet's": (StableDiffusionControlNetPipeline, {}, "image=load_image"),
}


@pytest.mark.parametrize("name", NEEDED)
def test_a_picture_that_a_pipeline_needs_is_asked_for(random_pipe, name):
    kind, arguments, says = NEEDED[name]
    pipe = of_kind(kind, random_pipe)
    with pytest.raises(p2p.InputError, match=says):
        edit(pipe, **arguments)
    with pytest.raises(p2p.InputError, match="image=load_image|mask_image=Image|leave .*image out"):
        p2p.edit(pipe, edit(random_pipe), DOG, progress=False, **arguments)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"strength": 0.1, "steps": 3}, "strength=0.1, steps=3.*no step is left.*Raise"),
        ({}, "strength=0.8, steps=1.*no step is left"),
        ({"strength": 2}, "strength=2: it must be a share"),
        ({"strength": "1"}, "strength='1': it must be a share"),
    ],
)
def test_a_strength_leaves_a_step(random_pipe, arguments, says):
    pipe = of_kind(StableDiffusionImg2ImgPipeline, random_pipe)
    with pytest.raises(p2p.InputError, match=says):
        edit(pipe, image=PICTURE, **arguments)
    edit(pipe, image=PICTURE, strength=1.0)


def test_latents_of_another_precision_are_taken(random_pipe):
    latents = torch.ones(1, 8, 16, 16)
    ours, double = (edit(random_pipe, latents=one) for one in (latents, latents.double()))
    np.testing.assert_array_equal(np.asarray(ours.image), np.asarray(double.image))


def test_what_acts_beside_an_inversion(random_pipe, inverted):
    plain = p2p.edit(random_pipe, inverted, DOG, progress=False)
    acts = p2p.edit(random_pipe, inverted, DOG, progress=False, guidance_rescale=0.7)
    assert np.any(np.asarray(plain.image) != np.asarray(acts.image))


def test_null_text_needs_gradients(random_pipe):
    with torch.inference_mode(), pytest.raises(p2p.InversionError, match="inference_mode"):
        p2p.invert(random_pipe, PICTURE, CAT)
    with (
        p2p.record(random_pipe),
        pytest.raises(p2p.AttentionControlError, match="recorded already"),
    ):
        p2p.invert(random_pipe, PICTURE, CAT, progress=False)


WEIGHTED = {
    "a (cat:1.3) here": "cat",
    "a [cat:0.5] here": "cat",
    "in ((falling snow)) now": "falling snow",
    "a [[cat]] here": "cat",
    "a cat++ here": "cat",
    "a (black cat)-- here": "black cat",
    "a (cat: 1) here": "cat",
}


@pytest.mark.parametrize("prompt", WEIGHTED)
def test_weights_in_a_prompt_are_warned_of(prompt):
    with pytest.warns(p2p.InputWarning, match="Reweight") as seen:
        warn_of_weights(prompt)
    assert f"does not turn {WEIGHTED[prompt]!r} up" in str(seen[0].message)


@pytest.mark.parametrize(
    "prompt",
    ["a cat (and a dog)", "at 10:30", "a t-shirt", "C++ code", "a cat -- a dog", "a [sic] b", CAT],
)
def test_other_brackets_and_signs_are_none(prompt):
    with warnings.catch_warnings():
        warnings.simplefilter("error" if prompt != "C++ code" else "ignore")
        warn_of_weights(prompt)


@pytest.mark.filterwarnings("ignore::p2p_helpers.UnknownWordWarning")
def test_edit_and_invert_warn_of_weights(random_pipe):
    with pytest.warns(p2p.InputWarning, match="cat:1.3"):
        edit(random_pipe, "a (cat:1.3) here", "a (dog:1.3) here")
    with pytest.warns(p2p.InputWarning, match="cat:1.3"):
        p2p.invert(random_pipe, PICTURE, "a (cat:1.3)", method="ddim", steps=1, progress=False)


def test_latents_that_are_no_numbers_are_an_error(random_pipe):
    def spoil(pipe, step, timestep, tensors):
        if step == 1:
            tensors["latents"][1] = torch.nan
        return tensors

    with pytest.raises(p2p.InputError, match="from step 2 of 3 on.*too large"):
        edit(random_pipe, steps=3, callback=spoil)


def test_latents_that_overflow_in_float16_are_said_as_such(random_pipe):
    def spoil(pipe, step, timestep, tensors):
        return {"latents": torch.full_like(tensors["latents"], torch.inf)}

    half = {k: copy.deepcopy(v) for k, v in random_pipe.components.items()}
    pipe = StableDiffusionPipeline(**half, requires_safety_checker=False).to(torch.float16)
    with pytest.raises(p2p.InputError, match="overflow in float16: load it with dtype"):
        edit(pipe, callback=spoil)


def test_zero_terminal_snr_with_noise_prediction_is_named(random_pipe):
    before = random_pipe.scheduler
    zero = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    random_pipe.scheduler = DDIMScheduler.from_config(before.config, **zero)
    try:
        with pytest.raises(p2p.InputError, match="from step 1 of 2 on.*zero terminal SNR"):
            edit(random_pipe, steps=2)
    finally:
        random_pipe.scheduler = before


def test_a_scheduler_that_ignores_generators_is_warned_of(random_pipe):
    before = random_pipe.scheduler
    random_pipe.scheduler = DDIMScheduler.from_config(before.config)
    random_pipe.scheduler.register_to_config(noise_sampler_seed=None)  # as DPMSolverSDE has it
    try:
        with pytest.warns(p2p.InputWarning, match="that the seed does not decide"):
            edit(random_pipe)
    finally:
        random_pipe.scheduler = before


UNFIT = {
    "IPNDMScheduler": "it does not say how much noise",
    "FlowMatchEulerDiscreteScheduler": "it has no init_noise_sigma",
    "DDIMInverseScheduler": "its times rise",
    "DPMSolverMultistepInverseScheduler": "its times rise",
    "RePaintScheduler": r"its step\(\) also asks for original_image, mask",
    "KarrasVeScheduler": r"its step\(\) also asks for sigma_hat",
    "ScoreSdeVeScheduler": "it has no step",
}


@pytest.mark.parametrize("name", UNFIT)
def test_a_scheduler_that_does_not_fit_is_refused(random_pipe, name):
    pipe = copy.copy(random_pipe)
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config)
    says = f"{name} does not fit StableDiffusionPipeline: {UNFIT[name]}.*DDIMScheduler.from_config"
    for change in (p2p.Replace(), p2p.Replace() | p2p.Move("dog", dx=0.2)):
        with pytest.raises(p2p.InputError, match=says):
            edit(pipe, edit=change, steps=3)


FIT = [
    "Euler",
    "EulerAncestral",
    "Heun",
    "DPMSolverMultistep",
    "UniPCMultistep",
    "DDPM",
    "LCM",
    "TCD",
]


@pytest.mark.parametrize("name", FIT)
def test_other_schedulers_run(random_pipe, name):
    pipe = copy.copy(random_pipe)
    kinds = [f"{name}Scheduler", f"{name}DiscreteScheduler"]
    kind = next(getattr(diffusers, one) for one in kinds if hasattr(diffusers, one))
    pipe.scheduler = kind.from_config(pipe.scheduler.config)
    assert edit(pipe, steps=2, edit=p2p.Replace()).image.size == (128, 128)


def test_a_progress_bar_that_was_switched_off_stays_off(random_pipe, capsys):
    shown = logging.is_progress_bar_enabled()
    logging.enable_progress_bar()
    before = dict(random_pipe._progress_bar_config)
    try:
        random_pipe.set_progress_bar_config(disable=True)
        edit(random_pipe, progress=True)
        p2p.invert(random_pipe, PICTURE, CAT, steps=1, inner_steps=1, progress=True)
        assert capsys.readouterr().err == ""
        random_pipe.set_progress_bar_config(disable=False, desc="mine")
        edit(random_pipe, progress=True)
        assert "mine" in capsys.readouterr().err
        edit(random_pipe, progress=False)
        assert capsys.readouterr().err == ""
    finally:
        random_pipe.set_progress_bar_config(**before)
        (logging.enable_progress_bar if shown else logging.disable_progress_bar)()


def test_a_users_own_encode_prompt_survives_record(random_pipe):
    calls, own = [], random_pipe.encode_prompt

    def mine(*args, **kwargs):
        calls.append(args)
        return own(*args, **kwargs)

    random_pipe.encode_prompt = mine
    try:
        with p2p.record(random_pipe) as maps:
            random_pipe(CAT, num_inference_steps=1)
        assert len(calls) == 1 and maps["cat"] is not None
        assert random_pipe.encode_prompt is mine
    finally:
        del random_pipe.encode_prompt
    assert "encode_prompt" not in vars(random_pipe)


def test_paths_may_begin_at_home(inverted, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    PICTURE.save(tmp_path / "cat.png")
    assert p2p.load_image("~/cat.png").size == PICTURE.size
    inverted.save("~/cat.safetensors")
    assert p2p.Inversion.load("~/cat.safetensors").prompt == CAT
    assert (tmp_path / "cat.safetensors").exists()
