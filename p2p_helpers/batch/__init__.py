"""Many edits: jobs as lines of JSON, run on this machine or on a Ray cluster, each done once."""

from .engine import Worker
from .jobs import Job, read_jobs
from .run import Summary, run_jobs
from .store import results

__all__ = ["Job", "Summary", "Worker", "read_jobs", "results", "run_jobs"]
