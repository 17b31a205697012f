"""A worker whose model sleeps: what is tested is the batch, not the pictures. It notes every call and can be told to fail."""

import errno
import os
import time
from pathlib import Path
from types import SimpleNamespace

from PIL import Image

from p2p_helpers.batch import Worker, store
from p2p_helpers.result import EditResult


class Sleeping(Worker):
    """Sleeps for each call, appends the call's targets to `calls` beside the results, and does what a target's prompt says."""

    seconds = 0.0

    def load(self, model, device):
        return SimpleNamespace()

    def facts(self):
        return {"model": "sleeping"}

    def edit(self, source, targets, edits, **arguments):
        for target in targets:
            self._obey(target)
        time.sleep(self.seconds)
        known = isinstance(source, EditResult)
        line = f"{os.getpid()}\t{int(not known)}\t" + "\t".join(targets) + "\n"
        calls = os.open(self.store.out / "calls", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(calls, line.encode())
        os.close(calls)
        picture = Image.new("RGB", (8, 8))
        prompt = source.source_prompt if known else source
        given = (0, 1, 1.0, None)
        return EditResult(picture, [picture] * len(targets), prompt, targets, edits, *given)

    def _obey(self, target: str):
        if "poison" in target:
            raise RuntimeError("this job is poisoned")
        if "deadly" in target:
            os.kill(os.getpid(), 9)
        if "once" in target:
            mark = Path(self.store.out) / "died"
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), 9)


class Slow(Sleeping):
    seconds = 0.05


class FullDisk(Sleeping):
    """The disk is full from the third call on, as long as there is a file `full` beside the results."""

    def edit(self, *given, **more):
        if (self.store.out / "full").exists() and len(calls(self.store.out)) > 2:
            store._to_disk = _full
        return super().edit(*given, **more)


def _full(path):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def calls(out) -> list[list[str]]:
    """What was made: for each call the process, whether it made a source, and the targets."""
    file = Path(out) / "calls"
    return [line.split("\t") for line in file.read_text().splitlines()] if file.exists() else []


def targets(out) -> list[str]:
    """The targets of all calls."""
    return [target for call in calls(out) for target in call[2:]]
