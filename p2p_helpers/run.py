"""One call from prompts to pictures: check, run, result."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence

import torch
from PIL import Image

from .arguments import as_blend
from .attention.families import family_of
from .attention.family import bare
from .blend import LocalBlend, check_words
from .edits.edit import Edit
from .edits.layout import placements
from .inversion.artefact import Inversion
from .inversion.fingerprint import tuning
from .maps.recorded import Record, as_record, joined
from .prompts.words import Phrase
from .request import Request, checked
from .result import EditResult, Origin, schedule_of
from .running import PLACING, Before, Planned, check_layers, run
from .values import check_callback


def edit(
    pipe,
    source: str | Inversion | EditResult,
    target: str | Sequence[str],
    edit: Edit | Sequence[Edit] | None = None,
    *,
    local_blend: LocalBlend | Phrase | Sequence[Phrase] | None = None,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    steps: int | None = None,
    guidance_scale: float | None = None,
    negative_prompt: str | None = None,
    record: bool | Record = False,
    callback: Callable | None = None,
    progress: bool = True,
    **pipeline_arguments,
) -> EditResult:
    """Generate a picture and edit it through its attention (Hertz et al. 2022, Algorithm 1).

    Source and targets run side by side from one initial latent, and the targets borrow the source's attention maps as the edit says.
    The source picture is, to the bit, the one the plain pipeline gives for the same batch of prompts with the same seed and
    diffusers' default attention. (On a CPU joint attention rounds otherwise at the few sizes at which the text makes the kernel
    take other tiles.) Run on the source alone, the pipeline gives the same picture up to float rounding, since other batch
    sizes use other matrix kernels.

    Args:
        pipe: a diffusers pipeline that makes one picture from a text, e.g. from `load_pipeline`. It is left as it was found, also
            after an error.
        source: the prompt of the picture to start from; or a real picture's `Inversion`, whose picture comes back outside
            the mask of `local_blend`, and inside of objects that are moved, pixel for pixel, with a soft edge; or an earlier
            `EditResult`, to go on from its source. What is known of the source then need not be computed again: steps, seed and
            the pipeline's other arguments are the earlier ones, but for those that guide (guidance_rescale, negative_prompt_2).
            Its guidance scale and negative prompt hold on where you give no others.
        target: the prompt of the edited picture, or several.
        edit: what to do, for all targets or a list with one for each; `Replace()` when not given.
        local_blend: where the targets may differ from the source, or the words that say where; everywhere when not given.
            Where an edit is of words and of places, it is for the words; each change of words goes by those that its prompts have.
        seed: of the initial latent, 0 to 2⁶⁴ − 1, drawn on the CPU, so that it is one picture on every device; 0 when not given.
        generator: in the seed's place, a torch generator; it moves on as in diffusers.
        steps: denoising steps (diffusers' num_inference_steps); 30, or an inversion's, when not given.
        guidance_scale: classifier-free guidance; an inversion's, an earlier result's, or the model's usual one, when not given
            (4 for the embedded model).
        negative_prompt: what guidance steers away from, for all prompts; an earlier result's, or none, when not given. Flux.1 reads
            it only with true_cfg_scale above 1 beside it. An inverted picture takes it where its source is put back at every step
            (methods "direct" and "exact").
        record: keep attention maps, in the result's `maps`; True for what the figures need, or a `Record`.
        callback: diffusers' callback_on_step_end: called as callback(pipe, step, timestep, {"latents": ...}) after every step,
            source first in the latents; with local blend "mask" is where the targets may change, (target, height, width), which
            holds from step int(start · steps) on. Returns the dictionary, changed or not. A layout edit takes several runs, and
            where it comes first, one of the source alone, if no earlier result has its maps; the callback is called in all of
            them, from step 0 each time, with the latents of that run's prompts and with "mask" only where that run has the blend.
        progress: whether to show a progress bar.
        **pipeline_arguments: anything else the pipeline takes, e.g. height and width, or image and strength of an img2img pipeline.

    Raises:
        PromptError: a prompt is empty or too long, or a word of the edit or of the local blend is not in it.
        PromptMismatch: the edit cannot line up the prompts.
        AttentionControlError: the pipeline's attention cannot be controlled.
        InputError: layers that the model does not have; `Record(everything=True)` without the memory for it;
            a source that is no prompt, inversion or result; no target; a seed, generator, guidance scale or number of steps
            that cannot be used; another number of edits than of targets; a mask of the wrong size; an argument that the pipeline
            does not take, or that an inversion or earlier result has decided already; no picture where the pipeline needs one, or a
            strength that leaves no step; a callback that gives no dictionary, or latents of another shape or type; an earlier result
            of another pipeline, scheduler, adapters or number of steps; a list of arguments that is not as long as the prompts;
            latents that are none of the model's, or that are or become infinite or NaN; a scheduler that does not fit the model, or
            that takes no times of your own.
        InversionError: the inversion is another model's, of another number of steps or (null-text) guidance scale, or a negative prompt
            is given beside one whose source comes out of guidance ("ddim", "null-text", "negative-prompt").

    Warns:
        UnknownWordWarning: a prompt uses a word the embedded model has never seen.
        InputWarning: weights written into a prompt; a scheduler whose noise the seed does not decide; a negative prompt that
            the pipeline ignores.
    """
    local_blend, record = as_blend(local_blend), as_record(record)
    check_callback(callback, "(pipe, step, timestep, tensors) that returns the tensors")
    request = checked(
        pipe,
        source,
        target,
        edit,
        seed=seed,
        generator=generator,
        steps=steps,
        guidance_scale=guidance_scale,
        negative_prompt=negative_prompt,
        arguments=pipeline_arguments,
    )
    runs: list[Planned] = []
    requests = request.in_stages(pipe)
    pictures: list[Image.Image] = []
    blends = _blends(pipe, requests, local_blend)
    before = _recorded(source, requests[0])
    for stage, blend, after in zip(requests, blends, [*requests[1:], None], strict=True):
        plan, images = run(
            pipe,
            stage,
            before,
            local_blend=blend,
            records=_records(record, after),
            callback=callback,
            progress=progress,
        )
        runs.append(plan)
        pictures = [*(pictures or images)[:1], *images[1:]]
        before = None if after is None else plan.picture(1, images[1])
    return _result(pipe, request, runs, pictures, record)


def _records(record: Record | None, after: Request | None) -> list[Record]:
    """What a run keeps: what the user asks for, and where another run follows, what this one finds its objects in."""
    wanted = [record, None if after is None else PLACING]
    return [one for one in dict.fromkeys(wanted) if one is not None]


def _blends(pipe, requests: Sequence[Request], blend: LocalBlend | None) -> list[LocalBlend | None]:
    """Each run's local blend, which of several runs is for those that change words. Refuses wrong words and layers now."""
    for request in requests:
        for change in request.edits:
            check_layers(pipe, change)
    if blend is None:
        return [None] * len(requests)
    places = [any(map(placements, request.edits)) for request in requests]
    found = [None if moves and len(requests) > 1 else blend for moves in places]
    wanted = [one.read for one, own in zip(requests, found, strict=True) if own is not None]
    check_words(blend, requests[0].tokenizer, wanted)
    return found


def _recorded(source: str | Inversion | EditResult, first: Request) -> Before | None:
    """The source with its maps, where an earlier result has both: a layout edit then need not make it to find its objects."""
    if not isinstance(source, EditResult) or source.recorded is None or source.origin is None:
        return None
    if source.recorded.record.everything:  # its means are of more layers and steps than PLACING has
        return None
    if not any(map(placements, first.edits)):
        return None
    origin = source.origin
    picture = source.source if origin.inversion is None else origin.inversion.image
    return Before(source.maps.of(0), origin.trajectory, origin.size, picture)


def _result(
    pipe,
    request: Request,
    runs: Sequence[Planned],
    images: list[Image.Image],
    record: Record | None,
) -> EditResult:
    """What the runs give: the first one's source, the last one's targets."""
    blends = [plan.blend for plan in runs if plan.blend is not None]
    maps = None if record is None else runs[-1].recorders[record].maps
    if maps is not None and len(runs) > 1:
        maps = joined(runs[0].recorders[record].maps, maps)
    return EditResult(
        source=images[0],
        images=images[1:],
        source_prompt=request.prompts[0],
        target_prompts=request.prompts[1:],
        edits=request.edits,
        seed=request.seed,
        steps=request.steps,
        guidance_scale=request.guidance_scale,
        negative_prompt=request.negative_prompt,
        local_blend=blends[0].blend if blends else None,
        masks=torch.stack(blends[0].masks) if blends else None,
        recorded=maps,
        origin=Origin(
            trajectory=runs[0].trajectory(0),
            size=runs[0].size,
            inversion=request.inversion,
            guidance_scale=request.made_with[0],
            negative_prompt=request.made_with[1],
            state=request.state,
            arguments=request.of_source(pipe),
            model=weakref.ref(bare(family_of(pipe).model(pipe))),
            schedule=schedule_of(pipe),
            tuning=tuning(pipe),
        ),
    )
