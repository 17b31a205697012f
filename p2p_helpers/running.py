"""One run of the pipeline, with a source and targets: what it needs, how it runs, what it leaves."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image, ImageChops
from torch import Tensor

from .arguments import CALLBACK_INPUTS
from .attention.families import family_of, layers_of
from .attention.phases import Plan
from .attention.session import Session
from .blend import BlendRun, LocalBlend, restored
from .edits.edit import Edit
from .edits.layout import placements
from .errors import InputError
from .layout import Placed
from .maps.one_prompt import OnePrompt
from .maps.record import Recorder
from .maps.recorded import AttentionMaps, Record
from .masks import mask_picture
from .placing import placed
from .request import Request
from .values import shown

PLACING = Record()  # in these maps objects are found, whatever the user records


@dataclass
class Planned:
    """Everything that a run needs beside the request, and what it leaves."""

    edits: Plan
    local_blend: LocalBlend | None
    blend: BlendRun | None
    recorders: dict[Record, Recorder]
    callback: Callable | None
    placed: Sequence[Placed | None]  # for each target
    # Of the source and the first target, after every step.
    latents: list[Tensor] = field(default_factory=list)
    size: tuple[int, int] = (0, 0)  # of the latent
    finite: list[Tensor] = field(default_factory=list)  # whether all latents were, after every step

    @property
    def masks(self) -> list[Tensor | None]:
        """For each target where it may differ from the source, if that is known."""
        blended = [None] * len(self.placed)
        if self.blend is not None and self.blend.blend.start < 1:  # at 1 it never begins
            blended = list(self.blend.masks[-1])
        free = [None if one is None else one.layout.free for one in self.placed]
        return [
            b if f is None else f if b is None else b & f
            for b, f in zip(blended, free, strict=True)
        ]

    def trajectory(self, row: int) -> Tensor:
        """The latents of the source (row 0) or the first target (row 1) after every step, (step, …), on the CPU."""
        return torch.stack([step[row] for step in self.latents]).cpu()

    def picture(self, row: int, image: Image.Image) -> Before:
        """A prompt's picture, to go on from."""
        return Before(self.recorders[PLACING].maps.of(row), self.trajectory(row), self.size, image)

    @property
    def observers(self) -> list:
        return [*([] if self.blend is None else [self.blend]), *self.recorders.values()]


def _planned(
    pipe, request: Request, local_blend, records: Sequence[Record], callback, placed
) -> Planned:
    """Work out what happens in every step, and find wrong words now."""
    tokenizer, read = request.tokenizer, request.read
    blend = None
    if local_blend is not None:
        factor = getattr(pipe, "vae_scale_factor", 1)  # DeepFloyd IF works on pixels
        blend = BlendRun(local_blend, tokenizer, read, factor)
    every = list(request.readings.values())
    recorders = {one: Recorder(one, AttentionMaps(tokenizer, read, one), every) for one in records}
    layouts = [one and one.layout for one in placed]
    edits = Plan(
        tokenizer, read[0], read[1:], request.edits, family_of(pipe).self_size(pipe), layouts
    )
    return Planned(edits, local_blend, blend, recorders, callback, placed)


@dataclass
class Before:
    """A picture to go on from, which a run has made."""

    maps: OnePrompt
    trajectory: Tensor  # its latents after every step
    size: tuple[int, int]  # of the latent
    picture: Image.Image


def _placed(
    pipe, request: Request, before: Before | None, callback, progress: bool
) -> list[Placed | None]:
    """Where the targets' objects go; to find them, the source is made first, and is known from then on."""
    wanted = [placements(change) for change in request.edits]
    if not any(wanted):
        return [None] * len(wanted)
    if before is None:
        alone = request.alone(pipe)
        plan = _planned(pipe, alone, None, [PLACING], callback, [])
        made = _run(pipe, alone, plan, progress)[0]
        real = request.inversion
        before = plan.picture(0, made if real is None else real.image)
        request.known = before.trajectory
    known = family_of(pipe).unpacked(before.trajectory, before.size).float()
    found = (before.maps, known, before.picture)
    return [placed(pipe, own, *found) if own else None for own in wanted]


def check_layers(pipe, change: Edit):
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


def _run(pipe, request: Request, plan: Planned, progress: bool) -> list[Image.Image]:
    """Run the pipeline in a session. All latents and the masks are left in the plan."""
    arguments = request.pipeline_arguments(pipe)
    asked = arguments.pop(CALLBACK_INPUTS, None) or []
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


def _after_step(session: Session, plan: Planned) -> Callable:
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
            tensors = _changed(tensors, changed, latents)
        plan.latents.append(tensors["latents"][:2].clone())
        plan.finite.append(tensors["latents"].isfinite().all())  # read once, after the run
        return tensors

    return after_step


def _changed(tensors: dict, changed, latents: Tensor) -> dict:
    """The tensors as a callback has changed them.

    Raises:
        InputError: it returned no dictionary, or latents of another kind than it was given.
    """
    if not isinstance(changed, dict):
        raise InputError(
            f"The callback returned {type(changed).__name__}; return the dictionary it was given, changed or not."
        )
    tensors = {**tensors, **changed}
    both = (tensors["latents"], latents)
    kinds = [_kind(one) if isinstance(one, Tensor) else shown(one) for one in both]
    if kinds[0] != kinds[1]:
        raise InputError(
            f"The callback returned latents={kinds[0]}, and was given {kinds[1]}. Return a tensor of the same shape, type and device."
        )
    return tensors


def _kind(x: Tensor) -> str:
    """What a tensor is but for its values."""
    return f"{x.dtype} {tuple(x.shape)} on {x.device}"


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


def run(
    pipe,
    request: Request,
    before: Before | None,
    *,
    local_blend: LocalBlend | None,
    records: Sequence[Record],
    callback: Callable | None,
    progress: bool,
) -> tuple[Planned, list[Image.Image]]:
    """Make the pictures of a request, source first. Raises what `edit` does.

    A real picture's own pixels come back outside of where the targets may differ. Objects that are moved or resized take the
    pixels of the picture before along.

    Args:
        before: the source, where an earlier run has made it.
        records: what maps to keep; `PLACING` is among them where a run goes on from the picture.
    """
    if before is not None:
        request.known = before.trajectory
    where = _placed(pipe, request, before, callback, progress)
    plan = _planned(pipe, request, local_blend, records, callback, where)
    images = _run(pipe, request, plan, progress)
    real = request.inversion
    edited = []
    for image, mask, own in zip(images[1:], plan.masks, where, strict=True):
        if real is not None and mask is not None:
            base = real.image if before is None else before.picture
            image = restored(base, image, mask)
        edited.append(image if own is None else _with_its_objects(image, mask, own))
    return plan, [images[0], *edited]


def _with_its_objects(image: Image.Image, mask: Tensor, own: Placed) -> Image.Image:
    """A picture in which moved and resized objects have the pixels of the picture before, where the mask lets it change."""
    allowed = mask_picture(mask, image.size)
    return Image.composite(own.picture, image, ImageChops.multiply(own.opaque, allowed))
