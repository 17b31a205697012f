"""What a call of `edit` asks for, checked before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from . import arguments as given
from .attention.families import family_of
from .edits.edit import Edit
from .errors import InputError
from .images import picture
from .inversion.artefact import Inversion
from .inversion.methods import usual_guidance
from .known import check_fixed, check_inversion, check_same, controls
from .prompts.weights import warn_of_weights
from .prompts.words import as_read, warn_of_unknown_words
from .result import EditResult, Origin
from .stages import Stage, stages_of

# The same for every prompt: what XL, img2img, inpainting and ControlNet pipelines take beside it.
PER_PROMPT = (
    "prompt_2",
    "negative_prompt_2",
    "negative_prompt_3",
    "image",
    "mask_image",
    "control_image",
)


@dataclass
class Request:
    """A checked call of `edit`.

    Args:
        prompts: source first.
        readings: of these and of the stages' prompts, as the tokenizer reads them.
        inversion: where the source is a real picture.
        made_with: the guidance scale and negative prompt of the source, which an earlier result has.
        known: the source's latents after every step, if they need not be worked out.
        seed: as `EditResult` says it.
        state: of the user's generator before the run.
        stages: of the one target, if words and places change in turn; none if one run does all.
    """

    prompts: list[str]
    readings: dict[str, str]
    tokenizer: Any
    edits: list[Edit]
    steps: int
    guidance_scale: float
    negative_prompt: str | None
    seed: int | None
    generators: list[torch.Generator] | None
    inversion: Inversion | None
    made_with: tuple[float, str | None]
    known: Tensor | None
    state: tuple[torch.device, Tensor] | None
    arguments: dict[str, Any]  # of the pipeline, as the user gave them
    stages: list[Stage]

    @property
    def read(self) -> list[str]:
        """The prompts as the tokenizer reads them."""
        return [self.readings[prompt] for prompt in self.prompts]

    def alone(self, pipe) -> Request:
        """The same for the source alone, with random numbers of its own that begin at the same place."""
        numbers, arguments = self._same_numbers(1), self.of_source(pipe)
        own = {"generators": numbers, "arguments": arguments, "stages": []}
        return replace(self, prompts=self.prompts[:1], edits=[], **own)

    def of_source(self, pipe) -> dict[str, Any]:
        """The pipeline's arguments, of those with one for each prompt the source's."""
        return _of_rows(pipe, self.arguments, [0])

    def in_stages(self, pipe) -> list[Request]:
        """One request for each run, of which each goes on from the picture of the run before."""
        if not self.stages:
            return [self]
        found = [
            replace(
                self,
                prompts=[stage.before, stage.after],
                edits=[stage.edit],
                generators=self._same_numbers(2),
                arguments=_of_rows(pipe, self.arguments, stage.rows),
                stages=[],
            )
            for stage in self.stages
        ]
        found[-1].generators = self.generators  # the user's moves on once
        return found

    def _same_numbers(self, count: int) -> list[torch.Generator] | None:
        """Generators that begin where this run's begin."""
        return None if self.generators is None else _twins(self.generators[0], count)

    def pipeline_arguments(self, pipe) -> dict[str, Any]:
        """What the pipeline is called with, but for our callback."""
        arguments, count = dict(self.arguments), len(self.prompts)
        for name in {"image", "control_image"} & set(arguments):
            arguments[name] = _seen(arguments[name])
        for name in _per_prompt(pipe):
            if name in arguments:
                each = arguments[name]
                each = list(each) if isinstance(each, (list, tuple)) else [each]
                arguments[name] = each * (count // len(each))
        start = arguments.get("latents")
        if start is not None:
            start = start.to(family_of(pipe).model(pipe).dtype)
            alone = len(start) == 1
            arguments["latents"] = start.repeat(count, *[1] * (start.dim() - 1)) if alone else start
        negative = None if self.negative_prompt is None else [self.negative_prompt] * count
        if self.inversion is not None:
            arguments |= self.inversion.arguments(pipe, count)
            negative = self.inversion.negative_prompts(count) or negative
        else:
            arguments["generator"] = self.generators
        return arguments | {
            "prompt": self.prompts,
            "negative_prompt": negative,
            "num_inference_steps": self.steps,
            "guidance_scale": self.guidance_scale,
        }


def _seen(given):
    """PIL pictures as `load_image` has them, in lists too; anything else as it is."""
    if isinstance(given, (list, tuple)):
        return [_seen(one) for one in given]
    return picture(given) if isinstance(given, Image.Image) else given


def _per_prompt(pipe) -> list[str]:
    """Arguments that may be one for each prompt. Of several ControlNets, pictures in a list are one for each of these."""
    several = hasattr(getattr(pipe, "controlnet", None), "nets")
    return [name for name in PER_PROMPT if not (several and "image" in name)]


def _listed(pipe, arguments: dict[str, Any]) -> list[str]:
    """Those of a call that are one for each prompt, or a list of one."""
    found = [n for n in _per_prompt(pipe) if isinstance(arguments.get(n), (list, tuple))]
    return found if arguments.get("latents") is None else [*found, "latents"]


def _of_rows(pipe, arguments: dict[str, Any], rows: Sequence[int]) -> dict[str, Any]:
    """The arguments of some prompts: of those with one for each prompt, theirs."""
    found = dict(arguments)
    for name in _listed(pipe, arguments):
        each = arguments[name]
        theirs = [min(row, len(each) - 1) for row in rows]  # or one for all
        found[name] = each[theirs] if isinstance(each, Tensor) else [each[one] for one in theirs]
    return found


def checked(
    pipe,
    source: str | Inversion | EditResult,
    target: str | Sequence[str],
    edit: Edit | Sequence[Edit] | None,
    *,
    seed: int | None,
    generator: torch.Generator | None,
    steps: int | None,
    guidance_scale: float | None,
    negative_prompt: str | None,
    arguments: dict[str, Any],
) -> Request:
    """Refuse what no run could be made of; `edit` says what is raised."""
    given.check_pipeline(pipe)
    given.check_source(source)
    targets = given.targets(target)
    edits = given.one_each(edit, targets)
    known = inversion = earlier = None
    called_with = arguments
    if seed is not None and generator is not None:
        raise InputError("Give seed or generator, not both: each says where the noise comes from.")
    if isinstance(source, EditResult):
        earlier = _origin(pipe, source, steps, seed, generator, arguments)
        result, origin = source, earlier
        source, known = origin.inversion or result.source_prompt, origin.trajectory
        steps, seed, generator = result.steps, result.seed, origin.generator()
        arguments = origin.arguments | arguments
        guidance_scale = result.guidance_scale if guidance_scale is None else guidance_scale
        negative_prompt = result.negative_prompt if negative_prompt is None else negative_prompt
    elif isinstance(source, Inversion):
        check_fixed("An inversion", seed, generator, arguments, controls(pipe))
    if isinstance(source, Inversion):
        inversion = source
        check_inversion(pipe, inversion, steps, guidance_scale, negative_prompt, arguments)
        source, steps, seed = inversion.prompt, inversion.steps, None
        guidance_scale = inversion.guidance_scale if guidance_scale is None else guidance_scale
        known = inversion.known(pipe) if known is None else known
    steps = 30 if steps is None else steps
    if seed is not None:
        seed = given.whole_seed(seed)
    elif inversion is None and arguments.get("latents") is None:
        seed = 0
    given.check_prompts([source, *targets], negative_prompt)
    given.check_arguments(pipe, arguments)
    for name in _listed(pipe, arguments):
        if len(arguments[name]) not in (1, 1 + len(targets)):
            raise InputError(
                f"{name}: {len(arguments[name])} for {1 + len(targets)} prompts. Give one for all, or one for each, source first."
            )
    if earlier is not None:
        check_same(pipe, earlier.arguments, _of_rows(pipe, called_with, [0]))
    guidance_scale = usual_guidance(pipe) if guidance_scale is None else guidance_scale
    given.check_numbers(guidance_scale, steps)
    if inversion is None:
        given.check_scheduler(pipe, arguments)
    times = [arguments[name] for name in given.TIMES if hasattr(arguments.get(name), "__len__")]
    steps = len(times[0]) if times else steps
    given.check_strength(pipe, steps, arguments)
    given.warn_of_idle_guidance(pipe, negative_prompt, guidance_scale, arguments)
    if inversion is None and not times:
        given.check_schedule(pipe, steps)
    tokenizer = family_of(pipe).tokenizer(pipe, arguments)
    asked = zip(targets, edits, strict=True)
    stages = [stages_of(tokenizer, source, prompt, own) for prompt, own in asked]
    given.check_stages(stages)
    every = [source, *(stage.after for own in stages for stage in own)]
    clean = arguments.get("clean_caption", True)
    *read, negative_read = as_read(pipe, tokenizer, [*every, negative_prompt or ""], clean)
    given.check_negative_length(tokenizer, negative_read)
    for prompt in dict.fromkeys(read):
        warn_of_unknown_words(tokenizer, prompt)
        warn_of_weights(prompt)
    return Request(
        prompts=[source, *(own[-1].after for own in stages)],
        readings=dict(zip(every, read, strict=True)),
        tokenizer=tokenizer,
        edits=edits,
        steps=int(steps),
        guidance_scale=float(guidance_scale),
        negative_prompt=negative_prompt,
        seed=seed if generator is None else None,
        generators=None
        if inversion is not None
        else _generators(seed or 0, generator, 1 + len(edits)),
        inversion=inversion,
        made_with=(float(guidance_scale), negative_prompt)
        if earlier is None
        else (earlier.guidance_scale, earlier.negative_prompt),
        known=known,
        state=None if generator is None else (generator.device, generator.get_state()),
        arguments=arguments,
        stages=stages[0] if len(stages[0]) > 1 else [],
    )


def _origin(
    pipe,
    result: EditResult,
    steps: int | None,
    seed: int | None,
    generator: torch.Generator | None,
    arguments: dict[str, Any],
) -> Origin:
    """Where an earlier result came from, if an edit can go on from it."""
    if result.origin is None:
        raise InputError("This result does not say how its source was made. Make it with edit().")
    result.origin.check(pipe)
    if steps not in (None, result.steps):
        raise InputError(
            f"steps={steps}, but the earlier result took {result.steps}. Leave steps out."
        )
    check_fixed("An earlier result", None if seed == result.seed else seed, generator, arguments)
    return result.origin


def _generators(seed: int, generator: torch.Generator | None, count: int) -> list[torch.Generator]:
    """The same random numbers for every prompt, so that all start from one latent."""
    if generator is None:
        return [torch.Generator().manual_seed(seed) for _ in range(count)]
    given.check_generator(generator)
    return [generator, *_twins(generator, count - 1)]


def _twins(generator: torch.Generator, count: int) -> list[torch.Generator]:
    """Generators with the same numbers to come."""
    twins = [torch.Generator(generator.device) for _ in range(count)]
    for twin in twins:
        twin.set_state(generator.get_state())
    return twins
