"""One call from prompts to pictures: check, plan, run, result."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from .arguments import as_blend
from .attention.families import family_of, layers_of
from .attention.phases import Plan
from .attention.session import Session
from .blend import BlendRun, LocalBlend, restored
from .edits.edit import Edit
from .edits.layout import placements
from .errors import InputError
from .inversion.artefact import Inversion
from .layout import Placed
from .maps.record import Recorder
from .maps.recorded import AttentionMaps, Record
from .placing import placed
from .prompts.words import Phrase
from .request import Request, checked
from .result import EditResult, Origin, schedule_of


def edit(
    pipe,
    source: str | Inversion | EditResult,
    target: str | Sequence[str],
    edit: Edit | Sequence[Edit] | None = None,
    *,
    local_blend: LocalBlend | Phrase | Sequence[Phrase] | None = None,
    seed: int = 0,
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
    diffusers' default attention. Run on the source alone, the pipeline gives the same picture up to float rounding, since other batch
    sizes use other matrix kernels.

    Args:
        pipe: a diffusers Stable Diffusion pipeline, e.g. from `load_pipeline`. It is left as it was found, also after an error.
        source: the prompt of the picture to start from; or a real picture's `Inversion`, whose picture comes back outside
            the mask of `local_blend`, pixel for pixel, with a soft edge; or an earlier `EditResult`, to go on from its
            source. What is known of the source then need not be computed again: steps, seed and the pipeline's other
            arguments are the earlier ones.
        target: the prompt of the edited picture, or several.
        edit: what to do, for all targets or a list with one for each; `Replace()` when not given.
        local_blend: where the targets may differ from the source, or the words that say where; everywhere when not given.
        seed: of the initial latent, 0 to 2⁶⁴ − 1, drawn on the CPU, so that it is one picture on every device.
        generator: in the seed's place, a torch generator; it moves on as in diffusers.
        steps: denoising steps (diffusers' num_inference_steps); 30, or an inversion's, when not given.
        guidance_scale: classifier-free guidance; an inversion's, or the model's usual one, when not given (4 for the embedded model).
        negative_prompt: what guidance steers away from, for all prompts.
        record: keep attention maps, in the result's `maps`; True for what the figures need, or a `Record`.
        callback: diffusers' callback_on_step_end: called as callback(pipe, step, timestep, {"latents": ...}) after every step,
            source first in the latents; with local blend "mask" is where this step let the targets change, (target, height, width).
            Returns the dictionary, changed or not.
        progress: whether to show a progress bar.
        **pipeline_arguments: anything else the pipeline takes, e.g. height and width, or image and strength of an img2img pipeline.

    Raises:
        PromptError: a prompt is empty or too long, or a word of the edit or of the local blend is not in it.
        PromptMismatch: the edit cannot line up the prompts.
        AttentionControlError: the pipeline's attention cannot be controlled.
        InputError: layers that the model does not have;
            a source that is no prompt, inversion or result; no target; a seed, generator, guidance scale or number of steps
            that cannot be used; another number of edits than of targets; a mask of the wrong size; an argument that the pipeline
            does not take, or that an inversion or earlier result has decided already; a callback that gives no dictionary; an
            earlier result of another pipeline, scheduler or number of steps; latents that are no numbers.
        InversionError: the inversion is another model's, of another number of steps or (null-text) guidance scale, or a negative prompt
            is given beside it.

    Warns:
        UnknownWordWarning: a prompt uses a word the embedded model has never seen.
    """
    local_blend = as_blend(local_blend)
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
    placed = _placed(pipe, request, progress)
    plan = _planned(pipe, request, local_blend, record, callback, placed)
    images = _run(pipe, request, plan, progress)
    return _result(pipe, request, plan, images)


@dataclass
class _Planned:
    """Everything that a run needs beside the request, and what it leaves."""

    edits: Plan
    local_blend: LocalBlend | None
    blend: BlendRun | None
    recorder: Recorder | None
    callback: Callable | None
    placed: Sequence[Placed | None]  # for each target
    trajectory: list[Tensor] = field(default_factory=list)  # the source's latents after every step
    size: tuple[int, int] = (0, 0)  # of the latent
    finite: list[Tensor] = field(default_factory=list)  # whether all latents were, after every step

    @property
    def masks(self) -> list[Tensor | None]:
        """For each target where it may differ from the source, if that is known."""
        blended = [None] * len(self.placed) if self.blend is None else list(self.blend.masks[-1])
        free = [None if one is None else one.layout.free for one in self.placed]
        return [
            b if f is None else f if b is None else b & f
            for b, f in zip(blended, free, strict=True)
        ]

    @property
    def observers(self) -> list:
        return [observer for observer in (self.blend, self.recorder) if observer is not None]


def _planned(
    pipe, request: Request, local_blend, record: bool | Record, callback, placed
) -> _Planned:
    """Work out what happens in every step, and find wrong words now."""
    tokenizer, read = request.tokenizer, request.read
    blend = recorder = None
    if local_blend is not None:
        factor = getattr(pipe, "vae_scale_factor", 1)  # DeepFloyd IF works on pixels
        blend = BlendRun(local_blend, tokenizer, read, factor)
    if record:
        kept = record if isinstance(record, Record) else Record()
        recorder = Recorder(kept, AttentionMaps(tokenizer, read, kept))
    for change in request.edits:
        _check_layers(pipe, change)
    layouts = [one and one.layout for one in placed]
    edits = Plan(
        tokenizer, read[0], read[1:], request.edits, family_of(pipe).self_size(pipe), layouts
    )
    return _Planned(edits, local_blend, blend, recorder, callback, placed)


def _placed(pipe, request: Request, progress: bool) -> list[Placed | None]:
    """Where the targets' objects go; to find them, the source is made first, and is known from then on."""
    wanted = [placements(change) for change in request.edits]
    if not any(wanted):
        return [None] * len(wanted)
    alone = request.alone()
    plan = _planned(pipe, alone, None, True, None, [])
    picture = _run(pipe, alone, plan, progress)[0]
    request.known = torch.cat(plan.trajectory).cpu()
    known = family_of(pipe).unpacked(request.known, plan.size).float()
    found = (request.edits, wanted, request.read[1:])
    return [
        placed(pipe, change, own, target, plan.recorder.maps, known, picture) if own else None
        for change, own, target in zip(*found, strict=True)
    ]


def _check_layers(pipe, change: Edit):
    """Refuse names that no layer of the model has, and joint attention's edit where there is none."""
    if change.own_text and not any(layer.order for layer in layers_of(pipe)):
        raise InputError(
            f"{change!r}: this model's pixels look at text and at pixels in attentions of their own, and InjectQK needs both in "
            "one softmax, as in Stable Diffusion 3 and Flux.1. Take Replace() or Refine()."
        )
    if not change.layers:
        return
    layers = layers_of(pipe)
    unknown = [part for part in change.layers if not any(layer.within([part]) for layer in layers)]
    if unknown:
        names = ", ".join(layer.name for layer in layers)
        raise InputError(
            f"layers={unknown[0]!r} fits no layer of this model. Give whole names or parts from dot to dot, such as "
            f'"{layers[0].name.split(".")[0]}". There are: {names}.'
        )


def _run(pipe, request: Request, plan: _Planned, progress: bool) -> list[Image.Image]:
    """Run the pipeline in a session. The source's latents and the masks are left in the plan."""
    arguments = request.pipeline_arguments(pipe)
    asked = arguments.pop("callback_on_step_end_tensor_inputs", [])
    wanted = [*asked, *getattr(plan.callback, "tensor_inputs", [])]
    with Session(pipe, "edited") as session:
        session.quiet(not progress)
        session.begin(len(request.prompts), plan.edits, plan.observers, request.known)
        sampling = (
            request.inversion.sampling(pipe)
            if request.inversion is not None
            else contextlib.nullcontext()
        )
        with sampling:
            images = session.images(_after_step(session, plan), wanted, **arguments)
        session.finish()
        plan.size = session.run.size
        _check_finite(pipe, torch.stack(plan.finite).cpu().tolist())
    return images


def _after_step(session: Session, plan: _Planned) -> Callable:
    """The pipeline's callback: a known source, local blend, the user's callback, in this order."""

    def after_step(pipe, turn: int, timestep, tensors: dict) -> dict:
        latents = session.end_step(turn, tensors["latents"])
        if any(plan.placed):
            latents = session.placed(latents, plan.placed, turn)
        if plan.blend is not None:
            latents = session.blended(latents, plan.blend, turn)
        tensors["latents"] = latents
        if plan.callback is not None:
            seen = {**tensors, "mask": plan.blend.masks[-1]} if plan.blend is not None else tensors
            changed = plan.callback(pipe, turn, timestep, seen)
            if not isinstance(changed, dict):
                raise InputError(
                    f"The callback returned {type(changed).__name__}; return the dictionary it was given, changed or not."
                )
            tensors = {**tensors, **changed}
        plan.trajectory.append(tensors["latents"][:1].clone())
        plan.finite.append(tensors["latents"].isfinite().all())  # read once, after the run
        return tensors

    return after_step


def _check_finite(pipe, finite: Sequence[bool]):
    """Refuse a run whose latents were not finite after every step: its picture would be black."""
    if all(finite):
        return
    config, dtype = pipe.scheduler.config, family_of(pipe).model(pipe).dtype
    cause = "A weight of the edit or the guidance scale may be too large for this model."
    if config.get("rescale_betas_zero_snr") and config.get("prediction_type") == "epsilon":
        cause = (
            "The scheduler has zero terminal SNR (rescale_betas_zero_snr) and the model predicts noise (prediction_type "
            "epsilon), which divides by zero in the first step. Set one of the two as the model was trained."
        )
    elif dtype == torch.float16:
        cause = (
            "The model may overflow in float16: load it with dtype=torch.bfloat16 or torch.float32."
        )
    raise InputError(
        f"The latents hold infinities or NaN from step {finite.index(False) + 1} of {len(finite)} on, so there is no picture. "
        + cause
    )


def _result(pipe, request: Request, plan: _Planned, images: list[Image.Image]) -> EditResult:
    """What the run gives; a real picture's own pixels come back outside the mask."""
    inversion, blend = request.inversion, plan.blend
    if inversion is not None:
        edited = [
            image if mask is None else restored(inversion.image, image, mask)
            for image, mask in zip(images[1:], plan.masks, strict=True)
        ]
        images = [images[0], *edited]
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
        local_blend=plan.local_blend,
        masks=torch.stack(blend.masks) if blend is not None else None,
        maps=plan.recorder.maps if plan.recorder is not None else None,
        origin=Origin(
            trajectory=torch.cat(plan.trajectory).cpu(),
            inversion=inversion,
            state=request.state,
            arguments=request.arguments,
            model=weakref.ref(family_of(pipe).model(pipe)),
            schedule=schedule_of(pipe),
        ),
    )
