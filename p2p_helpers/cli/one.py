"""Commands for one picture: edit, invert, maps; and export, for pictures elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from ..values import PICTURES
from .options import Device, Guidance, Model, Seed, Steps


def edit(
    source: Annotated[str, typer.Argument(help="A prompt, or a file that `p2p invert` made.")],
    target: Annotated[
        list[str], typer.Argument(help="The prompt of the edited picture, or several.")
    ],
    edit: Annotated[
        list[str] | None,
        typer.Option(
            "--edit", "-e", help="As it prints in Python, for all targets or one for each."
        ),
    ] = None,
    blend: Annotated[
        list[str] | None,
        typer.Option(
            help="A word where the picture may change; the rest stays. Give it again for more."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="The edited picture; the source lies beside it.")
    ] = Path("edited.png"),
    seed: Annotated[
        int | None,
        typer.Option(
            help="The same seed gives the same picture; 0 when not given. An inversion has its own noise."
        ),
    ] = None,
    steps: Steps = None,
    guidance: Guidance = None,
    negative: Annotated[
        str | None,
        typer.Option(
            help="What guidance steers away from; Flux.1 needs true_cfg_scale beside it, in Python."
        ),
    ] = None,
    model: Model = "toyland",
    device: Device = None,
):
    """Make a picture from a prompt, and edit it by changing the prompt.

    The prompt and all settings stand in the PNG files' metadata.

    \b
    Examples:
      p2p edit "a cat on the beach" "a dog on the beach" --seed 3
      p2p edit "a house" "a house at night" -e "Refine(cross_steps=0.5)" --out night.png
      p2p edit "a cat on the beach" "a dog on the beach" --blend cat --blend dog
      p2p edit cat.safetensors "a dog on the beach"
    """
    from ..edits.printed import read_edit
    from ..inversion import Inversion
    from ..pipelines import load_pipeline
    from ..provenance import model_facts, save_png, settings_of
    from ..run import edit as run

    edits = [read_edit(one) for one in edit or ["Replace()"]]
    _check_out(out, ".png")
    if Path(source).suffix.lower() in PICTURES:
        raise InputError(
            f"{source} is a picture, which has to be inverted before it can be edited: p2p invert "
            f'{source} "what it shows", then p2p edit {Path(source).stem}.safetensors …'
        )
    start = Inversion.load(source) if Path(source).suffix.lower() == ".safetensors" else source
    pipe = load_pipeline(model, device=device)
    result = run(
        pipe,
        start,
        target,
        edits[0] if len(edits) == 1 else edits,
        local_blend=list(blend) if blend else None,
        seed=seed,
        steps=steps,
        guidance_scale=guidance,
        negative_prompt=negative,
    )
    facts = model_facts(pipe)
    files = [(result.source, _beside(out, "source"), None)]
    for number, image in enumerate(result.images):
        several = len(result.images) > 1
        files.append((image, _beside(out, str(number + 1)) if several else out, number))
    for image, file, number in files:
        _save(save_png, image, file, {**settings_of(result, number), **facts})


def invert(
    picture: Annotated[Path, typer.Argument(help="A photograph.")],
    prompt: Annotated[
        str | None, typer.Argument(help="What it shows; found out when not given.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="ddim, null-text, negative-prompt, direct or exact.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The inversion; the picture's name when not given.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Denoising steps, of the edits too.")] = 50,
    guidance: Guidance = None,
    model: Model = "toyland",
    device: Device = None,
):
    """Find the noise that gives a real picture, so that it can be edited.

    \b
    Examples:
      p2p invert cat.jpg "a cat on the beach"
      p2p invert cat.jpg --method direct --out cat.safetensors
    """
    from ..describing import describe
    from ..images import load_image
    from ..inversion import invert as run
    from ..pipelines import load_pipeline

    file = out or Path(f"{picture.stem}.safetensors")
    _check_out(file, ".safetensors")
    pipe = load_pipeline(model, device=device)
    image = load_image(picture, pipe)
    if prompt is None:
        prompt = describe(image, pipe)
        typer.echo(f"It shows: {prompt}")
    found = run(pipe, image, prompt, method=method, steps=steps, guidance_scale=guidance)
    found.save(file)
    typer.echo(f"{file}: comes back with {found.psnr:.1f} dB")


def maps(
    prompt: str,
    out: Annotated[Path, typer.Option(help="The figure, as PNG.")] = Path("maps.png"),
    seed: Seed = 0,
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 30,
    guidance: Guidance = None,
    model: Model = "toyland",
    device: Device = None,
):
    """Make a picture, and draw where it looks at each word of its prompt.

    \b
    Example:
      p2p maps "a cat on the beach" --seed 3
    """
    import io

    import torch
    from PIL import Image

    from ..arguments import check_numbers, check_prompts, check_schedule, whole_seed
    from ..inversion import usual_guidance
    from ..maps.record import record
    from ..pipelines import load_pipeline
    from ..provenance import model_facts, save_png
    from ..view.figures import figure_png
    from ..view.map_figures import word_maps

    _check_out(out, ".png")
    if not prompt.strip():
        raise InputError("The prompt is empty. Say what the picture shows.")
    check_prompts([prompt], None)
    check_numbers(1.0 if guidance is None else guidance, steps)
    whole_seed(seed)
    pipe = load_pipeline(model, device=device)
    check_schedule(pipe, steps)
    scale = usual_guidance(pipe) if guidance is None else guidance
    given = {"num_inference_steps": steps, "guidance_scale": scale}
    with record(pipe) as found:
        generator = torch.Generator().manual_seed(seed)
        image = pipe(prompt, generator=generator, **given).images[0]
    figure = Image.open(io.BytesIO(figure_png(word_maps(found, image))))
    said = {"source": prompt, "seed": seed, "steps": steps, "guidance_scale": scale}
    _save(save_png, figure, out, {**said, **model_facts(pipe)})


def export(
    folder: Annotated[Path, typer.Argument(help="Is made if it is not there.")],
    model: Model = "toyland",
):
    """Write a model as ONNX files in which an edit is data, for programs without Python.

    Every file is compared with torch. Needs the packages of `p2p-helpers[export]`.

    \b
    Example:
      p2p export playground/model
    """
    from ..exporting.model import export as run
    from ..pipelines import load_pipeline

    said = run(load_pipeline(model, device="cpu"), folder)
    for name, facts in said["files"].items():
        typer.echo(f"{folder / name}  {facts['bytes'] / 1e6:.1f} MB")


def _beside(file: Path, what: str) -> Path:
    return file.with_name(f"{file.stem}-{what}{file.suffix}")


def _check_out(file: Path, suffix: str):
    """Refuse another kind of file than is written, a folder, and one that is not there, before a model is loaded."""
    if file.suffix.lower() != suffix:
        raise InputError(
            f"--out {file}: what is written is a {suffix} file. Give a name that ends in {suffix}."
        )
    if file.expanduser().is_dir():
        raise InputError(f"--out {file}: there is a folder of this name. Give another.")
    if not file.expanduser().parent.is_dir():
        raise InputError(f"There is no folder {file.parent} for {file.name}. Make it first.")


def _save(save_png, image, file: Path, said: dict):
    try:
        save_png(image, file.expanduser(), said)
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error.strerror or error}.") from error
    typer.echo(file)
