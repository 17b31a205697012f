"""One process's part of a batch: a pipeline, and the jobs of one source after another."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image

from ..attention.families import family_of
from ..blend import LocalBlend, check_words
from ..edits.edit import Edit
from ..errors import BatchError
from ..images import load_image
from ..inversion import Inversion, invert
from ..inversion.methods import method_of
from ..memory import fitting, free_bytes, is_of_memory, measured
from ..pipelines import load_pipeline
from ..prompts.words import contains
from ..provenance import model_facts, save_png, settings_of
from ..result import EditResult
from ..run import edit
from ..stages import takes_several_runs
from ..values import first_line
from .jobs import Job
from .rows import metrics_of, row_of
from .store import Store

DEATHS = 3  # of workers at one job, after which it is not tried again
OF_THE_RUN = ("source", "seed", "steps", "guidance_scale", "negative_prompt")


@dataclass
class _Target:
    """One edited picture that a job wants, and what has come of it."""

    job: Job
    prompt: str
    edit: Edit
    source: Image.Image | None = None
    image: Image.Image | None = None
    said: dict = field(default_factory=dict)
    metrics: dict = field(default_factory=dict)


class Worker:
    """A pipeline that does jobs and writes their results.

    A subclass that overrides `load`, `facts` and `edit` makes pictures in another way.

    Args:
        model: as for `load_pipeline`.
        out: the folder of results.
        device: as for `load_pipeline`.
        share: of the device's memory that this worker may fill.

    Raises:
        ModelError: no such model.
        InputError: the folder holds results of another model.
        BatchError: the folder cannot be written to.
    """

    def __init__(
        self,
        model: str,
        out: str | Path,
        device: str | None = None,
        share: float = 1.0,
    ):
        self.share, self.most = share, 0  # targets in one call; found in the first one
        self.sick = False  # whether the GPU answers no more
        self.store = Store(out)
        self.pipe = self.load(model, device)
        self.model_facts = self.facts()
        self.store.check_model(model, self.model_facts)

    def load(self, model: str, device: str | None) -> Any:
        """The pipeline."""
        return load_pipeline(model, device=device)

    def facts(self) -> dict:
        """What is kept of the pipeline beside every picture."""
        return model_facts(self.pipe)

    def edit(self, source, targets: list[str], edits: list[Edit], **arguments) -> EditResult:
        """One call of `edit`."""
        return edit(self.pipe, source, targets, edits, progress=False, **arguments)

    def __call__(self, jobs: Sequence[Job]) -> Iterator[dict]:
        """Do jobs of one source; gives the rows of those that were not finished before.

        Raises:
            BatchError: a result cannot be written, or the GPU answers no more. A job's own errors are rows.
        """
        waiting = [job for job in jobs if not self.store.has(job.name)]
        if not waiting:
            return
        group = waiting[0].group
        try:
            deaths = self.store.begin(group)
            if deaths >= DEATHS:
                why = f"{deaths} workers died at this job, perhaps for lack of memory or of an error of the GPU."
                yield self._failed(waiting.pop(0), BatchError(why))
                self.store.went_on(group)
            for row in self._edited(waiting, alone=deaths > 0):
                if deaths:
                    self.store.went_on(group)
                yield row
        finally:  # an error or Ctrl-C is no death, but what a GPU dies at may be the job
            if not self.sick:
                self.store.end(group)

    def _source(self, job: Job) -> str | Inversion:
        """A prompt or an inversion, which is made once and kept."""
        if job.inversion is not None:
            return Inversion.load(job.inversion)
        if job.picture is None:
            return str(job.source)
        kept = self.store.inversion(job.group)
        if kept.exists():
            return Inversion.load(kept)
        method = method_of(self.pipe, job.method)
        checkpoint = kept.with_suffix(".part") if method == "null-text" else None
        given = {"steps": job.steps} if job.steps is not None else {}
        inversion = invert(
            self.pipe,
            load_image(job.picture, self.pipe),
            str(job.source),
            method=method,
            guidance_scale=job.guidance_scale,
            checkpoint=checkpoint,
            progress=False,
            **given,
        )
        inversion.save(kept)
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)
        return inversion

    def _check(self, source: str | Inversion, job: Job):
        """Refuse a job's local blend as one call of its own would."""
        if job.local_blend is not None and isinstance(self.pipe, DiffusionPipeline):
            tokenizer = family_of(self.pipe).tokenizer(self.pipe, {})
            check_words(job.local_blend, tokenizer, [[_prompt(source), *job.target]])

    def _blend(self, source: str | Inversion, call: Sequence[_Target]) -> LocalBlend | None:
        """The call's local blend: a job's other targets, in other calls, may have more of its words."""
        blend = call[0].job.local_blend
        if blend is None or not isinstance(self.pipe, DiffusionPipeline):
            return blend
        tokenizer = family_of(self.pipe).tokenizer(self.pipe, {})
        prompts = [_prompt(source), *(target.prompt for target in call)]

        def there(phrases) -> tuple:
            return tuple(
                one for one in phrases if any(contains(tokenizer, text, one) for text in prompts)
            )

        return replace(blend, words=there(blend.words), exclude=there(blend.exclude))

    def _edited(self, jobs: Sequence[Job], alone: bool) -> Iterator[dict]:
        """The rows of jobs of one source: as many targets in a call as fit, the source once."""
        if not jobs:
            return
        try:
            source = self._source(jobs[0])
        except Exception as error:  # of the picture, the inversion, or a library: a row says it
            self._check_run(error)
            for job in jobs:
                yield self._failed(job, error)
            return
        known: list[EditResult] = []
        same = defaultdict(list)
        for job in jobs:
            try:
                self._check(source, job)
            except Exception as error:
                self._check_run(error)
                yield self._failed(job, error)
                continue
            same[job.name if alone else repr(job.local_blend)].append(job)
        for own in same.values():
            yield from self._blended(source, own, known)

    def _blended(
        self, source: str | Inversion, jobs: Sequence[Job], known: list[EditResult]
    ) -> Iterator[dict]:
        """The rows of jobs with one local blend."""
        made: dict[str, list[_Target]] = {job.name: [] for job in jobs}
        waiting = [
            _Target(job, *pair) for job in jobs for pair in zip(job.target, job.edit, strict=True)
        ]
        while waiting:
            call = self._next(waiting)
            owners = {target.job.name: target.job for target in call}
            failure: Exception | None = None
            try:
                self._call(source, call, known)
            except Exception as error:  # whatever a job does to a library: its row says it
                self._check_run(error)
                failure = error
            if failure is not None:
                if is_of_memory(failure) and len(call) > 1:
                    self.most = len(call) // 2
                    failure.__traceback__ = None  # whose frames hold what filled the memory
                    torch.cuda.empty_cache()
                    continue
                waiting = [target for target in waiting if target.job.name not in owners]
                if len(owners) == 1:
                    yield self._failed(call[0].job, failure)
                else:  # one spoils it for all, so each is tried alone
                    failure.__traceback__ = None
                    for job in owners.values():
                        yield from self._blended(source, [job], known)
                continue
            waiting = waiting[len(call) :]
            for target in call:
                own = made[target.job.name]
                own.append(target)
                if len(own) == len(target.job.target):  # and its pictures need not be kept
                    yield self._finished(made.pop(target.job.name))

    def _check_run(self, error: Exception):
        """Raise BatchError for what is wrong with the disk or the GPU, and not with a job."""
        self.store.check_room(error)
        if "CUDA error" in str(error) and not is_of_memory(error):
            self.sick = True
            raise BatchError(
                f"The GPU does not answer any more: {first_line(error)} What is finished is kept; the same command goes on, in a new "
                "process."
            ) from error

    def _next(self, waiting: list[_Target]) -> list[_Target]:
        """As many as fit in a call; an edit of words and places takes runs of its own."""
        call = waiting[: self.most or 1]
        alone = [takes_several_runs(target.edit) for target in call]
        return call[: max(1, alone.index(True))] if any(alone) else call

    def _call(self, source: str | Inversion, call: list[_Target], known: list[EditResult]):
        """Make the pictures of some targets."""
        job, start = call[0].job, time.perf_counter()
        arguments: dict[str, Any] = {"local_blend": self._blend(source, call)}
        if not known:
            names = ("steps", "guidance_scale") if isinstance(source, Inversion) else OF_THE_RUN[1:]
            given = {name: getattr(job, name) for name in names}
            arguments |= {name: value for name, value in given.items() if value is not None}

        def run() -> EditResult:
            begin = known[0] if known else source
            edits = [target.edit for target in call]
            return self.edit(begin, [target.prompt for target in call], edits, **arguments)

        result = run() if self.most else self._measured(run)
        known[:] = known or [result]
        seconds = time.perf_counter() - start
        for number, target in enumerate(call):
            target.source, target.image = result.source, result.images[number]
            asked = replace(result, local_blend=job.local_blend)
            target.said = settings_of(asked, number)
            target.metrics = metrics_of(result, number, source)
            target.metrics["seconds"] = round(seconds / len(call), 4)
            target.metrics["targets_in_call"] = len(call)

    def _measured(self, run) -> EditResult:
        """The first call, which says how many targets fit in the next ones."""
        device = str(getattr(self.pipe, "_execution_device", "none"))
        if device == "none":
            self.most = 1
            return run()
        result, peak = measured(device, run)
        kind = torch.device(device).type
        self.most = fitting(free_bytes(device), peak, 2, kind, self.share)
        return result

    def _finished(self, targets: Sequence[_Target]) -> dict:
        """Write the pictures of a job; gives its row."""
        job = targets[0].job
        source, own = targets[0].source, {name: targets[0].said.get(name) for name in OF_THE_RUN}
        pictures = {"source.png": (source, own)}
        for number, target in enumerate(targets, start=1):
            pictures[f"target-{number}.png"] = (target.image, target.said)
        row = row_of(job.name, job.row())
        row["pictures"] = list(pictures)
        row["metrics"] = [target.metrics for target in targets]
        settings = [target.said for target in targets]
        row["provenance"] = {**self.model_facts, "settings": settings}

        def saved(image, said):
            model = {name: self.model_facts.get(name) for name in ("model", "weights")}
            facts = {**said, "job": job.name, **model}
            return lambda path: save_png(image, path, facts)

        return self.store.write(row, {name: saved(*pair) for name, pair in pictures.items()})

    def _failed(self, job: Job, error: Exception) -> dict:
        """Write what went wrong with a job; gives its row."""
        row = row_of(job.name, job.row(), error)
        row["provenance"] = self.model_facts
        return self.store.write(row, {})


def _prompt(source: str | Inversion) -> str:
    """What the source shows."""
    return source if isinstance(source, str) else source.prompt
