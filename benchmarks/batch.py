"""What a batch costs beside a hand-written loop, and how it grows: `python -m benchmarks.batch`.

The figures go to data/benchmark/batch.json, and their tables into docs/scale.md.

Three parts, `loop`, `shape` and `workers`; all when none is named. *loop*: the same Toyland jobs, each with a source of its own, by a
loop of `p2p.edit` that saves its pictures, and by `run_jobs`, in turns, now the one first and now the other; the median of the pairs
counts. Once more with sources that four jobs share, which the loop makes four times. *shape*: seconds and memory of one call by its
number of targets. *workers*: a model that sleeps in place of computing, on a local Ray cluster; what is counted is jobs per second while
all workers are at work. It shows what the queue and the disk allow, not what processors do.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

import p2p_helpers as p2p
from p2p_helpers.batch import Job, Worker, run_jobs
from p2p_helpers.memory import measured
from p2p_helpers.provenance import machine
from p2p_helpers.toyland.evaluate import quote
from tests.sleeping import Sleeping

ROOT = Path(__file__).parent.parent
MEASURED = ROOT / "data" / "benchmark" / "batch.json"
STEPS = 10
BACKGROUNDS = ("on the beach", "in a meadow", "in a forest", "in a desert")
NAMES = ("cat", "dog", "fox", "car", "house", "tree")


class Loaded(Worker):
    """A worker whose pipeline was loaded before, since a loop's is too."""

    pipe_of_all, facts_of_all = None, None

    def load(self, model, device):
        return Loaded.pipe_of_all

    def facts(self):
        Loaded.facts_of_all = Loaded.facts_of_all or super().facts()
        return Loaded.facts_of_all


class Half(Sleeping):
    """Half a second for each call, as a fast GPU might take."""

    seconds = 0.5

    def edit(self, *given, **more):
        result = super().edit(*given, **more)
        with open(self.store.out / f"times-{os.getpid()}", "a") as file:
            file.write(f"{time.time()}\n")
        return result


def jobs_of(count: int, share: int, seed: int) -> list[Job]:
    """Word swaps, of which so many share a source."""
    found = []
    for number in range(count):
        source = f"a {NAMES[number // share % 6]} {BACKGROUNDS[number // share % 4]}"
        target = source.replace(NAMES[number // share % 6], NAMES[(number + 1) % 6])
        found.append(Job(source=source, target=target, seed=seed + number // share, steps=STEPS))
    return found


def by_loop(pipe, jobs, out: Path):
    """What one would write by hand."""
    for number, job in enumerate(jobs):
        result = p2p.edit(
            pipe,
            job.source,
            list(job.target),
            list(job.edit),
            seed=job.seed,
            steps=job.steps,
            progress=False,
        )
        result.source.save(out / f"{number}-source.png")
        result.image.save(out / f"{number}.png")


def loop(pairs: int, count: int, shares=(1, 4)) -> list[dict]:
    """Jobs per second of a batch, as a share of a loop's."""
    found = []
    pipe = Loaded.pipe_of_all = p2p.load_pipeline("toyland", device="cpu")
    for share in shares:
        ratios, processor = [], []
        for pair in range(pairs + 1):
            jobs, seconds = jobs_of(count, share, seed=100 * pair), {}
            ways = {
                "loop": lambda out, jobs=jobs: by_loop(pipe, jobs, out),
                "batch": lambda out, jobs=jobs: run_jobs(jobs, out, device="cpu", worker=Loaded),
            }
            for name in list(ways)[:: 1 if pair % 2 else -1]:
                with tempfile.TemporaryDirectory() as out:
                    start = np.array([time.perf_counter(), time.process_time()])
                    ways[name](Path(out))
                    seconds[name] = [time.perf_counter(), time.process_time()] - start
            if pair:  # the first one warms up
                both = seconds["loop"] / seconds["batch"]
                ratios.append(both[0])
                processor.append(both[1])
        figures = {"ratio": statistics.median(ratios), "processor": statistics.median(processor)}
        figures |= {"low": min(ratios), "high": max(ratios), "pairs": pairs, "jobs": count}
        found.append({"share": share, **figures})
        print(found[-1], flush=True)
    return found


def loop_table(found: list[dict]) -> str:
    """Markdown: a batch beside a loop."""
    rows = [
        f"| Toyland, {STEPS} steps, one worker | throughput of the batch over the loop's | by processor time |",
        "|---|---|---|",
    ]
    for one in found:
        shared = (
            f"{one['share']} jobs share a source"
            if one["share"] > 1
            else "every job has a source of its own"
        )
        ratio = f"{one['ratio']:.2f} ({one['low']:.2f} to {one['high']:.2f})"
        rows.append(f"| {shared} | {ratio} | {one['processor']:.2f} |")
    return "\n".join(rows)


def shape():
    """Seconds and memory of a call by its number of targets, and the lines through them."""
    pipe, rows = p2p.load_pipeline("toyland", device="cpu"), []
    source, names = "a cat on the beach", NAMES[1:] * 2
    for turn in range(3):
        for count in (1, 2, 4, 8):
            targets = [source.replace("cat", name) for name in names[:count]]
            start = time.process_time()
            result, peak = measured(
                "cpu", lambda t=targets: p2p.edit(pipe, source, t, steps=STEPS, progress=False)
            )
            seconds = time.process_time() - start
            start = time.process_time()
            p2p.edit(pipe, result, targets, progress=False)
            if turn:
                rows.append((count, seconds, time.process_time() - start, peak / 2**20))
    rows = np.array(rows)
    for column, what in ((1, "CPU s"), (2, "CPU s, source known"), (3, "MiB")):
        slope, start = np.polyfit(rows[:, 0], rows[:, column], 1)
        mean = [f"{n}: {np.median(rows[rows[:, 0] == n, column]):.2f}" for n in (1, 2, 4, 8)]
        print(f"{what} of {STEPS} steps: {start:.2f} + {slope:.2f} per target ({', '.join(mean)})")


def workers(counts) -> list[dict]:
    """Jobs per second by the number of workers, with a model that sleeps."""
    found = []
    patient = {"RAY_raylet_start_wait_time_s": "180"}
    os.environ |= {"PYTHONPATH": os.getcwd(), "RAY_USAGE_STATS_ENABLED": "0", **patient}
    from ray.cluster_utils import Cluster

    cluster = Cluster(True, head_node_args={"num_cpus": max(counts), "include_dashboard": False})
    for count in counts:
        out = Path(tempfile.mkdtemp())
        jobs = [Job(source=f"s {n}", target=f"t {n}") for n in range(60 * count)]
        run_jobs(jobs, out, ray=cluster.address, workers=count, worker=Half)
        times = [np.loadtxt(file, ndmin=1) for file in out.glob("times-*")]
        begin, end = max(one[0] for one in times), min(one[-1] for one in times)
        done = sum(int(((one > begin) & (one <= end)).sum()) for one in times)
        rate = done / (end - begin)
        found.append({"workers": len(times), "jobs": done, "seconds": end - begin, "rate": rate})
        print(found[-1], flush=True)
        shutil.rmtree(out)
    cluster.shutdown()
    return found


def workers_table(found: list[dict]) -> str:
    """Markdown: how a batch grows."""
    rows = ["| workers | jobs a second | of the ideal, two for each worker |", "|---|---|---|"]
    for one in found:
        share = one["rate"] * Half.seconds / one["workers"]
        rows.append(f"| {one['workers']} | {one['rate']:.2f} | {share:.2f} |")
    return "\n".join(rows)


TABLES = {"loop": loop_table, "workers": workers_table}


def stored(parts: set[str]) -> dict:
    """The stored figures that stay beside these parts: they are of one machine, all of them."""
    before = json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.exists() else {}
    if not before or before["machine"] == machine():
        return before
    if parts & TABLES.keys() and not TABLES.keys() <= parts:
        raise SystemExit(
            f"The figures are another machine's. Measure {' and '.join(TABLES)} in one command."
        )
    return {}


def publish(found: dict, before: dict):
    """Store the figures of some parts, and quote them in docs/scale.md."""
    figures = before | found | {"machine": machine()}
    MEASURED.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    for name in TABLES.keys() & found.keys():
        quote(ROOT / "docs" / "scale.md", name, TABLES[name](figures[name]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", default=["loop", "shape", "workers"])
    parser.add_argument("--share", type=int, nargs="*", default=[1, 4], help="jobs to a source")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4, 8])
    chosen = parser.parse_args()
    before = stored(set(chosen.parts))
    found = {}
    if "loop" in chosen.parts:
        found["loop"] = loop(chosen.pairs, chosen.jobs, chosen.share)
    if "shape" in chosen.parts:
        shape()
    if "workers" in chosen.parts:
        found["workers"] = workers(chosen.workers)
    if found:
        publish(found, before)
