"""The same batches on a Ray cluster of two workers on this machine: killed workers, a full disk, a head that goes away."""

import json
import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest

import p2p_helpers as p2p
from p2p_helpers.batch import Job, results, run_jobs
from p2p_helpers.cli import main

from .sleeping import FullDisk, Sleeping, Slow, calls, targets

pytest.importorskip("ray", reason="needs the extra [cluster]")

ROOT = str(Path(__file__).parent.parent)
ALONE = {
    "PYTHONPATH": ROOT,  # the workers import the worker of the tests
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "180",  # a machine may be busy
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}


@pytest.fixture(autouse=True)
def no_network():
    """Ray finds this machine's own address by opening a socket that looks like one to elsewhere."""


@pytest.fixture(scope="module")
def start():
    """Starts a cluster with room for two workers; it is stopped at the end."""
    before = {name: os.environ.get(name) for name in ALONE}
    os.environ.update(ALONE)
    from ray.cluster_utils import Cluster

    started = []

    def again():
        for one in started:
            one.shutdown()
        one = Cluster(True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        started[:] = [one]
        return one.address

    yield again
    for one in started:
        one.shutdown()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


@pytest.fixture(scope="module")
def address(start):
    return start()


def jobs_of(count: int, sources: int) -> list[Job]:
    return [Job(source=f"source {n % sources}", target=f"target {n}") for n in range(count)]


def test_of_a_thousand_jobs_nothing_is_lost_and_nothing_is_done_twice(address, tmp_path):
    poison = Job(source="source 1", target="poison")
    deadly = Job(source="source 2", target="once fatal for its worker")
    jobs = [*jobs_of(998, 100), poison, deadly]
    killed = []

    def kill_one_in_the_middle():
        while len(calls(tmp_path)) < 300:
            time.sleep(0.02)
        killed.append(int(calls(tmp_path)[-1][0]))
        os.kill(killed[0], 9)

    killer = threading.Thread(target=kill_one_in_the_middle, daemon=True)
    killer.start()
    summary = run_jobs(jobs, tmp_path, ray=address, worker=Sleeping)
    killer.join(60)
    assert killed, "the batch ended before 300 calls"
    rows = [json.loads(line) for line in summary.table.read_text().splitlines()]
    assert [row["name"] for row in rows] == [job.name for job in jobs]
    assert [row["job"]["target"] for row in rows if row["error"]] == [["poison"]]
    made = targets(tmp_path)
    assert set(made) >= {f"target {n}" for n in range(998)}
    # What was in the making when a worker died is made again: one call of each of two.
    assert len(made) - len(set(made)) <= 2
    workers = {call[0] for call in calls(tmp_path)}
    assert len(workers) >= 3 and str(killed[0]) in workers  # two, and those that came after
    assert run_jobs(jobs, tmp_path, ray=address, worker=Sleeping).now == 0


def test_a_worker_that_cannot_write_ends_the_run_and_it_goes_on_with_room(address, tmp_path):
    jobs = jobs_of(20, 4)
    (tmp_path / "full").touch()
    with pytest.raises(p2p.BatchError, match="No space left on device"):
        run_jobs(jobs, tmp_path, ray=address, worker=FullDisk)
    finished = len(list(results(tmp_path)))
    (tmp_path / "full").unlink()
    summary = run_jobs(jobs, tmp_path, worker=FullDisk)  # here: the folder is the same
    assert finished < 20 and summary.failed == 0
    assert {row["name"] for row in results(tmp_path)} == {job.name for job in jobs}


def test_the_command_line_with_a_model(address, tmp_path, capsys):
    """The embedded model on a worker; a job whose picture is gone by then is a row."""
    good = {"source": "a cat on the beach", "target": "a dog on the beach", "steps": 1}
    bad = {"source": "a cat on the beach", "target": "a dog", "steps": 1}
    (tmp_path / "jobs.jsonl").write_text(f"{json.dumps(good)}\n{json.dumps(bad)}")
    out = tmp_path / "out"
    command = ["batch", tmp_path / "jobs.jsonl", "--out", out, "--ray", address, "--workers", 1]
    with pytest.raises(SystemExit) as end:
        main([str(one) for one in command])
    assert end.value.code == 3 and "2 jobs are done now" in capsys.readouterr().out
    first, second = sorted(results(out), key=lambda row: row["error"] is not None)
    assert (out / first["folder"] / "target-1.png").is_file() and first["provenance"]["weights"]
    assert second["error"]["kind"] == "PromptMismatch"
    picture = tmp_path / "cat.png"
    picture.touch()
    gone = Job(source="a cat", target="a dog", picture=picture)
    picture.unlink()
    (row,) = [run_jobs([gone], tmp_path / "gone", ray=address, worker=Sleeping)]
    assert row.failed == 1
    assert "no file" in next(results(tmp_path / "gone"))["error"]["message"]


def test_numbers_of_workers_that_cannot_be(address, tmp_path):
    for wrong, said in (
        ({"gpus": 1}, "has 0 GPUs"),
        ({"gpus": -1}, "gpus=-1"),
        ({"workers": 0}, "workers=0"),
    ):
        with pytest.raises(p2p.InputError, match=said):
            run_jobs(jobs_of(1, 1), tmp_path, ray=address, worker=Sleeping, **wrong)


def test_no_cluster_at_an_address_is_said(tmp_path):
    with pytest.raises(p2p.InputError, match="There is no Ray cluster at nowhere"):
        run_jobs(jobs_of(1, 1), tmp_path, ray="nowhere", worker=Sleeping)


def test_when_the_head_was_restarted_the_same_command_goes_on(address, start, tmp_path):
    jobs, given = jobs_of(60, 6), {"ray": address, "worker": Slow, "workers": 1}
    spawn = multiprocessing.get_context("spawn")
    driver = spawn.Process(target=run_jobs, args=(jobs, tmp_path), kwargs=given)
    driver.start()
    while len(list(results(tmp_path))) < 8:
        assert driver.is_alive()
        time.sleep(0.02)
    place = start()
    driver.kill()  # it waits for the old head
    driver.join()
    assert len(list(results(tmp_path))) < 60
    summary = run_jobs(jobs, tmp_path, ray=place, worker=Slow, workers=1)
    assert summary.failed == 0 and summary.before + summary.now == 60
    made = targets(tmp_path)
    assert len(made) - len(set(made)) <= 1  # what the worker was making
