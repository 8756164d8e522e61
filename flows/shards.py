"""The task for a shard, in its own module, so that workers on other machines can import it."""

import sys

from joblib import cpu_count

from flows.retries import retrying_task
from nerveseg.prediction import batch as batches
from nerveseg.prediction.batch import Batch
from nerveseg.storage import Entry

CPUS: int = cpu_count()  # that this container may use


@retrying_task
def predict_shard(batch: Batch, entries: tuple[Entry, ...]) -> None:
    """Predicts a shard with all threads of the process: those of the Dask worker or, outside one, of all CPUs."""
    batches.predict_shard(batch, entries, _worker_threads() or CPUS)


def _worker_threads() -> int | None:
    if "distributed" not in sys.modules:
        return None
    from distributed import get_worker

    try:
        return int(get_worker().state.nthreads)
    except ValueError:  # raised by Dask outside a worker
        return None
