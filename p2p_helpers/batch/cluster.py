"""The same batch on a Ray cluster: every worker is an actor of Ray Data, and a source's jobs are one row."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence

from ..errors import BatchError, InputError, ModelError, P2PError
from ..values import finite_number, whole_number
from .jobs import Job, job_of
from .rows import row_of

MOST = 100_000  # workers, or GPUs of one
ADVICE = "Leave it out for as many as the cluster has room for."
BLOCKS = (
    16  # of a worker: what a dead one had not finished is done again by the next in so many parts
)


def cluster_rows(
    groups: Sequence[Sequence[Job]],
    worker: type,
    given: tuple,
    address: str,
    workers: int | None,
    gpus: float | None,
    begin: Callable[[], None],
) -> Iterator[dict]:
    """The rows of all groups, as workers finish them.

    Args:
        groups: jobs by source.
        worker, given: the class that does them and its arguments.
        address, workers, gpus: see `run_jobs`.
        begin: called once the cluster is there and has room.

    Raises:
        InputError: Ray is not installed, or there is no cluster at the address; a worker refused its model.
        BatchError: a worker could not write its results, or the cluster went away.
    """
    try:
        import ray
        import ray.data
    except ImportError:
        raise InputError(
            'A cluster needs Ray: pip install "p2p-helpers[cluster]". Without it the batch runs on '
            "this machine."
        ) from None
    if not groups:
        return
    if ray.is_initialized():
        raise InputError(
            "This process is connected to Ray already. Call ray.shutdown() first: a batch makes a connection of its own."
        )
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(
            f"There is no Ray cluster at {address}: {error} Start one with: ray start --head"
        ) from error
    try:
        yield from _rows(ray, groups, (worker, *given), workers, gpus, begin)
    finally:
        ray.shutdown()


def _rows(
    ray, groups, given: tuple, workers: int | None, gpus: float | None, begin: Callable[[], None]
) -> Iterator[dict]:
    has = ray.cluster_resources()
    gpus = min(1.0, has.get("GPU", 0.0)) if gpus is None else gpus
    room = room_for(gpus, has.get("GPU", 0.0), has.get("CPU", 1.0))
    count = min(
        room if workers is None else whole_number("workers", workers, 1, MOST, ADVICE), len(groups)
    )
    nodes = sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes())
    begin()
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    texts = [
        {"jobs": json.dumps([{"name": job.name, "job": job.row()} for job in jobs])}
        for jobs in groups
    ]
    blocks = min(len(texts), count * BLOCKS)
    made = ray.data.from_items(texts, override_num_blocks=blocks).map_batches(
        _Actor,
        fn_constructor_args=(*given, share_of(gpus, count, nodes)),
        batch_size=1,
        num_gpus=gpus or None,
        compute=ray.data.ActorPoolStrategy(size=count),
    )
    try:
        for row in made.iter_rows():
            yield json.loads(row["row"])
    except ray.exceptions.RayError as error:
        raise _said(error) from None


def room_for(gpus: float, all_gpus: float, cores: float) -> int:
    """How many workers a cluster has room for.

    Args:
        gpus: for each worker.
        all_gpus, cores: of the cluster.

    Raises:
        InputError: a number that cannot be, or more GPUs than there are.
    """
    finite_number("gpus", gpus, MOST, "0.5 puts two workers on one GPU, 0 takes none.", least=0)
    if gpus > 1 and gpus != int(gpus):
        raise InputError(
            f"gpus={gpus:g}: Ray gives a worker a part of one GPU, or whole ones. Take 0.5, or {int(gpus)}."
        )
    if gpus > all_gpus:
        raise InputError(
            f"gpus={gpus:g}: the cluster has {all_gpus:g} GPUs. Leave gpus out, or take gpus=0 for workers on its cores."
        )
    if not gpus:
        return max(1, int(cores))
    return int(all_gpus) * int(1 / gpus) if gpus <= 1 else int(all_gpus / gpus)


def share_of(gpus: float, count: int, nodes: int) -> float:
    """How much of the memory a worker may fill: of its GPU, or without one of its machine.

    Args:
        gpus: for each worker.
        count: workers, spread evenly.
        nodes: machines of the cluster that can have workers.
    """
    return min(1.0, gpus) if gpus else 1 / math.ceil(count / max(1, nodes))


class _Actor:
    """A worker, with rows as Ray Data passes them on."""

    def __init__(self, worker: type, model: str, out: str, share: float):
        self.worker = worker(model, out, share=share)

    def __call__(self, batch: dict) -> Iterator[dict]:
        for text in batch["jobs"]:
            for row in self._rows(json.loads(text)):
                yield {"row": [json.dumps(row, default=str)]}

    def _rows(self, given: list[dict]) -> Iterator[dict]:
        """A job whose file is not here, or another one here, is a row with an error."""
        jobs = []
        for one in given:
            try:
                job = job_of(one["job"])
                if job.name != one["name"]:
                    raise InputError(
                        "Its picture or inversion is another one on this machine, or has changed since the batch began."
                    )
                jobs.append(job)
            except InputError as error:
                yield self.worker.store.write(row_of(one["name"], one["job"], error), {})
        yield from self.worker(jobs)


def _said(error: BaseException) -> P2PError:
    """What a worker said, all of its lines; or the last line of what Ray says."""
    text = str(error).strip() or type(error).__name__
    for kind in (BatchError, InputError, ModelError):
        _, found, message = text.rpartition(f"{kind.__name__}: ")
        if found:
            return kind(message)
    return BatchError(f"The cluster stopped: {text.splitlines()[-1]}")
