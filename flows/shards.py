"""The task of a shard, in a module that workers on other machines can import by its name."""

import os
import sys

from flows.retries import retrying_task
from nerveseg.prediction import batch as batches
from nerveseg.prediction.batch import Batch
from nerveseg.storage import Entry

CPUS = os.cpu_count() or 1


@retrying_task
def predict_shard(batch: Batch, entries: tuple[Entry, ...]) -> None:
    """Predicts a shard with as many threads as the process has: those of the Dask worker that it is, else all."""
    batches.predict_shard(batch, entries, _worker_threads() or CPUS)


def _worker_threads() -> int | None:
    if "distributed" not in sys.modules:
        return None
    from distributed import get_worker

    try:
        return int(get_worker().state.nthreads)
    except ValueError:  # Dask's answer outside a worker
        return None
