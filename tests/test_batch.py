"""Many edits: each is done once and stored completely, whatever happens in between."""

import errno
import gc
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

import p2p_helpers as p2p
from p2p_helpers import memory
from p2p_helpers.batch import Job, Worker, read_jobs, results, run_jobs, store
from p2p_helpers.batch.cluster import room_for, share_of
from p2p_helpers.batch.run import own_device
from p2p_helpers.metrics import psnr
from p2p_helpers.provenance import read_png
from p2p_helpers.toyland import photos

from .sleeping import Sleeping, Slow, calls, targets


def jobs_of(count: int, sources: int = 1, **more) -> list[Job]:
    return [
        Job(source=f"source {n % sources}", target=f"target {n}", edit="Refine()", **more)
        for n in range(count)
    ]


def sleeping(jobs, out, **more):
    return run_jobs(jobs, out, worker=Sleeping, **more)


# Jobs


def test_a_job_is_what_it_asks_for_however_it_is_written(tmp_path):
    picture = tmp_path / "cat.png"
    picture.write_bytes(b"a picture")
    moved = tmp_path / "moved.png"
    moved.write_bytes(b"a picture")
    written = Job(target=["a dog"], edit=[" Replace( ) "], source="a cat", picture=picture)
    assert written.name == Job(target="a dog", source="a cat", picture=moved).name
    assert Job(**written.row()) == written and json.loads(json.dumps(written.row()))
    moved.write_bytes(b"another picture")
    assert written.name != Job(target="a dog", source="a cat", picture=moved).name


def test_numpys_numbers_are_numbers():
    same = Job(source="a cat", target="a dog", seed=np.int64(3), steps=np.int32(20))
    assert same.name == Job(source="a cat", target="a dog", seed=3, steps=20).name
    assert json.loads(json.dumps(same.row()))["seed"] == 3


def test_jobs_share_a_source_and_not_a_name():
    one, two = jobs_of(2)
    assert one.group == two.group and one.name != two.name
    for of_the_source in (
        {"seed": 1},
        {"steps": 1},
        {"guidance_scale": 1.0},
        {"negative_prompt": "snow"},
    ):
        assert one.group != Job(source="source 0", target="target 0", **of_the_source).group
    assert one.name != Job(source="source 0", target="target 0", local_blend="cat").name


def test_the_examples_of_the_documentation_are_jobs(tmp_path):
    text = (Path(__file__).parent.parent / "docs" / "scale.md").read_text(encoding="utf-8")
    examples = [line for line in text.splitlines() if line.startswith('{"')]
    (tmp_path / "photos").mkdir()
    for name in ("photos/1.png", "cat.safetensors"):
        (tmp_path / name).touch()
    (tmp_path / "jobs.jsonl").write_text("\n".join(examples))
    found = list(read_jobs(tmp_path / "jobs.jsonl"))
    assert len(found) == 5 and all(isinstance(one, Job) for one in found)


BAD = {
    '{"source": "a cat"}': "has no target",
    "not json": "no JSON",
    "[1]": "A job is a JSON object",
    '{"source": "a cat", "target": "a dog", "colour": 1}': "has no colour. It may have: target",
    '{"target": "a dog"}': "give the source's prompt",
    '{"source": "", "target": "a dog"}': "empty",
    '{"source": "a cat", "target": "a dog", "edit": "Swap()"}': "'Swap' is none of",
    '{"source": "a cat", "target": "a dog", "edit": ["Replace()", "Refine()"]}': "2 edits for 1",
    '{"source": "a cat", "target": "a dog", "steps": 0}': "steps=0",
    '{"source": "a cat", "target": "a dog", "seed": -1}': "seed=-1",
    '{"source": "a cat", "target": " "}': "empty",
    '{"source": "a cat", "target": "a dog", "method": "ddim"}': "has none",
    '{"source": "a cat", "target": "a dog", "picture": "no.png"}': "no file",
    '{"source": "a cat", "target": "a dog", "local_blend": "LocalBlend(mask=[[1]])"}': "no mask",
    '{"source": "a cat", "target": "a dog", "local_blend": "LocalBlend(x=1)"}': "cannot be made",
    '{"source": "a cat", "target": "a dog", "local_blend": 3}': "local_blend=3",
    '{"inversion": "no.safetensors", "source": "a cat", "target": "a dog"}': "leave picture",
    '{"source": "a cat \\ud83d", "target": "a dog"}': "half",
    '{"source": "a cat", "target": "a dog", "picture": "~nobody-at-all/cat.png"}': "no such home",
    json.dumps(
        {"source": "a cat", "target": "a dog", "picture": "x" * 5000}
    ): "picture: ",  # too long
    json.dumps({"source": "a cat", "target": "a dog", "picture": "p\\1.png"}): "folders with /",
    '{"source": "a cat", "target": "a dog", "edit": "Remove(\'cat\', mask=[[1]])"}': "no mask",
    f'{{"source": "a cat", "target": "a dog", "guidance_scale": 1{"0" * 400}}}': "guidance_scale=1",
    json.dumps(
        {
            "source": "a cat",
            "target": "a dog",
            "local_blend": f"LocalBlend('a', threshold=1{'+1' * 900})",
        }
    ): "no plain value",
}


def test_a_line_that_is_no_job_is_a_row_that_says_why(tmp_path, untyped):
    file = tmp_path / "jobs.jsonl"
    good = {"source": "a cat", "target": "a dog", "local_blend": [["cat", 1], "dog"]}
    file.write_text("\n".join([*BAD, "", json.dumps(good)]), encoding="utf-8")
    summary = sleeping(read_jobs(file), tmp_path / "out")
    rows = [json.loads(line) for line in summary.table.read_text().splitlines()]
    assert len(rows) == len(BAD) + 1 and summary.failed == len(BAD)
    for row, said in zip(rows, BAD.values(), strict=False):
        assert row["error"]["kind"].endswith("Error") and said in row["error"]["message"]
    assert rows[-1]["error"] is None and targets(tmp_path / "out") == ["a dog"]


def test_rows_of_parquet_are_jobs(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [job.row() for job in jobs_of(3)]
    rows[0]["steps"] = 7  # the others have none
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "jobs.parquet")
    found = list(read_jobs(tmp_path / "jobs.parquet"))
    assert [job.row() for job in found] == rows
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    with pytest.raises(p2p.InputError, match="no Parquet file"):
        list(read_jobs(tmp_path / "bad.parquet"))


def test_what_pandas_writes_is_read(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    seeds = pyarrow.array([3.0, float("nan"), None])  # a column with gaps
    columns = {"source": ["a cat"] * 3, "target": ["a dog"] * 3, "seed": seeds}
    columns["__index_level_0__"] = [7, 8, 9]
    file = tmp_path / "jobs.parquet"
    parquet.write_table(pyarrow.table(columns), file)
    assert [job.seed for job in read_jobs(file)] == [3, None, None]
    content = bytearray(file.read_bytes())
    content[4:60] = b"\xff" * 56
    file.write_bytes(content)
    with pytest.raises(p2p.InputError, match="is no Parquet file, or a damaged one"):
        list(read_jobs(file))


def test_files_of_jobs_that_other_programs_write(tmp_path):
    file = tmp_path / "jobs.jsonl"
    good = '{"source": "a cat", "target": "a café"}'
    file.write_bytes(b"\xef\xbb\xbf" + f"{good}\r\n".encode() + good.encode("latin-1"))
    first, second = read_jobs(file)
    assert first.target == ("a café",) and "is no UTF-8" in str(second.error)
    file.write_text(f"[\n{good}\n]")
    with pytest.raises(p2p.InputError, match=r"jq -c '\.\[\]' jobs.jsonl"):
        list(read_jobs(file))
    assert Job(source="a", target="b", guidance_scale=7).name == (
        Job(source="a", target="b", guidance_scale=7.0).name
    )


def test_a_picture_that_goes_away_is_a_row(toyland, tmp_path, monkeypatch):
    picture = tmp_path / "cat.png"
    shutil.copy(photos()["cat-snow"].path, picture)
    jobs = [Job(source="a cat in the snow", target="a dog in the snow", picture=picture, steps=1)]
    picture.unlink()
    monkeypatch.setattr(Worker, "load", lambda self, model, device: toyland)
    assert run_jobs(jobs, tmp_path / "out").failed == 1


def test_no_file_of_jobs_is_said():
    with pytest.raises(p2p.InputError, match="There is no file"):
        list(read_jobs("no.jsonl"))
    with pytest.raises(p2p.InputError, match="png holds no jobs"):
        list(read_jobs(photos()["cat-snow"].path))


# Running them


def test_a_source_is_made_once_and_every_job_once(tmp_path):
    jobs = jobs_of(12, sources=3)
    summary = sleeping([*jobs, *jobs[:5]], tmp_path)  # some are asked for twice
    assert (summary.before, summary.now, summary.failed) == (0, 12, 0)
    assert sorted(targets(tmp_path)) == sorted(job.target[0] for job in jobs)
    assert sum(int(made) for _, made, *_ in calls(tmp_path)) == 3
    assert len(summary.table.read_text().splitlines()) == 17
    again = sleeping(jobs, tmp_path)
    assert (again.before, again.now) == (12, 0) and len(targets(tmp_path)) == 12


def test_a_poisoned_job_is_a_row_and_the_rest_goes_on(tmp_path):
    jobs = [*jobs_of(3), Job(source="source 0", target=["poison", "fine"]), *jobs_of(5)[3:]]
    summary = sleeping(jobs, tmp_path)
    assert (summary.now, summary.failed) == (6, 1)
    (bad,) = [row for row in results(tmp_path) if row["error"]]
    assert bad["job"]["target"] == ["poison", "fine"] and bad["pictures"] == []
    assert bad["error"] == {"kind": "RuntimeError", "message": "this job is poisoned"}
    assert sleeping(jobs, tmp_path).now == 0
    assert sleeping(jobs, tmp_path, retry=True).now == 1


def test_targets_of_one_call_share_its_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr(Sleeping, "_measured", lambda self, run: setattr(self, "most", 16) or run())
    job, before = Job(source="a cat", target=list("abcdefghijklmnopq")), time.perf_counter()
    run_jobs([job], tmp_path, worker=Slow)
    passed = time.perf_counter() - before
    (row,) = results(tmp_path)
    assert [one["targets_in_call"] for one in row["metrics"]] == [1] + [16] * 16
    assert 2 * Slow.seconds < sum(one["seconds"] for one in row["metrics"]) + 0.01 < passed + 0.02


def test_one_bad_job_does_not_spoil_the_call_it_shares(tmp_path, monkeypatch):
    monkeypatch.setattr(Sleeping, "_measured", lambda self, run: setattr(self, "most", 8) or run())
    jobs = [*jobs_of(4), Job(source="source 0", target="poison"), *jobs_of(7)[4:]]
    summary = sleeping(jobs, tmp_path)
    assert summary.failed == 1
    assert sorted(targets(tmp_path)) == sorted(f"target {n}" for n in range(7))


def test_calls_are_halved_where_memory_runs_out(tmp_path, monkeypatch):
    monkeypatch.setattr(Sleeping, "_measured", lambda self, run: setattr(self, "most", 16) or run())
    inner, large = Sleeping.edit, []

    def small(self, source, targets, edits, **more):
        assert not any(one() is not None for one in large)  # no failed call still fills the memory
        if len(targets) > 3:
            held = torch.zeros(1)
            large.append(weakref.ref(held))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inner(self, source, targets, edits, **more)

    monkeypatch.setattr(Sleeping, "edit", small)
    summary = sleeping([*jobs_of(16), Job(source="source 0", target=list("abcde"))], tmp_path)
    assert summary.failed == 0 and sorted(targets(tmp_path)) == sorted(
        [*(f"target {n}" for n in range(16)), *"abcde"]
    )
    assert max(len(call[2:]) for call in calls(tmp_path)) == 2


def test_pictures_of_finished_jobs_are_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(Sleeping, "_measured", lambda self, run: setattr(self, "most", 2) or run())
    worker = Sleeping("sleeping", tmp_path)
    kept, inner = [], worker._finished

    def finished(targets):
        kept.append(weakref.ref(targets[0]))
        return inner(targets)

    monkeypatch.setattr(worker, "_finished", finished)
    for _ in worker(jobs_of(12)):
        gc.collect()
        assert sum(one() is not None for one in kept) <= 3  # those of the call


def test_cublas_without_memory_is_no_dead_gpu():
    said = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
    assert memory.is_of_memory(RuntimeError(said))
    assert not memory.is_of_memory(RuntimeError("CUDA error: an illegal memory access"))


def test_how_many_targets_fit_follows_from_free_memory():
    gib = 2**30
    assert memory.fitting(10 * gib, gib, 2, "cuda", 1.0) == 15  # 8 GiB, half a GiB a prompt
    assert memory.fitting(10 * gib, gib, 2, "cuda", 0.5) == 7
    assert memory.fitting(gib // 2, gib, 2, "cuda", 1.0) == 1
    assert memory.fitting(10 * gib, gib, 2, "cpu", 1.0) == 9  # half of it
    assert memory.fitting(10 * gib, 0, 2, "cpu", 1.0) == memory.MOST
    assert memory.fitting(None, gib, 2, "mps", 1.0) == memory.UNMEASURED


def test_the_memory_of_a_call_is_measured():
    result, peak = memory.measured("cpu", lambda: len(bytearray(64 << 20)))
    if peak is None:
        pytest.skip("this system does not say")
    assert result == 64 << 20 and 60 << 20 < peak < 128 << 20
    assert memory.free_bytes("cpu") > 0


@pytest.fixture
def full_after(monkeypatch):
    """The disk is full when so many files have been written."""

    def after(count):
        left, to_disk = [count], store._to_disk

        def full(path):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            to_disk(path)

        monkeypatch.setattr(store, "_to_disk", full)

    return after


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 100 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can make a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def whole(out, parts: bool = True) -> list[dict]:
    """The rows of a folder in which nothing is half written; a killed run may leave a part."""
    assert not parts or not list((out / "parts").iterdir())
    rows = list(results(out))
    for row in rows:
        for name in row["pictures"]:
            p2p.load_image(out / row["folder"] / name)
    return rows


def test_a_full_disk_ends_the_run_and_it_goes_on_with_room(tmp_path, full_after, monkeypatch):
    full_after(9)
    with pytest.raises(p2p.BatchError, match=r"No space left.*the same command"):
        sleeping(jobs_of(6), tmp_path)
    monkeypatch.undo()
    finished = whole(tmp_path)
    assert 0 < len(finished) < 6
    assert sleeping(jobs_of(6), tmp_path).now == 6 - len(finished)
    assert len(whole(tmp_path)) == 6


def test_a_disk_that_is_full_ends_the_run_and_nothing_is_half_there(small_disk):
    with pytest.raises(p2p.BatchError, match="No space left"):
        sleeping(jobs_of(200), small_disk)
    finished = whole(small_disk)
    assert 0 < len(finished) < 200
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    assert sleeping(jobs_of(200), small_disk).now == 200 - len(finished)
    assert len(whole(small_disk)) == 200


def test_a_retry_that_is_killed_midway_leaves_nothing_half_there(tmp_path, monkeypatch):
    fails = Job(source="source 0", target="poison")
    assert sleeping([fails], tmp_path).failed == 1

    def killed(*given, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(store.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        sleeping([fails], tmp_path, retry=True)
    monkeypatch.undo()
    assert not store.Store(tmp_path).has(fails.name)
    assert sleeping([fails], tmp_path).now == 1
    whole(tmp_path, parts=False)


def test_workers_of_one_machine_share_its_memory():
    assert share_of(0, count=2, nodes=1) == 0.5 and share_of(0, count=3, nodes=2) == 0.5
    assert share_of(0, count=2, nodes=2) == 1.0
    assert share_of(0.5, count=2, nodes=1) == 0.5 and share_of(1, count=8, nodes=2) == 1.0


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"ray": "auto", "device": "cpu"}, "Ray gives every worker its GPU"),
        ({"workers": 2}, "are for a cluster"),
        ({"gpus": 0.5}, "are for a cluster"),
    ],
)
def test_what_a_run_would_ignore_is_refused(tmp_path, given, says):
    with pytest.raises(p2p.InputError, match=says):
        run_jobs(jobs_of(1), tmp_path, **given)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"jobs": "jobs.jsonl"}, r"jobs='jobs.jsonl': give a list.*read_jobs\(file\)"),
        ({"jobs": Path("jobs.jsonl")}, "jobs=PosixPath.*read_jobs"),
        ({"jobs": jobs_of(1)[0]}, "jobs=a Job: give a list of jobs"),
        ({"jobs": None}, "jobs=None"),
        ({"jobs": [{"source": "a cat", "target": "a dog"}]}, r"'a dog'} is no job.*Job\(source"),
        ({"jobs": ["a cat"]}, "'a cat' is no job"),
        ({"model": None}, "model=None: give its name or folder"),
        ({"model": torch.nn.Identity()}, "model=an Identity.*every worker loads it"),
        ({"ray": True}, "ray=True: give the address"),
    ],
)
def test_what_is_no_batch_is_refused(tmp_path, given, says):
    with pytest.raises(p2p.InputError, match=says):
        run_jobs(**{"jobs": jobs_of(1), "out": tmp_path, "worker": Sleeping, **given})


def test_another_process_that_was_faster_is_not_overwritten(tmp_path):
    place = store.Store(tmp_path)
    first = place.write({"name": "abc", "error": None, "by": 1}, {})
    assert place.write({"name": "abc", "error": None, "by": 2}, {}) == first
    assert place.row("abc")["by"] == 1 and not list((tmp_path / "parts").iterdir())


def test_what_killed_runs_left_is_removed_after_an_hour(tmp_path):
    names = ("0123456789abcdef", "fedcba9876543210", "mine")
    old, new, mine = (tmp_path / "parts" / name for name in names)
    for part in (old, new, mine):
        part.mkdir(parents=True)
        (part / "source.png").touch()
    for part in (old, mine):
        os.utime(part, (0, time.time() - 4000))
    store.Store(tmp_path)
    assert not old.exists() and new.exists() and mine.exists()  # a folder of the user's stays
    half, young = (tmp_path / "inversions" / f".{name}.part" for name in ("old", "new"))
    checkpoint = tmp_path / "inversions" / "0123.part"  # goes on, however old it is
    for file in (half, young, checkpoint):
        file.touch()
    for file in (half, checkpoint):
        os.utime(file, (0, time.time() - 4000))
    store.Store(tmp_path)
    assert not half.exists() and young.exists() and checkpoint.exists()


def test_an_inversion_that_gets_further_is_not_given_up(tmp_path):
    kept = store.Store(tmp_path)
    assert [kept.begin("0123") for _ in range(3)] == [0, 1, 2]
    checkpoint = kept.inversion("0123").with_suffix(".part")
    checkpoint.touch()
    os.utime(checkpoint, (0, time.time() + 10))  # written after the last worker began
    assert kept.begin("0123") == 1
    os.utime(checkpoint, (0, time.time() - 10))
    assert [kept.begin("0123") for _ in range(2)] == [2, 3]


def test_results_can_be_read_while_a_job_is_tried_again(tmp_path):
    sleeping(jobs_of(3), tmp_path)
    rows = results(tmp_path)
    next(rows)
    for job in jobs_of(3):
        store.Store(tmp_path).forget(job.name)
    assert list(rows) == []


def test_half_a_character_is_kept_and_a_row_that_is_gone_is_named(tmp_path):
    place = store.Store(tmp_path)
    place.write({"name": "abc", "error": None, "said": "\ud83d"}, {})
    assert place.row("abc")["said"] == "\ud83d"
    with pytest.raises(store.Gone, match="xyz"):
        place.write_table(["abc", "xyz"])


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_row_that_is_damaged_is_named(tmp_path, text):
    sleeping(jobs_of(2), tmp_path)
    row = next(tmp_path.glob("??/*/row.json"))
    row.write_text(text)
    for use in (
        lambda: sleeping(jobs_of(2), tmp_path),
        lambda: sleeping(jobs_of(2), tmp_path, retry=True),
        lambda: list(results(tmp_path)),
    ):
        with pytest.raises(p2p.BatchError, match=f"{row} is damaged. Remove its folder"):
            use()
    shutil.rmtree(row.parent)
    assert sleeping(jobs_of(2), tmp_path).now == 1


def test_results_of_no_folder_are_said(tmp_path):
    (tmp_path / "file").touch()
    for place in ("nowhere", "file"):
        with pytest.raises(p2p.InputError, match=f"There is no folder .*{place}.*run_jobs"):
            list(results(tmp_path / place))


def test_a_job_that_a_gpu_dies_of_is_given_up(tmp_path, monkeypatch):
    edit = Sleeping.edit

    def dies(self, source, targets, edits, **more):
        if "target 1" in targets:
            raise RuntimeError("CUDA error: device-side assert triggered")
        return edit(self, source, targets, edits, **more)

    monkeypatch.setattr(Sleeping, "edit", dies)
    for _ in range(3):
        with pytest.raises(p2p.BatchError, match="GPU does not answer"):
            sleeping(jobs_of(3), tmp_path)
    assert sleeping(jobs_of(3), tmp_path).failed == 1


def test_a_gpu_that_does_not_answer_ends_the_run(tmp_path, monkeypatch):
    def sick(self, *given, **more):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with monkeypatch.context() as patch, pytest.raises(p2p.BatchError, match="GPU does not answer"):
        patch.setattr(Sleeping, "edit", sick)
        sleeping(jobs_of(3), tmp_path)
    assert sleeping(jobs_of(3), tmp_path).failed == 0


@pytest.mark.parametrize(
    ("gpus", "has", "cores", "room"),
    [(0, 0, 8, 8), (1, 4, 8, 4), (0.3, 4, 8, 12), (0.5, 1, 2, 2), (2, 8, 8, 4), (0, 4, 0.5, 1)],
)
def test_how_many_workers_a_cluster_has_room_for(gpus, has, cores, room):
    assert room_for(gpus, has, cores) == room


@pytest.mark.parametrize(
    ("gpus", "has"), [(-1, 0), (float("nan"), 0), (1, 0), ("half", 0), (1.5, 4)]
)
def test_gpus_that_a_cluster_does_not_have(gpus, has):
    with pytest.raises(p2p.InputError, match="gpus="):
        room_for(gpus, has, 8)


def begun(jobs, out, worker=Sleeping):
    """A batch in a process of its own."""
    fork = multiprocessing.get_context("fork")
    process = fork.Process(target=run_jobs, args=(jobs, out), kwargs={"worker": worker})
    process.start()
    return process


def ended(process) -> int:
    """How a process ended."""
    process.join()
    return process.exitcode


def test_a_job_that_kills_its_worker_is_given_up_after_three_deaths(tmp_path):
    jobs = [*jobs_of(2), Job(source="source 0", target="deadly"), *jobs_of(4)[2:]]
    assert [ended(begun(jobs, tmp_path)) for _ in range(4)] == [-9, -9, -9, 0]
    (bad,) = [row for row in results(tmp_path) if row["error"]]
    assert bad["job"]["target"] == ["deadly"] and "3 workers died" in bad["error"]["message"]
    assert sorted(targets(tmp_path)) == [f"target {n}" for n in range(4)]
    assert sleeping(jobs, tmp_path).now == 0


def test_only_the_job_that_kills_is_given_up(tmp_path):
    deadly = [Job(source="source 0", target=f"deadly {n}") for n in range(2)]
    jobs = [*deadly, *jobs_of(2)]
    assert [ended(begun(jobs, tmp_path)) for _ in range(7)] == [-9] * 6 + [0]
    assert {row["job"]["target"][0] for row in results(tmp_path) if row["error"]} == {
        "deadly 0",
        "deadly 1",
    }
    assert all("3 workers" in row["error"]["message"] for row in results(tmp_path) if row["error"])
    assert sorted(targets(tmp_path)) == ["target 0", "target 1"]


def test_a_queue_that_takes_its_machine_back_is_no_death(tmp_path):
    file = tmp_path / "jobs.jsonl"
    file.write_text(json.dumps({"source": "a cat", "target": "a dog", "steps": 900}))
    command = [
        sys.executable,
        "-m",
        "p2p_helpers",
        "batch",
        str(file),
        "--out",
        str(tmp_path / "out"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    begun_at = tmp_path / "out" / "begun"
    while not (begun_at.is_dir() and list(begun_at.iterdir())):
        time.sleep(0.05)
        assert process.poll() is None
    process.terminate()
    assert process.wait() == 128 + signal.SIGTERM and not list(begun_at.iterdir())


def test_to_stop_a_batch_is_no_death(tmp_path, monkeypatch):
    def stopped(self, *given, **more):
        raise KeyboardInterrupt

    for _ in range(4):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Sleeping, "edit", stopped)
            sleeping(jobs_of(2), tmp_path)
    assert sleeping(jobs_of(2), tmp_path).failed == 0


def test_a_batch_that_is_killed_goes_on_where_it_was(tmp_path):
    jobs = jobs_of(60, sources=6)
    deaths = 0
    while deaths < 2:
        before = len(list(results(tmp_path)))
        process = begun(jobs, tmp_path, Slow)
        while len(list(results(tmp_path))) < before + 7:
            assert process.is_alive()
            time.sleep(0.01)
        process.kill()
        deaths += ended(process) == -9
    finished = len(whole(tmp_path, parts=False))
    assert sleeping(jobs, tmp_path).now == 60 - finished
    assert {row["name"] for row in whole(tmp_path, parts=False)} == {job.name for job in jobs}
    # What was in the making when it was killed is made again, and nothing else.
    assert len(targets(tmp_path)) - 60 <= deaths


def test_a_launchers_processes_share_the_sources(tmp_path, monkeypatch):
    jobs = jobs_of(8, sources=4)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    first = sleeping(jobs, tmp_path)
    assert first.now == 4 and first.table is None and "still work" in str(first)
    monkeypatch.setenv("RANK", "1")
    last = sleeping(jobs, tmp_path)
    assert last.now == 4 and last.table is not None
    assert len(set(targets(tmp_path))) == len(targets(tmp_path)) == 8


def test_a_launchers_processes_share_a_machines_memory_and_have_a_gpu_each(tmp_path, monkeypatch):
    shares = []

    class Sharing(Sleeping):
        def facts(self):
            shares.append(self.share)
            return super().facts()

    assert own_device("cuda") == "cuda"
    for name, value in {"RANK": 5, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 4, "WORLD_SIZE": 8}.items():
        monkeypatch.setenv(name, str(value))
    assert own_device("cuda") == "cuda:1"  # of the second machine
    run_jobs(jobs_of(8, sources=8), tmp_path, worker=Sharing, device="cpu")
    assert shares == [0.25]


def test_processes_that_try_again_leave_each_others_results(tmp_path, monkeypatch):
    poison = [Job(source=f"source {n}", target="poison") for n in range(2)]
    assert sleeping(poison, tmp_path).failed == 2
    monkeypatch.setenv("WORLD_SIZE", "2")
    found = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        again = sleeping(poison, tmp_path, retry=True)
        found.append((again.now, again.failed))
    assert (
        found == [(1, None)] * 2
    )  # neither can know of old rows whether the other has tried them yet
    monkeypatch.delenv("WORLD_SIZE")
    assert sleeping(poison, tmp_path).failed == 2


# With a model


def test_results_are_what_edit_gives_with_where_they_come_from(toyland, tmp_path, monkeypatch):
    monkeypatch.setattr(Worker, "load", lambda self, model, device: toyland)
    jobs = [
        Job(source="a cat on the beach", target="a dog on the beach", steps=2, seed=3),
        Job(
            source="a cat on the beach",
            target=["a red cat on the beach", "a cat on the beach at night"],
            edit="Refine(cross_steps=0.5)",
            local_blend="cat",
            steps=2,
            seed=3,
        ),
        Job(source="a cat on the beach", target="a dog", steps=2, seed=3),  # cannot be lined up
        Job(
            source="a cat on the beach",
            target=["a dog on the beach"] * 2,
            edit=["Replace()", "Replace() | Move('dog', dx=0.2)"],  # takes two runs
            steps=2,
            seed=3,
        ),
    ]
    summary = run_jobs(jobs, tmp_path)
    assert (summary.now, summary.failed) == (4, 1)
    swap, refined, bad, moved = [
        json.loads(line) for line in summary.table.read_text().splitlines()
    ]
    assert bad["error"]["kind"] == "PromptMismatch"
    said = read_png(tmp_path / swap["folder"] / "target-1.png")
    assert said["target"] == "a dog on the beach" and said["seed"] == 3 and said["steps"] == 2
    assert p2p.read_edit(said["edit"]) == p2p.Replace() and said["model"].endswith("pipeline")
    assert swap["provenance"]["weights"]["float16"] and swap["provenance"]["package"]
    assert refined["pictures"] == ["source.png", "target-1.png", "target-2.png"]
    source, target = (
        np.asarray(p2p.load_image(tmp_path / refined["folder"] / name))
        for name in ("source.png", "target-2.png")
    )
    said = refined["metrics"][1]
    assert said["psnr"] == round(psnr(source, target), 3) and said["seconds"] > 0
    assert said["background_psnr"] > said["psnr"] + 5  # the blend leaves what is no cat
    assert moved["error"] is None and len(moved["pictures"]) == 3
    alone = p2p.edit(
        toyland,
        "a cat on the beach",
        ["a red cat on the beach", "a cat on the beach at night"],
        p2p.Refine(cross_steps=0.5),
        local_blend="cat",
        steps=2,
        seed=3,
        progress=False,
    )
    for number, image in enumerate(alone.images, start=1):
        stored = p2p.load_image(tmp_path / refined["folder"] / f"target-{number}.png")
        assert (
            np.abs(np.asarray(stored, int) - np.asarray(image, int)).max() <= 2
        )  # rounding: the source was known


def test_a_picture_is_inverted_once_and_its_inversion_kept(toyland, tmp_path, monkeypatch):
    monkeypatch.setattr(Worker, "load", lambda self, model, device: toyland)
    photo = next(iter(photos().values()))
    shutil.copy(photo.path, tmp_path / "photo.png")
    common = {"source": photo.prompt, "picture": tmp_path / "photo.png", "steps": 2}
    jobs = [
        Job(target=photo.prompt, edit="Refine()", method=m, **common) for m in ("ddim", "direct")
    ]
    assert run_jobs(jobs, tmp_path / "out").failed == 0
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / "inversions").iterdir()}
    assert len(kept) == 2
    more = [Job(target=f"{photo.prompt} at night", edit="Refine()", method="direct", **common)]
    summary = run_jobs([*jobs, *more], tmp_path / "out")
    assert (summary.before, summary.now, summary.failed) == (2, 1, 0)
    assert kept == {file: file.stat().st_mtime_ns for file in kept}
    rows = list(results(tmp_path / "out"))
    before = np.asarray(p2p.load_image(photo.path))
    for row in rows:
        after = np.asarray(p2p.load_image(tmp_path / "out" / row["folder"] / "target-1.png"))
        said = row["metrics"][0]
        assert said["psnr"] == round(psnr(before, after), 3)  # of the photo, not of what came back
        made = np.asarray(p2p.load_image(tmp_path / "out" / row["folder"] / "source.png"))
        assert said["reconstruction_psnr"] == pytest.approx(psnr(before, made), abs=0.1)


def test_a_disk_that_is_full_before_an_inversion_is_kept_ends_the_run(
    toyland, tmp_path, monkeypatch
):
    def full(*given):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Worker, "load", lambda self, model, device: toyland)
    photo = next(iter(photos().values()))
    given = {"source": photo.prompt, "picture": photo.path, "steps": 1, "method": "ddim"}
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(p2p.BatchError, match="No space left"):
        run_jobs([Job(target=photo.prompt, edit="Refine()", **given)], tmp_path)
    assert not list(results(tmp_path))


def test_another_model_does_not_mix_with_the_results_of_one(tmp_path, monkeypatch):
    sleeping(jobs_of(1), tmp_path)
    monkeypatch.setattr(
        Sleeping, "facts", lambda self: {"weights": {"float16": "1", "bfloat16": "1"}}
    )
    model = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(
        json.dumps({**model, "weights": {"float16": "0", "bfloat16": "0"}})
    )
    with pytest.raises(p2p.InputError, match="results of another model, toyland"):
        sleeping(jobs_of(2), tmp_path)
    assert sleeping(jobs_of(1), tmp_path).before == 1  # by its name it is the same one
    with pytest.raises(p2p.InputError, match="results of another model, toyland"):
        sleeping(jobs_of(1), tmp_path, model="another")


def test_a_note_of_the_model_that_a_crash_left_empty_is_said(tmp_path):
    sleeping(jobs_of(1), tmp_path)
    for text in ("", "[]"):
        (tmp_path / "model.json").write_text(text)
        with pytest.raises(p2p.BatchError, match="model.json is damaged, so nobody knows"):
            sleeping(jobs_of(2), tmp_path)


def test_what_becomes_of_a_job_does_not_hang_on_its_company(toyland, tmp_path, monkeypatch):
    """A local blend may have words that only another job's prompts have."""
    monkeypatch.setattr(Worker, "load", lambda self, model, device: toyland)
    monkeypatch.setattr(Worker, "_measured", lambda self, run: setattr(self, "most", 8) or run())
    common = {"source": "a cat on the beach", "local_blend": ["cat", "dog"], "steps": 1}
    whole = Job(target="a dog on the beach", **common)
    lacking = Job(target="a fox on the beach", **common)
    run_jobs([whole, lacking], tmp_path / "together")
    run_jobs([lacking], tmp_path / "alone")
    for folder in ("together", "alone"):
        rows = {row["name"]: row["error"] for row in results(tmp_path / folder)}
        assert (
            rows[lacking.name]["kind"] == "PromptError" and "dog" in rows[lacking.name]["message"]
        )
    assert len(rows) == 1 and len(list(results(tmp_path / "together"))) == 2
    monkeypatch.setattr(Worker, "_measured", lambda self, run: setattr(self, "most", 1) or run())
    several = Job(
        target=[*whole.target, *lacking.target], **{**common, "local_blend": ["dog", "fox"]}
    )
    assert run_jobs([several], tmp_path / "one by one").failed == 0
    (row,) = results(tmp_path / "one by one")
    assert all("fox" in str(said["local_blend"]) for said in row["provenance"]["settings"])


def test_a_blend_that_cannot_be_is_a_row(toyland, tmp_path, monkeypatch, untyped):
    monkeypatch.setattr(Worker, "load", lambda self, model, device: toyland)
    file = tmp_path / "jobs.jsonl"
    job = {"source": "a cat", "target": "a dog", "steps": 1}
    file.write_text("\n".join(json.dumps({**job, "local_blend": b}) for b in ([[]], ["cat"])))
    assert run_jobs(read_jobs(file), tmp_path / "out").failed == 1


def test_a_picture_is_inverted_by_the_models_own_method(tmp_path, monkeypatch):
    pipe = p2p.load_pipeline("toyland-transformer", device="cpu")
    monkeypatch.setattr(Worker, "load", lambda self, model, device: pipe)
    photo = next(iter(photos().values()))
    job = Job(photo.prompt, edit="Refine()", source=photo.prompt, picture=photo.path, steps=1)
    assert run_jobs([job], tmp_path).failed == 0
