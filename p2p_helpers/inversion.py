"""Find the noise and the conditioning that reproduce a real picture, so that it can be edited as if it had been generated."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMInverseScheduler, DDIMScheduler, SchedulerMixin
from jaxtyping import Float, UInt8
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import InputError, InversionError, PromptError
from .metrics import psnr
from .schedulers import BDIAScheduler
from .tokens import as_read, warn_of_unknown_words

METHODS = ("ddim", "null-text", "negative-prompt", "direct", "exact")
STARTS = ("null", "prompt")
LOSS_SCALE = 2.0**12  # keeps float16's gradients off zero; a power of two, so it changes no other precision's
COMPARED = {  # facts that must be the same for an inversion to give its picture back, one of each: bfloat16 rounds more than float16
    "weights": ("weights", "weights in bfloat16"),
    "noise schedule": ("noise schedule",),
}


@dataclass(frozen=True, eq=False)
class Inversion:
    """A picture turned into noise: what `invert` gives and `edit` takes. `save` writes it to one file and `Inversion.load` reads it.

    `pivot` is the trajectory from the noise to the picture's latent without guidance, one moment more than steps: DDIM's, or for the
    exact method BDIA's. `facts` names the model, its weights' hash and noise schedule, the picture's hash and the package.
    """

    method: str
    prompt: str
    steps: int
    guidance_scale: float
    pivot: Float[Tensor, "moment channel row column"] = field(repr=False)
    null: Float[Tensor, "step token embedding"] | None = field(repr=False)  # the optimised unconditional embeddings of null-text inversion
    loss_curve: Float[Tensor, "optimised inner"] = field(repr=False)  # NaN where a step stopped early; empty without optimisation
    pixels: UInt8[np.ndarray, "height width 3"] = field(repr=False)
    decoded: UInt8[np.ndarray, "height width 3"] = field(repr=False)
    facts: dict[str, str] = field(repr=False)

    @property
    def image(self) -> Image.Image:
        """The picture that was inverted."""
        return Image.fromarray(self.pixels)

    @property
    def reconstruction(self) -> Image.Image:
        """The picture that comes back when the noise is denoised with the source prompt."""
        return Image.fromarray(self.decoded)

    @property
    def psnr(self) -> float:
        """Of the reconstruction against the picture, in dB; its ceiling is what the autoencoder alone loses."""
        return psnr(self.pixels, self.decoded)

    def save(self, path: str | Path):
        """Write everything to one safetensors file, all of it or nothing."""
        tensors = {"pivot": self.pivot, "loss_curve": self.loss_curve}
        tensors |= {"pixels": torch.from_numpy(self.pixels.copy()), "decoded": torch.from_numpy(self.decoded.copy())}
        if self.null is not None:
            tensors["null"] = self.null
        said = {"method": self.method, "prompt": self.prompt, "steps": self.steps, "guidance_scale": self.guidance_scale}
        _write(tensors, {**self.facts, "inversion": json.dumps(said)}, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> Inversion:
        """Read what `save` wrote.

        Raises:
            InversionError: no such file, or one that holds no inversion.
        """
        tensors, facts = _read(Path(path))
        if "inversion" not in facts or "decoded" not in tensors:
            raise InversionError(f"{path} holds no finished inversion. Make one with invert(...).save(path).")
        said = json.loads(facts.pop("inversion"))
        pictures = {name: tensors[name].numpy() for name in ("pixels", "decoded")}
        return cls(**said, pivot=tensors["pivot"], null=tensors.get("null"), loss_curve=tensors["loss_curve"], **pictures, facts=facts)

    def check(self, pipe):
        """Whether this pipeline is the one the inversion was made with.

        Raises:
            InversionError: another model or noise schedule; names the difference.
        """
        other = _differences(self.facts, _facts(pipe))
        if other:
            raise InversionError(
                "This inversion was made with another model or scheduler and would not give its picture back. "
                f"It was made with {self.facts.get('model') or 'a model without a name'}:\n  "
                + "\n  ".join(other)
                + "\nLoad that model, or invert the picture again with this one."
            )

    @contextlib.contextmanager
    def sampling(self, pipe) -> Iterator[None]:
        """Denoise as the inversion needs it for the length of a `with` block: its sampler, and its unconditional embeddings (the source's
        is for "exact" the prompt's own, so that guidance does not move it).
        """
        calls = iter(range(self.steps))

        def use_null(module, args, kwargs):
            words = kwargs["encoder_hidden_states"]
            half = len(words) // 2
            words = torch.cat([self.null[next(calls)].to(words).expand(half, -1, -1), words[half:]])
            return args, {**kwargs, "encoder_hidden_states": words}

        def use_prompt(module, args, kwargs):
            if not pipe.do_classifier_free_guidance:
                return args, kwargs
            changed = {"encoder_hidden_states": _unguided(kwargs["encoder_hidden_states"])}
            if kwargs.get("added_cond_kwargs"):
                changed["added_cond_kwargs"] = {key: _unguided(value) for key, value in kwargs["added_cond_kwargs"].items()}
            return args, {**kwargs, **changed}

        def sampler(config: dict) -> SchedulerMixin:
            return BDIAScheduler.over(config, self.pivot[1]) if self.method == "exact" else DDIMScheduler.from_config(config)

        with _scheduler(pipe, sampler), contextlib.ExitStack() as stack:
            change = use_null if self.null is not None else use_prompt if self.method == "exact" else None
            if change:
                stack.callback(pipe.unet.register_forward_pre_hook(change, with_kwargs=True).remove)
            yield

    def arguments(self, pipe, prompts: int) -> dict:
        """What the pipeline must be called with for so many prompts, beside the prompts: the same noise for each, and the size."""
        return _arguments(pipe, self.pivot[:1].repeat(prompts, 1, 1, 1))

    def negative_prompts(self, prompts: int) -> list[str] | None:
        """In place of the null text, for so many prompts: the source prompt for "negative-prompt"."""
        return [self.prompt] * prompts if self.method == "negative-prompt" else None

    def after_step(self, step: int, latents: Tensor) -> Tensor:
        """Latents after a step, source first; "direct" puts the source back on the pivot (Ju et al. 2023, arXiv 2310.01506)."""
        if self.method == "direct":
            latents = torch.cat([self.pivot[step + 1][None].to(latents), latents[1:]])
        return latents


def _unguided(rows: Tensor) -> Tensor:
    """Rows without and with prompts, where the first without becomes the first with: guidance does not move that picture."""
    half = len(rows) // 2
    return torch.cat([rows[half : half + 1], rows[1:]])


def usual_guidance(pipe) -> float:
    """The guidance scale that the model's tokenizer names (the embedded model's does), or else the pipeline's own default."""
    named = (getattr(pipe, "tokenizer", None) or pipe.tokenizer_2).init_kwargs.get("guidance_scale")
    return float(inspect.signature(pipe.__call__).parameters["guidance_scale"].default if named is None else named)


def invert(
    pipe,
    image: Image.Image,
    prompt: str,
    *,
    method: str = "null-text",
    steps: int = 50,
    guidance_scale: float | None = None,
    inner_steps: int = 10,
    init: str = "null",
    gradient_checkpointing: bool = False,
    checkpoint: str | Path | None = None,
    callback: Callable[[int], None] | None = None,
    progress: bool = True,
) -> Inversion:
    """Invert a real picture: DDIM inversion with the source prompt gives the pivot, and the method makes guidance follow it.

    The noise itself is diffusers' DDIMInverseScheduler's, for whatever noise schedule and prediction the model has.

    Args:
        pipe: a Stable Diffusion pipeline; it is left as it was found.
        image: RGB, of the size the pipeline makes (see `load_image`).
        prompt: what the picture shows.
        method: "ddim", the pivot's noise alone: faithful at guidance 1, drifts above (Song et al. 2020, arXiv 2010.02502);
            "null-text", unconditional embeddings optimised for every step (Mokady et al. 2022, arXiv 2211.09794);
            "negative-prompt", the source prompt in place of the null text, at no cost (Miyake et al. 2023, arXiv 2305.16807);
            "direct", the source is put back on the pivot at every step (Ju et al. 2023, arXiv 2310.01506);
            "exact", the source takes the steps of a sampler that runs backwards without an error, and no guidance: BDIA (Zhang et al.
            2023, arXiv 2307.10829), chosen over EDICT (arXiv 2211.12446) since it calls the UNet once for each step, not twice, and is
            made of DDIM's own steps. Edits take DDIM's, guided, beside it.
        steps: of DDIM, the same for inversion and editing.
        guidance_scale: that edits will use; the model's usual one when not given. A null-text inversion holds for this one only.
        inner_steps: optimiser steps for each denoising step at most (null-text).
        init: where the optimisation starts: "null" as in the paper, or "prompt", the source prompt's embedding.
        gradient_checkpointing: work activations out twice instead of keeping them: less memory, more time (null-text).
        checkpoint: a file that null-text inversion writes after every denoising step and goes on from.
        callback: called with the step's number after every step of the inversion, of the optimisation and of the reconstruction; an
            exception of its own ends the work and leaves the pipeline as it was.
        progress: whether to show a progress bar.

    Raises:
        InversionError: an unknown method or start, a picture of another size, null-text at a guidance scale of 1 or less, a checkpoint
            of another run.
        InputError: `steps` or `inner_steps` below 1, no picture.
        PromptError: the prompt is empty or too long.

    Warns:
        UnknownWordWarning: the prompt uses a word the embedded model has never seen.
    """
    if method not in METHODS or init not in STARTS:
        raise InversionError(f"method={method!r}, init={init!r}: methods are {', '.join(METHODS)}; init is {' or '.join(STARTS)}.")
    if not all(isinstance(count, Integral) and count >= 1 for count in (steps, inner_steps)):
        raise InputError(f"steps={steps}, inner_steps={inner_steps}: both need to be whole numbers, at least 1; 50 and 10 are usual.")
    if not isinstance(image, Image.Image):
        raise InputError(f"A picture is needed, not {type(image).__name__}. Read a file with load_image(file, pipe).")
    if not prompt.strip():
        raise PromptError("The prompt is empty. Say what the picture shows.")
    tokenizer, (read,) = as_read(pipe, [prompt])
    warn_of_unknown_words(tokenizer, read)  # and its length
    if guidance_scale is None:
        guidance_scale = usual_guidance(pipe)
    if method == "null-text" and guidance_scale <= 1:
        raise InversionError(
            f"guidance_scale={guidance_scale}: null-text inversion optimises what guidance above 1 uses. Take method='ddim'."
        )
    pixels = np.asarray(image.convert("RGB"))
    if any(side % pipe.vae_scale_factor for side in pixels.shape[:2]):
        raise InversionError(
            f"The picture is {image.size}; its sides must be multiples of {pipe.vae_scale_factor}. Use load_image(file, pipe)."
        )
    facts = {**_facts(pipe), "image sha256": hashlib.sha256(pixels.tobytes()).hexdigest()}
    if checkpoint:
        _check_folder(Path(checkpoint))
    bar = dict(getattr(pipe, "_progress_bar_config", {}))
    pipe.set_progress_bar_config(disable=True)
    stepped = callback or (lambda step: None)
    inverse = BDIAScheduler.over if method == "exact" else DDIMInverseScheduler.from_config
    try:
        pivot = _pivot(pipe, image.convert("RGB"), prompt, steps, inverse, stepped)
        null, losses = None, torch.zeros(0, 0)
        if method == "null-text":
            run = {"prompt": prompt, "steps": steps, "guidance": guidance_scale, "inner": inner_steps, "init": init}
            run |= {key: facts[key] for key in ("image sha256", "weights", "weights in bfloat16", "noise schedule")}
            with _frozen(pipe.unet, gradient_checkpointing):
                pivot, null, losses = _optimise_null(pipe, pivot, run, Path(checkpoint) if checkpoint else None, stepped, progress)
        found = Inversion(method, prompt, steps, guidance_scale, pivot, null, losses, pixels, pixels, facts)

        def after_step(pipe, step, timestep, tensors):
            stepped(step)
            return {"latents": found.after_step(step, tensors["latents"])}

        with found.sampling(pipe):
            again = pipe(
                prompt=[prompt],
                negative_prompt=found.negative_prompts(1),
                guidance_scale=guidance_scale,
                callback_on_step_end=after_step,
                num_inference_steps=steps,
                **found.arguments(pipe, 1),
            ).images[0]
    finally:
        pipe.set_progress_bar_config(**bar)
    return Inversion(method, prompt, steps, guidance_scale, pivot, null, losses, pixels, np.asarray(again), found.facts)


def _arguments(pipe, latents: Tensor) -> dict:
    """A pipeline's arguments that say where to start and how large the picture is."""
    height, width = (side * pipe.vae_scale_factor for side in latents.shape[-2:])
    return {"latents": latents.to(pipe._execution_device, pipe.unet.dtype), "height": height, "width": width}


@contextlib.contextmanager
def _scheduler(pipe, make: Callable[[dict], SchedulerMixin]) -> Iterator[SchedulerMixin]:
    """Another scheduler over the same noise schedule for the length of a `with` block, made from its configuration."""
    before = pipe.scheduler
    config = dict(before.config)
    spacing = config.get("timestep_spacing", "leading")
    config.pop("thresholding", None)  # only some have it, all of them off
    config |= {"clip_sample": False, "set_alpha_to_one": config.get("set_alpha_to_one", False)}
    config["timestep_spacing"] = spacing if spacing in ("leading", "trailing") else "leading"  # those that have an inverse
    pipe.scheduler = make(config)
    try:
        yield pipe.scheduler
    finally:
        pipe.scheduler = before


@contextlib.contextmanager
def _frozen(unet, gradient_checkpointing: bool) -> Iterator[None]:
    """No gradients for the weights within a `with` block, and if wanted activations that are not kept."""
    trained = [p for p in unet.parameters() if p.requires_grad]
    switch = gradient_checkpointing and not unet.is_gradient_checkpointing
    if switch:
        unet.enable_gradient_checkpointing()
    for p in trained:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in trained:
            p.requires_grad_(True)
        if switch:
            unet.disable_gradient_checkpointing()


def _encode(vae, pixels: Float[Tensor, "1 3 height width"]) -> Float[Tensor, "1 channel row column"]:
    """The mode of a picture's latent in float32, also for autoencoders that overflow in half precision (SDXL's says so itself)."""
    dtype = vae.dtype
    upcast = dtype == torch.float16 and getattr(vae.config, "force_upcast", False)
    if upcast:
        vae.to(dtype=torch.float32)
    try:
        with torch.no_grad():
            latent = vae.encode(pixels.to(vae.dtype)).latent_dist.mode().float()
    finally:
        if upcast:
            vae.to(dtype=dtype)
    return (latent - (getattr(vae.config, "shift_factor", None) or 0)) * vae.config.scaling_factor


def _pivot(
    pipe, image: Image.Image, prompt: str, steps: int, inverse: Callable, stepped: Callable[[int], None] = lambda step: None
) -> Float[Tensor, "moment channel row column"]:
    """The trajectory from the noise to the picture's latent without guidance, in float32 on the CPU, by the inverse of a sampler."""
    latent = _encode(pipe.vae, pipe.image_processor.preprocess(image).to(pipe._execution_device))
    kept = [latent.cpu()]

    def keep(pipe, step, timestep, tensors):
        exact = getattr(pipe.scheduler, "history", None)  # before it was rounded to the model's precision
        kept.append((exact[-1] if exact else tensors["latents"]).float().cpu())
        stepped(step)
        return tensors

    with _scheduler(pipe, inverse):
        start = {"num_inference_steps": steps, **_arguments(pipe, latent)}
        pipe(prompt=[prompt], guidance_scale=1.0, callback_on_step_end=keep, output_type="latent", **start)
    return torch.cat(kept[::-1])


def _conditioning(pipe, pivot: Tensor, prompt: str) -> list[dict]:
    """What the pipeline gives its UNet without and with the prompt: two dictionaries of keyword arguments, one row each."""
    seen = {}

    def look(module, args, kwargs):
        seen.update(kwargs)

    hook = pipe.unet.register_forward_pre_hook(look, with_kwargs=True)
    try:
        with _scheduler(pipe, DDIMScheduler.from_config):
            pipe(prompt=[prompt], guidance_scale=2.0, num_inference_steps=1, output_type="latent", **_arguments(pipe, pivot[:1]))
    finally:
        hook.remove()

    def row(value, i: int):
        if isinstance(value, dict):
            return {key: row(v, i) for key, v in value.items()}
        return value[i : i + 1] if isinstance(value, Tensor) else value

    return [{**{key: row(value, i) for key, value in seen.items()}, "return_dict": False} for i in (0, 1)]


def _optimise_null(
    pipe, pivot: Tensor, run: dict, checkpoint: Path | None, stepped: Callable[[int], None], progress: bool
) -> tuple[Float[Tensor, "moment channel row column"], Float[Tensor, "step token embedding"], Float[Tensor, "step inner"]]:
    """For every step the unconditional embedding with which the guided DDIM step lands on the pivot (Mokady et al. 2022, Algorithm 1).

    Adam, new for every step, started from the step before; rate 10⁻² falling to half, tolerance 10⁻⁵ rising to 10⁻³, both over the run
    and, unlike the authors' constants, for any number of steps; the tolerance in units of the latent's variance.

    Gives the pivot too, a checkpoint's where there is one: another device rounds its own differently.
    """
    steps, inner, scale = run["steps"], run["inner"], run["guidance"]
    unet, device, dtype = pipe.unet, pipe._execution_device, pipe.unet.dtype
    without, with_prompt = _conditioning(pipe, pivot, run["prompt"])
    null = (with_prompt if run["init"] == "prompt" else without)["encoder_hidden_states"].detach().float().clone()
    found, losses, latent = [], torch.full((steps, inner), torch.nan), pivot[:1].to(device)
    if checkpoint and checkpoint.exists():
        tensors, facts = _read(checkpoint)
        then = json.loads(facts.get("run", "{}"))
        other = [
            f"{key}: {then.get(key)} then, {run[key]} now"
            for key in ("prompt", "steps", "guidance", "inner", "init", "image sha256")
            if then.get(key) != run[key]
        ] + _differences(then, run)
        if other or "pivot" not in tensors:
            raise InversionError(f"{checkpoint} belongs to another run:\n  " + "\n  ".join(other) + "\nGive another file.")
        pivot = tensors["pivot"]
        found, losses, latent = list(tensors["null"].to(device)[:, None]), tensors["losses"], tensors["latent"].to(device)
        null = found[-1].clone()
    variance = pivot[-1].var().item()
    with _scheduler(pipe, DDIMScheduler.from_config) as scheduler, _bar(pipe, steps, progress) as shown:
        scheduler.set_timesteps(steps, device=device)
        shown.update(len(found))
        for i in range(len(found), steps):
            t, target = scheduler.timesteps[i], pivot[i + 1][None].to(device)
            with torch.no_grad():
                conditional = unet(latent.to(dtype), t, **with_prompt)[0].float()

            def landed(embedding, latent=latent, t=t, conditional=conditional):
                guess = unet(latent.to(dtype), t, **{**without, "encoder_hidden_states": embedding.to(dtype)})[0].float()
                return scheduler.step(guess + scale * (conditional - guess), t, latent, return_dict=False)[0]

            null = null.detach().requires_grad_()
            adam = torch.optim.Adam([null], lr=1e-2 * (1 - i / (2 * steps)))
            with torch.enable_grad():
                for j in range(inner):
                    loss = F.mse_loss(landed(null), target)
                    adam.zero_grad()
                    (loss * LOSS_SCALE).backward()
                    null.grad /= LOSS_SCALE
                    adam.step()
                    losses[i, j] = loss.item()
                    if losses[i, j] < (1e-5 + 1e-3 * i / steps) * variance:
                        break
            found.append(null.detach().clone())
            with torch.no_grad():
                latent = landed(found[-1])
            shown.set_postfix(loss=f"{losses[i, j]:.1e}")
            shown.update()
            if checkpoint:
                state = {"null": torch.cat(found).cpu(), "losses": losses, "latent": latent.cpu(), "pivot": pivot}
                _write(state, {"run": json.dumps(run)}, checkpoint)
            stepped(i)
    return pivot, torch.cat(found).cpu(), losses


@contextlib.contextmanager
def _bar(pipe, steps: int, shown: bool):
    """The pipeline's progress bar."""
    pipe.set_progress_bar_config(disable=not shown, desc="null-text")
    try:
        with pipe.progress_bar(total=steps) as bar:
            yield bar
    finally:
        pipe.set_progress_bar_config(disable=True)


def _facts(pipe) -> dict[str, str]:
    """Which model and noise schedule a pipeline has, and which package this is."""
    from . import __version__

    digests = {torch.float16: hashlib.sha256(), torch.bfloat16: hashlib.sha256()}  # the same in half precision
    for part in (pipe.unet, pipe.vae):
        for name, weight in sorted(_weights(part).items()):
            few = weight.flatten()[:: max(1, weight.numel() // 64)].detach().cpu()
            for dtype, digest in digests.items():
                digest.update(f"{name} {tuple(weight.shape)}".encode())
                digest.update(few.to(dtype).view(torch.int16).numpy().tobytes())
    keys = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
    keys += ("prediction_type", "timestep_spacing", "steps_offset", "set_alpha_to_one")
    config = {key: pipe.scheduler.config.get(key) for key in keys}
    model = str(getattr(pipe.config, "_name_or_path", ""))
    if Path(model).is_dir():  # where it lies is nobody's business
        model = "/".join(Path(model).parts[-2:])
    return {
        "model": model,
        "weights": digests[torch.float16].hexdigest()[:16],
        "weights in bfloat16": digests[torch.bfloat16].hexdigest()[:16],
        "noise schedule": json.dumps(config),
        "package": f"p2p_helpers {__version__}",
    }


def _weights(part) -> dict[str, Tensor]:
    """A network's weights by name, also where accelerate offloads them or torch.compile wraps it."""
    state = part.state_dict()
    for name, module in part.named_modules():
        hook = getattr(module, "_hf_hook", None)  # accelerate's, or several in one
        for kept in (getattr(h, "weights_map", None) for h in getattr(hook, "hooks", [hook])):
            own = [f"{name}.{key}" for key, _ in module.named_parameters(recurse=False)]
            state |= {} if kept is None else {key: kept[key.rpartition(".")[2]] for key in own if state[key].is_meta}
    return {name.removeprefix("_orig_mod."): weight for name, weight in state.items()}


def _differences(then: dict[str, str], now: dict[str, str]) -> list[str]:
    """Which of the facts that have to be the same are not."""
    return [
        f"{name}: {then.get(name)} then, {now[name]} now"
        for name, keys in COMPARED.items()
        if all(then.get(key) != now[key] for key in keys)
    ]


def _check_folder(path: Path):
    """Refuse a file in a folder that is not there. Raises InversionError."""
    if not path.parent.is_dir():
        raise InversionError(f"There is no folder {path.parent} for {path.name}. Make it first.")


def _write(tensors: dict[str, Tensor], facts: dict[str, str], path: Path):
    """A safetensors file, whole or not at all: what stood there before stays until the new one is complete."""
    _check_folder(path)
    part = path.with_name(path.name + ".part")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part, metadata=facts)
    os.replace(part, path)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and facts of a file that `_write` wrote. Raises InversionError."""
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except FileNotFoundError:
        raise InversionError(f"There is no file {path}.") from None
    except (SafetensorError, OSError) as error:
        raise InversionError(f"{path} is no safetensors file, or a damaged one: {error}") from error
