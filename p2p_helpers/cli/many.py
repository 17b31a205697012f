"""Commands for many pictures: batch, gallery, study."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from .options import Device, Model


def batch(
    jobs: Annotated[Path, typer.Argument(help="One job a line, as JSON (.jsonl), or .parquet.")],
    out: Annotated[Path, typer.Option(help="The folder for the results of one model.")] = Path(
        "results"
    ),
    model: Model = "toyland",
    device: Device = None,
    retry: Annotated[bool, typer.Option("--retry", help="Try failed jobs again.")] = False,
    ray: Annotated[
        str | None, typer.Option(help="A Ray cluster's address; “auto” for this machine's.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="On the cluster; as many as it has room for.")
    ] = None,
    gpus: Annotated[
        float | None, typer.Option(help="For each worker on the cluster; 0.5 puts two on one.")
    ] = None,
):
    """Do many edits, each once. Killed anywhere, the same command goes on where it was.

    A job has the names of p2p.edit: "target" and "edit" (each one or a list), "source", "seed",
    "steps", "guidance_scale", "negative_prompt", "local_blend"; for a real picture "picture" and
    "method", or "inversion". Pictures, metrics and provenance are in OUT/ab/abcd…/, and
    OUT/results.jsonl has a line for each job. The exit code is 3 if jobs have errors.

    \b
    A line of JOBS:
      {"source": "a cat on the beach", "target": "a dog on the beach", "edit": "Replace()", "seed": 3}
    \b
    Examples:
      p2p batch jobs.jsonl --out results
      p2p batch jobs.jsonl --model stable-diffusion-v1-5/stable-diffusion-v1-5
      p2p batch jobs.jsonl --out /shared/results --ray auto --gpus 0.5
    """
    more = {"retry": retry, "ray": ray, "workers": workers, "gpus": gpus}
    summary = _run(jobs, out, model=model, device=device, **more)
    raise typer.Exit(3 if summary.failed else 0)


def _run(jobs: Path, out: Path, **how):
    """Do the jobs of a file, with a bar; errors are said at once, and in the end how all stands."""
    from ..batch import read_jobs, run_jobs
    from ..batch.store import Store

    found = list(read_jobs(jobs))
    signal.signal(signal.SIGTERM, stop)
    names, store, retry = {job.name for job in found}, Store(out), how.get("retry", False)
    done = sum(store.has(name) and not (retry and store.failed(name)) for name in names)
    with typer.progressbar(length=len(names), label="jobs") as bar:
        bar.update(done)

        def each(row: dict):
            bar.update(1)
            if row["error"] is not None:
                typer.echo(f"\n{row['folder']}: {row['error']['message']}", err=True)

        summary = run_jobs(found, out, each=each, **how)
    typer.echo(summary)
    return summary


def stop(number, frame):
    """End as after Ctrl-C: a queue's system that wants its machine back is no death of a worker."""
    raise SystemExit(128 + number)


def gallery(
    model: Model = "toyland",
    out: Annotated[Path, typer.Option(help="The folder for the page and its pictures.")] = Path(
        "gallery"
    ),
    jobs: Annotated[
        Path | None, typer.Option(help="Other edits, as for batch; the course's when not given.")
    ] = None,
    device: Device = None,
):
    """Make a page that shows what a model can do: the paper's kinds of edit, beside their sources.

    OUT/index.html is the page and OUT/gallery.png a figure of all its pictures. Killed anywhere,
    the same command goes on where it was.

    \b
    Examples:
      p2p gallery
      p2p gallery --model stable-diffusion-v1-5/stable-diffusion-v1-5 --out sd15
    """
    from ..view.gallery_page import examples, write_gallery

    _run(jobs or examples(model), out, model=model, device=device)
    typer.echo(write_gallery(out))


study = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
Study = Annotated[Path, typer.Argument(help="What p2p_helpers.study() made.")]


@study.callback()
def comparisons():
    """Blind comparisons of edits: serve one, and say what its votes say.

    \b
    Example:
      p2p study serve swaps
    """


@study.command()
def serve(
    folder: Study,
    host: Annotated[str, typer.Option(help="0.0.0.0 for a class on one network.")] = "127.0.0.1",
    port: int = 8000,
):
    """Serve a study and store its votes; print what they say when it is stopped.

    \b
    Examples:
      p2p study serve swaps
      p2p study serve swaps --host 0.0.0.0
    """
    from ..voting.server import serve as served
    from ..voting.server import stored

    server = served(folder, host, port)
    print(f"http://{host}:{server.server_port}/ until Ctrl-C", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        if stored(folder):
            results(folder)


@study.command()
def results(folder: Study):
    """Print what the votes of a study say.

    \b
    Examples:
      p2p study results swaps
    """
    from ..voting.results import study_results

    typer.echo(study_results(folder))
