"""What the train stage keeps outside DVC's outputs: the folder of a training, until DVC has recorded its outputs.

While a training goes on, its folder holds what a later process resumes from. When it is complete, the folder holds its
outputs alone, because DVC records them only after the process has ended and deletes unrecorded ones before it runs the
stage again.
"""

import hashlib
import shutil
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from nerveseg import paths
from nerveseg.dvc_lock import locked_outs, read_lock
from nerveseg.settings import settings

COMPLETE = "complete"  # the folder of the outputs, within that of the training
PANELS = "panels"  # within either


def lock_of(training: Path) -> FileLock:
    """The lock of a training's folder, held by the process that works in it."""
    return FileLock(training.with_name(f"{training.name}.lock"))


def is_recorded(training: Path) -> bool:
    """Whether dvc.lock records the outputs kept in a training's folder, and not those of another training like it."""
    if not paths.DVC_LOCK.exists():
        return False
    with (training / COMPLETE / paths.RUN_JSON.name).open("rb") as file:  # names the MLflow run, so no two are equal
        md5 = hashlib.file_digest(file, "md5").hexdigest()
    return locked_outs(read_lock(Path())).get(paths.RUN_JSON.as_posix()) == md5


def drop_recorded() -> None:
    """Removes the folder of each training whose outputs dvc.lock records."""
    for complete in settings().checkpoints.glob(f"*/{COMPLETE}"):
        with suppress(Timeout), lock_of(complete.parent).acquire(blocking=False):
            if complete.exists() and is_recorded(complete.parent):
                shutil.rmtree(complete.parent)
