"""The same batch on a Ray cluster: every worker is an actor of Ray Data, and a source's jobs are one row."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Sequence

from ..errors import BatchError, InputError, ModelError, P2PError
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
    nodes = sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes())
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    texts = [{"jobs": json.dumps([job.row() for job in jobs])} for jobs in groups]
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
            for row in self.worker([job_of(one) for one in json.loads(text)]):
                yield {"row": [json.dumps(row, default=str)]}


def _said(error: BaseException) -> P2PError:
    """What a worker said, all of its lines; or the last line of what Ray says."""
    text = str(error).strip() or type(error).__name__
    for kind in (BatchError, InputError, ModelError):
        _, found, message = text.rpartition(f"{kind.__name__}: ")
        if found:
            return kind(message)
    return BatchError(f"The cluster stopped: {text.splitlines()[-1]}")
