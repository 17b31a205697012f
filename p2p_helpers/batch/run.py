"""Run a batch: what is left to do, by source, here or on a cluster."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError
from ..pipelines import EMBEDDED, best_device
from ..values import shown
from .engine import Worker
from .jobs import Job, Refused
from .rows import row_of
from .store import Gone, Store


@dataclass(frozen=True)
class Summary:
    """How a batch stands.

    Args:
        before: jobs that were finished before.
        now: jobs that this call finished.
        failed: jobs with an error, among all. None while other processes may still work.
        table: the file with a line for each job. None while other processes may still work.
    """

    before: int
    now: int
    failed: int | None
    table: Path | None

    def __str__(self):
        said = f"{self.now} jobs are done now, {self.before} were done before"
        if self.table is None:
            return f"{said}; other processes may still work."
        return f"{said}, {self.failed} have an error. {self.table} has a line for each."


def run_jobs(
    jobs: Iterable[Job | Refused],
    out: str | Path,
    *,
    model: str = "toyland",
    device: str | None = None,
    retry: bool = False,
    ray: str | None = None,
    workers: int | None = None,
    gpus: float | None = None,
    each: Callable[[dict], None] | None = None,
    worker: type[Worker] = Worker,
) -> Summary:
    """Do jobs, each once, and write their results to a folder. Killed anywhere, it goes on where it was.

    A job is known by its hash. Its pictures, metrics and provenance are in `out/ab/abcd…/`, there
    completely or not at all; `out/results.jsonl` has a line for each job in the end. Jobs with the same
    source run it once. An error of a job is its row, and the others go on.

    Under `accelerate launch` or torchrun, every process takes its share of the sources.

    Args:
        jobs: e.g. from `read_jobs`.
        out: a folder for the results of one model, which one call at a time writes to. Many machines need a file system that they
            share.
        model: as for `load_pipeline`; a folder of this machine must be there on all machines.
        device: as for `load_pipeline`, without a cluster.
        retry: whether to try jobs again that failed before.
        ray: the address of a Ray cluster, "auto" for this machine's; no Ray when not given.
        workers: on the cluster; as many as it has room for when not given.
        gpus: for each worker on the cluster, e.g. 0.5 for two on one; 1 when not given, where there
            are any.
        each: called with every row that is written now.
        worker: the class that does the jobs.

    Raises:
        ModelError, InputError: as `Worker`. InputError: what is no job, no name of a model or no address; Ray is not installed or
            not reached; a device is given for a cluster, or workers or gpus without one.
        BatchError: the results cannot be written, an earlier one is damaged, or a GPU answers no more. What is finished is kept.
    """
    if isinstance(jobs, (str, Path)) or not isinstance(jobs, Iterable):
        raise InputError(
            f"jobs={shown(jobs)}: give a list of jobs, or those of a file: read_jobs(file)."
        )
    if not isinstance(model, (str, Path)):
        raise InputError(
            f"model={shown(model)}: give its name or folder, as to load_pipeline(); every worker loads it itself."
        )
    if ray is not None and not isinstance(ray, str):
        raise InputError(
            f'ray={shown(ray)}: give the address of a cluster, or "auto" for this machine\'s.'
        )
    if ray is not None and device is not None:
        raise InputError(
            f"device={device!r} is for this machine. On a cluster Ray gives every worker its GPU: take gpus=1, or gpus=0 for none."
        )
    if ray is None and (workers is not None or gpus is not None):
        raise InputError(
            'workers= and gpus= are for a cluster. Name it: ray="auto", or its address.'
        )
    store, plan = Store(out), _Plan(retry)
    for job in jobs:
        plan.add(store, job)
    rows = _refusals(store, plan.refused)
    groups = list(plan.groups.values())
    is_file = model not in EMBEDDED and Path(model).exists()
    there = str(Path(model).absolute()) if is_file else model
    if not any(groups) and not _launched("RANK", 0) and store.model().get("name", there) != there:
        worker(there, out, own_device(device))  # no job is left to find out that it is another one
    if ray is not None:
        from .cluster import cluster_rows

        left = [jobs for jobs in groups if jobs]

        def begin():
            for own in left:  # of workers that an earlier call left, no one knows what ended them
                store.end(own[0].group)
                _forget(store, own if retry else ())

        made = cluster_rows(left, worker, (there, str(store.out)), ray, workers, gpus, begin)
    else:
        again = store if retry else None
        made = _local_rows(groups, worker, (there, str(store.out)), device, again)
    now = 0
    for now, row in enumerate(itertools.chain(rows, made), start=1):  # noqa: B007
        if each is not None:
            each(row)
    others = plan.of_others() if ray is None else set()
    finished = [
        store.has(name) and not (name in others and store.stamp(name) == plan.failed[name])
        for name in dict.fromkeys(plan.names)
    ]
    if ray is not None:  # a worker that died took the news of what it had finished with it
        now = sum(finished) - plan.before
    if not all(finished):
        return Summary(plan.before, now, None, None)
    try:
        table, failed = store.write_table(plan.names)
    except Gone:
        return Summary(plan.before, now, None, None)
    return Summary(plan.before, now, failed, table)


@dataclass
class _Plan:
    """What is asked for, and what of it is left to do."""

    retry: bool
    names: list[str] = field(default_factory=list)
    before: int = 0
    refused: dict[str, Refused] = field(default_factory=dict)
    groups: dict[str, list[Job]] = field(default_factory=dict)
    failed: dict[str, int | None] = field(
        default_factory=dict
    )  # tried again; their old rows' stamps
    _seen: set[str] = field(default_factory=set)

    def add(self, store: Store, job: Job | Refused):
        """One more job; a job that is asked for twice is done once. Raises InputError for what is none."""
        if not isinstance(job, (Job, Refused)):
            raise InputError(
                f"{shown(job)} is no job. Make one with Job(source=..., target=...), or read a file of them with read_jobs(file)."
            )
        self.names.append(job.name)
        if job.name in self._seen:
            return
        self._seen.add(job.name)
        done = store.has(job.name)
        if done and self.retry and isinstance(job, Job) and store.failed(job.name):
            self.failed[job.name] = store.stamp(job.name)
            done = False
        self.before += done
        if isinstance(job, Job):
            # A finished source keeps its place, so that processes that begin later share alike.
            own = self.groups.setdefault(job.group, [])
            own += [] if done else [job]
        elif not done:
            self.refused[job.name] = job

    def of_others(self) -> set[str]:
        """Jobs that other processes of a launcher try again: until then their old rows say nothing."""
        groups = list(self.groups.values())
        own = {
            job.name
            for jobs in groups[_launched("RANK", 0) :: _launched("WORLD_SIZE", 1)]
            for job in jobs
        }
        return self.failed.keys() - own


def _refusals(store: Store, refused: dict[str, Refused]) -> Iterator[dict]:
    """The rows of lines that are no jobs."""
    for name, one in refused.items():
        yield store.write(row_of(name, one.line, one.error), {})


def _forget(store: Store, jobs: Iterable[Job]):
    """Remove the errors of jobs that are tried again."""
    for job in jobs:
        if store.failed(job.name):
            store.forget(job.name)


def _local_rows(
    groups: list[list[Job]],
    worker: type[Worker],
    given: tuple,
    device: str | None,
    again: Store | None,
) -> Iterator[dict]:
    """The rows that this process makes: all, or its share of them beside others of a launcher.

    Args:
        again: where the errors are, if failed jobs are tried again.
    """
    rank, world, local_world = _launched("RANK", 0), _launched("WORLD_SIZE", 1), _beside()
    own = [jobs for jobs in groups[rank::world] if jobs]
    if not own:
        return
    chosen = own_device(device)
    share = 1 / local_world if chosen == "cpu" else 1.0
    do = worker(*given, device=chosen, share=share)
    for jobs in own:
        if again is not None:
            _forget(again, jobs)
        yield from do(jobs)


def own_device(device: str | None = None) -> str:
    """The device of this process: the given one or the fastest; beside others of a launcher a GPU of its own."""
    chosen = device or best_device()
    if chosen == "cuda" and _beside() > 1:
        return f"cuda:{_launched('LOCAL_RANK', 0)}"
    return chosen


def _launched(name: str, usual: int) -> int:
    """What a launcher says in the environment."""
    return int(os.environ.get(name, usual))


def _beside() -> int:
    """How many processes of a launcher share this machine."""
    return _launched("LOCAL_WORLD_SIZE", 1)
