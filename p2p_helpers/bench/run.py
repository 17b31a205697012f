"""Run PIE-Bench: its edits as a batch, then the measures of every edited picture."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..arguments import check_numbers
from ..attention.families import family_of
from ..batch import Job, Worker, run_jobs
from ..batch.jobs import Refused
from ..batch.run import own_device
from ..batch.store import Store
from ..errors import BatchError, InputError, InversionError
from ..images import load_image
from ..inversion import METHODS, usual_guidance
from ..inversion.methods import method_of
from ..pipelines import load_pipeline
from ..provenance import machine, model_facts
from ..values import shown
from .measures import MEASURES, Measures
from .pie import KINDS, SIDE, PieEdit, read_pie

MEASURED, RESULTS = "measures.jsonl", "pie.json"
Jobs = dict[tuple[str, str], Job | Refused]  # by the method and the edit's key


def run_pie(
    data: str | Path,
    out: str | Path,
    *,
    model: str = "toyland",
    methods: Sequence[str] | None = None,
    steps: int = 50,
    guidance_scale: float | None = None,
    refine: bool = False,
    device: str | None = None,
    clip: str | None = None,
    dino: str | None = None,
    lpips: str | None = None,
    retry: bool = False,
    each: Callable[[int, int, dict], None] | None = None,
) -> dict | None:
    """Edit and measure the pictures of PIE-Bench with every way to invert them.

    The edits are a batch in `out` (see `run_jobs`), the measures are in `out/measures.jsonl`, and the
    results in `out/pie.json`. Killed anywhere, the same call goes on. Under `accelerate launch` or
    torchrun, every process takes its share of the edits, and the last one measures.

    Pictures of another size than the masks, 512 pixels, are measured at that size.

    Args:
        data: see `read_pie`.
        out: a folder for the results of one model.
        model, device: as for `load_pipeline`.
        methods: of inverting a picture, see `invert`; all that the model takes when not given.
        steps, guidance_scale: as for `invert`; the benchmark's are 50 and 7.5.
        refine: see `PieEdit.edit`.
        clip, dino, lpips: see `Measures`.
        retry: whether to try edits again that failed before.
        each: called with how many edits and measures are done, how many there are, and the row of
            the last one.

    Returns:
        what is written to `pie.json`: under "methods", for each, how many edits were measured and
        failed, and the means of all measures, for all and by kind. None while other processes of a
        launcher still work.

    Raises:
        InputError: as `read_pie` and `Measures`, an unknown method, one that the model does not take, steps or a guidance scale
            that cannot be used.
        ModelError: as `load_pipeline` and `Measures`.
        BatchError: the results cannot be written.
    """
    check_numbers(1.0 if guidance_scale is None else guidance_scale, steps)
    known = isinstance(methods, (list, tuple)) and all(one in METHODS for one in methods)
    if methods is not None and not (methods and known):
        raise InputError(
            f"methods={shown(methods)}: methods are {', '.join(METHODS)}. Give a list of some."
        )
    edits = {edit.key: edit for edit in read_pie(data)}
    device = own_device(device)
    measure = Measures(clip, dino, lpips, device)
    pipe = load_pipeline(model, device=device)
    facts = model_facts(pipe)
    store = Store(out)
    store.check_model(model, facts)
    settings = {"steps": steps, "guidance_scale": guidance_scale}
    chosen = _methods(pipe, methods)
    jobs = _jobs(pipe, list(edits.values()), chosen, refine, settings)
    note = _Progress(2 * len(jobs), each)
    summary = run_jobs(
        jobs.values(),
        out,
        model=model,
        device=device,
        retry=retry,
        each=note,
        worker=_worker(pipe),
    )
    if summary.table is None:
        return None
    note.done = len(jobs)
    rows = list(_measured(jobs, edits, measure, store, note))
    results = {
        "benchmark": "PIE-Bench",
        "pictures": len(edits),
        "arguments": {
            "model": model,
            "methods": chosen,
            "steps": steps,
            "guidance_scale": usual_guidance(pipe) if guidance_scale is None else guidance_scale,
            "refine": refine,
        },
        "model": facts,
        "networks": measure.facts(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "machine": machine(),
        "methods": _summary(jobs, rows),
    }
    _write(store.out / RESULTS, json.dumps(results, indent=1, allow_nan=False) + "\n", "w")
    return results


PACKAGES = ("torch", "diffusers", "transformers", "torchmetrics")


def _worker(pipe) -> type[Worker]:
    """A worker with a pipeline that is loaded."""

    class Loaded(Worker):
        def load(self, model, device):
            return pipe

    return Loaded


class _Progress:
    """Counts what is done and tells it to whoever wants to know."""

    def __init__(self, total: int, each: Callable[[int, int, dict], None] | None):
        self.done = 0
        self.total = total
        self.each = each

    def __call__(self, row: dict):
        self.done += 1
        if self.each is not None:
            self.each(self.done, self.total, row)


def _methods(pipe, asked: Sequence[str] | None) -> list[str]:
    """The ways to invert that are asked for, or all that the model takes."""
    if asked is not None:
        return [method_of(pipe, method) for method in asked]
    found = []
    for method in METHODS:
        try:
            found.append(method_of(pipe, method))
        except InversionError:  # another model's
            continue
    return found


def _jobs(
    pipe, edits: Sequence[PieEdit], methods: Sequence[str], refine: bool, settings: Mapping
) -> Jobs:
    """A job for each method and edit; an entry that cannot be one is a row with an error."""
    tokenizer = family_of(pipe).tokenizer(pipe, {})
    found: Jobs = {}
    for edit in edits:
        for method in methods:
            try:
                change = edit.edit(tokenizer, refine)
                found[method, edit.key] = edit.job(change, method=method, **settings)
            except InputError as error:
                line = {"key": edit.key, "method": method}
                found[method, edit.key] = Refused(line, error)
    return found


def _measured(
    jobs: Jobs, edits: Mapping[str, PieEdit], measure: Measures, store: Store, note: _Progress
) -> Iterator[dict]:
    """The measures of every finished job: those of an earlier call with the same mask, or new ones, which are kept."""
    networks = measure.facts()
    earlier = [row for row in _rows(store.out / MEASURED) if row["networks"] == networks]
    known = {(row["job"], row["key"], row["mask"]): row for row in earlier}
    for (method, key), job in jobs.items():
        finished = store.row(job.name)
        if finished["error"] is not None:
            note.done += 1
            continue
        edit = edits[key]
        mask = hashlib.sha256(np.packbits(edit.mask).tobytes()).hexdigest()[:16]
        row = known.get((job.name, key, mask))
        if row is None:
            pictures = (edit.picture, store.folder(job.name) / "target-1.png")
            before, after = (np.asarray(load_image(one, size=(SIDE, SIDE))) for one in pictures)
            row = {
                "job": job.name,
                "key": key,
                "method": method,
                "kind": edit.kind,
                "mask": mask,
                "measures": measure(before, after, edit.target, edit.mask),
                "networks": networks,
            }
            _write(store.out / MEASURED, "\n" + json.dumps(row), "a")
        note(row)
        yield row


def _rows(file: Path) -> Iterator[dict]:
    """The lines of a file that are whole; the last one of a killed run may not be."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:
            continue


def _write(file: Path, text: str, mode: str):
    try:
        with open(file, mode, encoding="utf-8") as written:
            written.write(text)
    except OSError as error:
        raise BatchError(
            f"{file} cannot be written: {error.strerror or error}. What is finished is kept. Make "
            "room; the same command then goes on."
        ) from error


def _summary(jobs: Jobs, rows: Sequence[Mapping]) -> dict:
    """For each method how many edits were measured, how many failed, and the means."""
    found = {}
    for method in dict.fromkeys(method for method, _ in jobs):
        own = [row for row in rows if row["method"] == method]
        kinds = {kind: [row for row in own if row["kind"] == kind] for kind in KINDS}
        asked = sum(name == method for name, _ in jobs)
        found[method] = {
            "measured": len(own),
            "failed": asked - len(own),
            "all": _means(own),
            "kinds": {kind: _means(some) for kind, some in kinds.items() if some},
        }
    return found


def _means(rows: Sequence[Mapping]) -> dict[str, float | None]:
    """The mean of each measure, over the pictures that have it."""
    means: dict[str, float | None] = {}
    for name in MEASURES:
        values = [row["measures"][name] for row in rows if row["measures"][name] is not None]
        means[name] = float(np.mean(values)) if values else None
    return means
