"""The same batch on a Ray cluster: every worker is an actor of Ray Data, and a source's jobs are one row."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence

from ..errors import BatchError, InputError
from .jobs import Job, job_of

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
) -> Iterator[dict]:
    """The rows of all groups, as workers finish them.

    Args:
        groups: jobs by source.
        worker, given: the class that does them and its arguments.
        address, workers, gpus: see `run_jobs`.

    Raises:
        InputError: Ray is not installed, or there is no cluster at the address.
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
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(
            f"There is no Ray cluster at {address}: {error} Start one with: ray start --head"
        ) from error
    try:
        yield from _rows(ray, groups, (worker, *given), workers, gpus)
    finally:
        ray.shutdown()


def _rows(ray, groups, given: tuple, workers: int | None, gpus: float | None) -> Iterator[dict]:
    has = ray.cluster_resources()
    gpus = min(1.0, has.get("GPU", 0.0)) if gpus is None else gpus
    room = has.get("GPU", 0.0) / gpus if gpus else has.get("CPU", 1.0)
    count = max(1, min(int(room) if workers is None else workers, len(groups)))
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    texts = [{"jobs": json.dumps([job.row() for job in jobs])} for jobs in groups]
    blocks = min(len(texts), count * BLOCKS)
    made = ray.data.from_items(texts, override_num_blocks=blocks).map_batches(
        _Actor,
        fn_constructor_args=(*given, gpus),
        batch_size=1,
        num_gpus=gpus or None,
        compute=ray.data.ActorPoolStrategy(size=count),
    )
    try:
        for row in made.iter_rows():
            yield json.loads(row["row"])
    except ray.exceptions.RayError as error:
        raise BatchError(_cause(error)) from None


class _Actor:
    """A worker, with rows as Ray Data passes them on."""

    def __init__(self, worker: type, model: str, out: str, gpus: float):
        share = gpus if 0 < gpus < 1 else 1.0
        self.worker = worker(model, out, share=share)

    def __call__(self, batch: dict) -> Iterator[dict]:
        for text in batch["jobs"]:
            for row in self.worker([job_of(one) for one in json.loads(text)]):
                yield {"row": [json.dumps(row, default=str)]}


def _cause(error: BaseException) -> str:
    """What a worker said of results that it could not write, or the last line of what Ray says."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    said = [line.partition("BatchError: ")[2] for line in lines]
    return next(filter(None, said), f"The cluster stopped: {lines[-1]}")
