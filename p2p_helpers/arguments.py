"""What a call of `edit` is given: refused, with what to do instead, where no run could be made of it."""

from __future__ import annotations

import difflib
import inspect
import math
import numbers
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from PIL import Image

from .attention.families import family_of
from .attention.family import bare
from .blend import LocalBlend
from .edits.edit import Edit
from .edits.words import Replace
from .errors import AttentionControlError, InputError, InputWarning, PromptError
from .inversion.artefact import Inversion
from .known import begins_with_picture
from .prompts.words import check_readable, words
from .result import EditResult
from .stages import Stage
from .values import FILES, MOST_GUIDANCE, finite_number, shown, whole_number

# The pipeline's arguments that edit() sets itself, and what to do instead.
OURS = {
    "prompt": "It is the source and the targets.",
    "num_inference_steps": "Give steps=.",
    "num_images_per_prompt": "Call it once for each seed.",
    "output_type": "The result's images are PIL pictures; its latents come to callback=.",
    "return_dict": "It gives an EditResult.",
    "callback_on_step_end": "Give callback=.",
}
NAMES = (  # of edit() itself
    "edit",
    "local_blend",
    "seed",
    "generator",
    "steps",
    "guidance_scale",
    "negative_prompt",
    "record",
    "callback",
    "progress",
)
NEEDED = {  # pictures without which a pipeline that takes them makes none, and how to give them
    "image": "image=load_image(file, pipe)",
    "control_image": "control_image=load_image(file, pipe)",
    "mask_image": "mask_image=Image.open(file), white where the picture may change",
}
CALLBACK_INPUTS = "callback_on_step_end_tensor_inputs"
TIMES = ("timesteps", "sigmas")  # they decide how many steps there are
USUAL_GUIDANCE = "7.5 is usual for Stable Diffusion, 4 for Toyland."


def check_pipeline(pipe):
    """Refuse what is no pipeline, and one whose model no family knows."""
    if not isinstance(pipe, DiffusionPipeline):
        raise AttentionControlError(
            f"{type(pipe).__name__} is no diffusers pipeline. Load one with load_pipeline()."
        )
    family_of(pipe)


def check_source(source):
    """Refuse what is no source."""
    if isinstance(source, str) and Path(source).suffix.lower() in FILES:
        raise InputError(
            f"source={shown(source)} is a file's name, and no prompt. Give Inversion.load({shown(source)}) for an inversion; for a "
            "picture invert(pipe, load_image(file, pipe), prompt)."
        )
    if isinstance(source, (str, Inversion, EditResult)):
        return
    if isinstance(source, (Image.Image, np.ndarray, torch.Tensor)):
        raise InputError(
            "A picture has to be inverted before it can be edited: "
            'inversion = invert(pipe, load_image(file, pipe), "what it shows"), then '
            "edit(pipe, inversion, target)."
        )
    if isinstance(source, (list, tuple)):
        raise InputError(
            f"source={shown(source)}: an edit has one source and one target or several. Call "
            "edit() once for each source."
        )
    raise InputError(
        f"source={shown(source)}: give the prompt of the picture to start from, an Inversion or "
        "an earlier EditResult."
    )


def targets(target) -> list[str]:
    """The target prompts, one or several."""
    found = list(target) if isinstance(target, (list, tuple)) else [target]
    if not found:
        raise InputError("No target prompt: give one prompt or a list with at least one.")
    wrong = [prompt for prompt in found if not isinstance(prompt, str)]
    if wrong:
        raise PromptError(
            f"target={shown(wrong[0])}: give the prompt of the edited picture, or a list of prompts."
        )
    return found


def one_each(edit: Edit | Sequence[Edit] | None, targets: Sequence[str]) -> list[Edit]:
    """One edit for each target."""
    edit = Replace() if edit is None else edit
    edits: list = list(edit) if isinstance(edit, (list, tuple)) else [edit] * len(targets)
    wrong = [e for e in edits if not isinstance(e, Edit)]
    if wrong and isinstance(wrong[0], type) and issubclass(wrong[0], Edit):
        raise InputError(f"{wrong[0].__name__} is a kind of edit: write {wrong[0].__name__}(...).")
    if wrong:
        raise InputError(
            f"{shown(wrong[0])} is no edit. Give Replace(), Refine(), Reweight(...), a composition with |, or a list of those."
        )
    if len(edits) != len(targets):
        raise InputError(
            f"{len(edits)} edits for {len(targets)} target prompts: give one edit for all, or one for each."
        )
    return edits


def as_blend(local_blend) -> LocalBlend | None:
    """The local blend; a word or several words alone mean `LocalBlend(words)`."""
    if local_blend is None or isinstance(local_blend, LocalBlend):
        return local_blend
    several = isinstance(local_blend, (tuple, list))
    if several and any(isinstance(one, LocalBlend) for one in local_blend):
        raise InputError(
            'One local blend is for all targets: name the words of all, LocalBlend(("fox", "panda")), or call edit() for each.'
        )
    if isinstance(local_blend, str) or several:
        return LocalBlend(local_blend)
    raise InputError(
        f'local_blend={shown(local_blend)}: give words, e.g. ("cat", "dog"), or '
        "LocalBlend(mask=...) for a mask of your own."
    )


def whole_seed(seed) -> int:
    """A seed that torch takes."""
    advice = "The same seed gives the same picture."
    return whole_number("seed", seed, 0, 2**64 - 1, advice)


def check_stages(stages: Sequence[Sequence[Stage]]):
    """Refuse several targets where one of them takes several runs."""
    several = [own for own in stages if len(own) > 1]
    if several and len(stages) > 1:
        parts = ", then ".join(repr(stage.edit) for stage in several[0])
        raise InputError(
            f"{parts}: an edit of words and places takes a run for each, so it cannot stand beside other targets. Call edit() "
            "for each target."
        )


def check_generator(generator):
    """Refuse what is no generator."""
    if isinstance(generator, (list, tuple)):
        raise InputError(
            "Give one generator: source and targets all start from the noise that it draws."
        )
    if not isinstance(generator, torch.Generator):
        raise InputError(
            f"generator={shown(generator)} is no torch.Generator. For a number use seed=."
        )


def check_prompts(prompts: Sequence[str], negative_prompt):
    """Refuse empty prompts, half characters, files' names, and a negative prompt that is no text."""
    if negative_prompt is not None and not isinstance(negative_prompt, str):
        raise InputError(
            f"negative_prompt={shown(negative_prompt)}: it is one text for all prompts."
        )
    if not all(prompt.strip() for prompt in prompts):
        raise PromptError("A prompt is empty. Source and targets each need at least one word.")
    for prompt in (*prompts, negative_prompt or ""):
        check_readable(prompt)


def check_negative_length(tokenizer, read: str):
    """Refuse a negative prompt that is too long, as the tokenizer reads it."""
    try:
        words(tokenizer, read)
    except PromptError as error:
        raise PromptError(f"negative_prompt: {error}") from None


def check_numbers(guidance_scale, steps):
    """Refuse numbers that no run can be made with."""
    finite_number("guidance_scale", guidance_scale, MOST_GUIDANCE, USUAL_GUIDANCE)
    advice = "These are denoising steps; 30 are usual."
    whole_number("steps", steps, 1, 100_000, advice)


def check_scheduler(pipe, arguments: dict[str, Any]):
    """Refuse a scheduler that fits no pipeline of the model's family, and times of the user's own that it does not take."""
    scheduler = getattr(pipe, "scheduler", None)
    if not isinstance(scheduler, SchedulerMixin):
        return  # another error says so
    needs = ["set_timesteps", "step", "order"]
    needs += [] if family_of(pipe).flow else ["init_noise_sigma", "scale_model_input"]
    lacks = [name for name in needs if not hasattr(scheduler, name)]
    if lacks:
        raise _unfit(pipe, f"it has no {lacks[0]}")
    own = inspect.signature(scheduler.step).parameters.values()
    asks = [p.name for p in own if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    more = [name for name in asks if name not in ("model_output", "timestep", "sample")]
    if more:
        raise _unfit(pipe, f"its step() also asks for {', '.join(more)}")
    if not (hasattr(scheduler, "sigmas") or hasattr(scheduler, "alphas_cumprod")):
        raise _unfit(pipe, "it does not say how much noise there is at a step")
    for name in TIMES:
        takes = inspect.signature(scheduler.set_timesteps).parameters
        if arguments.get(name) is not None and name not in takes:
            raise InputError(
                f"{name}: {type(scheduler).__name__} takes none of your own. Leave it out and give steps=, or take another scheduler, "
                "e.g. EulerDiscreteScheduler."
            )


def _unfit(pipe, why: str) -> InputError:
    """What to say of a scheduler that does not fit."""
    flows = family_of(pipe).flow
    other = "FlowMatchEulerDiscreteScheduler" if flows else "DDIMScheduler"
    return InputError(
        f"{type(pipe.scheduler).__name__} does not fit {type(pipe).__name__}: {why}. Take the scheduler that the model came with, or "
        f"make {other}.from_config() of its configuration."
    )


def check_schedule(pipe, steps: int):
    """Refuse a scheduler that runs backwards, and more steps than the scheduler has, and warn if the seed does not decide its noise."""
    if not isinstance(getattr(pipe, "scheduler", None), SchedulerMixin):
        return  # another error says so
    config, name = pipe.scheduler.config, type(pipe.scheduler).__name__
    # Pipelines of flow matching hand no generator to a scheduler that asks for one.
    flows = config.get("stochastic_sampling") or name == "FlowMatchLCMScheduler"
    if "noise_sampler_seed" in config or flows:
        other = (
            "FlowMatchEulerDiscreteScheduler without stochastic_sampling"
            if flows
            else "any whose step() takes a generator, e.g. DPMSolverMultistepScheduler"
        )
        warnings.warn(
            f"{name} draws noise that the seed does not decide, so the same seed gives other pictures, and source and targets get other "
            f"noise. Take another scheduler: {other}.",
            InputWarning,
            stacklevel=4,
        )
    # A new one: a copy would hold what a session has changed.
    scheduler = type(pipe.scheduler).from_config(config)
    most = scheduler.config.get("num_train_timesteps", steps)
    why = f"the model was trained with {most} times"
    try:
        if steps <= most:
            shifts = scheduler.config.get("use_dynamic_shifting", False)
            scheduler.set_timesteps(steps, **({"mu": 1.0} if shifts else {}))
            if scheduler.timesteps[0] < scheduler.timesteps[-1]:
                raise _unfit(pipe, "its times rise, so it leads from a picture to noise")
            # Flow matching begins at the last time itself, others count them from 0.
            if float(scheduler.timesteps.max()) < most + (not hasattr(scheduler, "betas")):
                return
            offset = scheduler.config.get("steps_offset", 0)
            why += f", and its scheduler begins at {offset}"
    except InputError:
        raise
    except (ValueError, IndexError, TypeError) as error:
        why = f"{type(scheduler).__name__} says: {error}"
    raise InputError(f"steps={steps}: {why}. Take fewer steps; 30 are usual.")


def check_strength(pipe, steps: int, arguments: dict[str, Any]):
    """Refuse a strength at which img2img and inpainting have no step left."""
    takes = inspect.signature(pipe.__call__).parameters
    latent_consistency = "original_inference_steps" in takes  # it takes the share of those
    if (
        "strength" not in takes
        or latent_consistency
        or arguments.get("denoising_start") is not None
    ):
        return
    strength = arguments.get("strength", takes["strength"].default)
    share = float(strength) if isinstance(strength, numbers.Real) else math.nan
    if not 0 <= share <= 1:
        raise InputError(f"strength={shown(strength)}: it must be a share of the steps, 0…1.")
    left = steps * share
    if (int(left) if hasattr(pipe, "unet") else math.ceil(left)) < 1:
        raise InputError(
            f"strength={strength}, steps={steps}: {type(pipe).__name__} runs that share of the steps, and no step is left. Raise "
            "strength or steps."
        )


def check_arguments(pipe, arguments: dict[str, Any]):
    """Refuse arguments that are ours, or that the pipeline does not take."""
    taken = sorted(set(OURS) & set(arguments))
    if taken:
        raise InputError(f"edit() sets the pipeline's {taken[0]} itself. {OURS[taken[0]]}")
    embedded = sorted(name for name in arguments if "prompt_embeds" in name)
    if embedded:
        raise InputError(
            f"{', '.join(embedded)}: edit() lines up the words of prompts, so it needs them as "
            "text. For embeddings of your own teach the tokenizer a word "
            "(pipe.load_textual_inversion), or set pipe.encode_prompt."
        )
    accepted = {
        name: parameter
        for name, parameter in inspect.signature(pipe.__call__).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    }
    has_tokenizer = any(getattr(pipe, name, None) for name in ("tokenizer", "tokenizer_2"))
    if not has_tokenizer:
        raise AttentionControlError(f"{type(pipe).__name__} makes no picture from a text.")
    if not hasattr(pipe, "unet") and {"prompt_2", "prompt_3"} & set(arguments):
        raise InputError(
            "prompt_2, prompt_3: edit() lines up the words of one prompt for all text encoders. Leave them out."
        )
    unknown = sorted(set(arguments) - set(accepted))
    if unknown:
        takes = [name for name in accepted if name not in OURS and "embeds" not in name]
        near = difflib.get_close_matches(unknown[0], [*NAMES, *takes], n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise InputError(
            f"edit() and {type(pipe).__name__} take no {', '.join(unknown)}.{hint} edit() takes {', '.join(NAMES)}; it hands on to the "
            f"pipeline: {', '.join(takes)}."
        )
    model = bare(family_of(pipe).model(pipe))
    projections = (getattr(model, name, None) for name in ("encoder_hid_proj", "image_proj"))
    if arguments.get("ip_adapter_image") is not None and not any(map(bool, projections)):
        raise InputError(
            "ip_adapter_image: the pipeline has no adapter that reads it. Load one with pipe.load_ip_adapter(...), or leave it out."
        )
    _check_callback_inputs(pipe, arguments.get(CALLBACK_INPUTS))
    _check_pictures(pipe, arguments)
    _check_sides(pipe, arguments)
    _check_latents(pipe, arguments.get("latents"), arguments.get("height"), arguments.get("width"))


def _check_callback_inputs(pipe, names):
    """Refuse what are no names of tensors that the pipeline hands to a callback."""
    has = getattr(pipe, "_callback_tensor_inputs", [])
    listed = names is None or isinstance(names, (list, tuple))
    if not listed or any(name not in has for name in names or ()):
        raise InputError(
            f"{CALLBACK_INPUTS}={shown(names)}: give a list of names. {type(pipe).__name__} has: {', '.join(has)}."
        )


def _check_pictures(pipe, arguments: dict[str, Any]):
    """Refuse a call without the pictures that the pipeline needs, or with their files' names."""
    takes = set(inspect.signature(pipe.__call__).parameters)
    if arguments.get("masked_image_latents") is not None:
        return  # it stands for other pictures, and each pipeline has its own rule
    if not (hasattr(pipe, "unet") or begins_with_picture(pipe)):
        takes.discard("image")  # Flux.1 Kontext may do without
    for name in NEEDED:
        value = arguments.get(name)
        each = value if isinstance(value, (list, tuple)) else [value]
        if name in takes and any(one is None or isinstance(one, (str, Path)) for one in each):
            raise InputError(
                f"{name}={shown(value)}: {type(pipe).__name__} needs a picture. Give {NEEDED[name]}."
            )


def _check_sides(pipe, arguments: dict[str, Any]):
    """Refuse sizes that the pipeline would round, or leave out."""
    sides = {
        name: arguments[name] for name in ("height", "width") if arguments.get(name) is not None
    }
    if len(sides) == 1:
        raise InputError(
            f"{next(iter(sides))} alone: a pipeline may ignore it. Give height and width."
        )
    rounds = "use_resolution_binning" in inspect.signature(pipe.__call__).parameters
    if sides and rounds and arguments.get("use_resolution_binning", True):
        raise InputError(
            f"height, width: {type(pipe).__name__} makes the nearest of the sizes that it was trained on, and then enlarges or shrinks "
            "the picture, so places in it would not be found. Take one of those sizes, and give use_resolution_binning=False beside it."
        )
    unit = getattr(pipe, "vae_scale_factor", 1) * (1 if hasattr(pipe, "unet") else 2)
    for name, side in sides.items():
        number = whole_number(name, side, 1, 100_000, "It is in pixels.")
        if number % unit:
            raise InputError(
                f"{name}={number}: it must be a multiple of {unit}, e.g. {max(number // unit, 1) * unit}."
            )


def _check_latents(pipe, latents, height: int | None, width: int | None):
    """Refuse what are no latents of the model, as its pipeline takes them, or those of another size."""
    if latents is None:
        return
    channels = pipe.vae.config.latent_channels
    like = family_of(pipe).packed(torch.zeros(1, channels, 2, 2))
    place = 1 if like.dim() == 4 else 2  # of the channels; packed ones come last
    kind = isinstance(latents, torch.Tensor) and latents.is_floating_point()
    unit = 1 if hasattr(pipe, "unet") else 2  # transformers read patches of 2×2
    fits = kind and latents.dim() == like.dim() and latents.shape[place] == like.shape[place]
    if fits and not latents.isfinite().all():
        raise InputError("The latents hold infinities or NaN. Draw others, or leave them out.")
    if fits and (place == 2 or all(side and not side % unit for side in latents.shape[2:])):
        if height is None or width is None:
            if place == 1:  # they say their size themselves
                return
            height = width = pipe.default_sample_size * pipe.vae_scale_factor
        sides = height // pipe.vae_scale_factor, width // pipe.vae_scale_factor
        wanted = family_of(pipe).packed(torch.zeros(1, channels, *sides)).shape[1:]
        if latents.shape[1:] == wanted:
            return
        raise InputError(
            f"latents={tuple(latents.shape)} do not fit height={height}, width={width}, whose latents are {(1, *wanted)}. "
            "Give the height and width that they are of, or draw latents of that size."
        )
    shape = (
        f"(1, {like.shape[1]}, height, width), in latent pixels, {'at least 1' if unit == 1 else 'both even'}"
        if place == 1
        else f"(1, tokens, {like.shape[2]})"
    )
    got = f"{latents.dtype} {tuple(latents.shape)}" if hasattr(latents, "shape") else shown(latents)
    raise InputError(
        f"latents={got}: {type(pipe).__name__} takes a float tensor {shape}; torch.from_numpy() makes one of an "
        "array. Leave it out, and the seed draws it."
    )


def warn_of_idle_guidance(
    pipe, negative_prompt: str | None, guidance_scale: float, arguments: dict[str, Any]
):
    """Warn of a negative prompt that the pipeline ignores, and of true guidance without one (Flux.1)."""
    name, idle = type(pipe).__name__, None
    true = inspect.signature(pipe.__call__).parameters.get("true_cfg_scale")
    if true is None:
        if negative_prompt and guidance_scale <= 1:
            idle = (
                f"{name} ignores negative_prompt at guidance_scale={guidance_scale}. Take a guidance_scale above 1, or leave "
                "negative_prompt out."
            )
    else:
        scale = arguments.get("true_cfg_scale", true.default)
        guided = finite_number("true_cfg_scale", scale, MOST_GUIDANCE, "1 is none, 4 is usual.") > 1
        if negative_prompt is not None and not guided:
            idle = (
                f"{name} ignores negative_prompt at true_cfg_scale={scale}: its guidance_scale is a number that the model reads. "
                "Add true_cfg_scale=4.0, which calls the model twice a step, or leave negative_prompt out."
            )
        if negative_prompt is None and guided:
            idle = f'{name} ignores true_cfg_scale={scale} without a negative prompt. Add negative_prompt="", or leave it out.'
    if idle is not None:
        warnings.warn(idle, InputWarning, stacklevel=4)
