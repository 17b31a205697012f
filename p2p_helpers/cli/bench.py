"""Commands for benchmarks: bench pie."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from ..values import file_path
from .many import stop
from .options import Device, Guidance, Model

bench = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@bench.callback()
def benchmarks():
    """Measure edits with a benchmark of the field.

    \b
    Example:
      p2p bench pie --data PIE-Bench_v1
    """


@bench.command()
def pie(
    data: Annotated[Path, typer.Option(help="PIE-Bench's folder, with its mapping_file.json.")],
    out: Annotated[Path, typer.Option(help="The folder for the results of one model.")] = Path(
        "results"
    ),
    model: Model = "toyland",
    methods: Annotated[
        str | None,
        typer.Option(help="Of inverting, with commas; all that the model takes when not given."),
    ] = None,
    refine: Annotated[
        bool, typer.Option("--refine", help="Refine always, as the published rows do.")
    ] = False,
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 50,
    guidance: Guidance = None,
    device: Device = None,
    clip: Annotated[
        str | None, typer.Option(help="CLIP's folder or Hub id; the benchmark's when not given.")
    ] = None,
    dino: Annotated[
        str | None, typer.Option(help="DINO's folder or Hub id; the benchmark's when not given.")
    ] = None,
    lpips: Annotated[
        str | None, typer.Option(help="SqueezeNet's file; downloaded when not given.")
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Try failed edits again.")] = False,
):
    """Edit and measure PIE-Bench's 700 pictures with every way to invert them.

    Writes the edits, pie.json, the table pie.md and the figure pie.png to OUT. Killed anywhere, the
    same command goes on where it was. The exit code is 3 if edits have errors.

    \b
    Examples:
      p2p bench pie --data PIE-Bench_v1 --model CompVis/stable-diffusion-v1-4 --guidance 7.5
      p2p bench pie --data PIE-Bench_v1 --methods ddim,direct --refine --clip ./clip --dino ./dino
    """
    from ..bench import pie_table, run_pie
    from ..errors import InputError
    from ..view.bench_figures import pie_figure
    from ..view.figures import figure_png

    signal.signal(signal.SIGTERM, stop)
    with typer.progressbar(length=1, label="edits, then measures") as bar:

        def each(done: int, total: int, row: dict):
            bar.length = total
            bar.update(done - bar.pos)
            if row.get("error") is not None:
                typer.echo(f"\n{row['folder']}: {row['error']['message']}", err=True)

        results = run_pie(
            data,
            out,
            model=model,
            methods=None if methods is None else [one.strip() for one in methods.split(",")],
            steps=steps,
            guidance_scale=guidance,
            refine=refine,
            device=device,
            clip=clip,
            dino=dino,
            lpips=lpips,
            retry=retry,
            each=each,
        )
    if results is None:
        typer.echo("Other processes still work; the last one measures.")
        return
    table = pie_table(results)
    out = file_path("out", out)
    try:
        (out / "pie.md").write_text(table + "\n", encoding="utf-8")
        (out / "pie.png").write_bytes(figure_png(pie_figure(results)))
    except OSError as error:
        raise InputError(f"{out} cannot be written to: {error.strerror or error}.") from error
    typer.echo(table)
    failed = any(found["failed"] for found in results["methods"].values())
    raise typer.Exit(3 if failed else 0)
