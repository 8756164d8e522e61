"""`nerveseg search`: tries values of parameters on folds of subjects, and says how much of the gain is selection.

The command starts processes that each train one trial after the other (`worker`), and concludes from what the study
holds. Several commands, also on several machines, may work at one study: they share the address of its storage.
"""

import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from typing import Any

import optuna

from nerveseg import params, paths, tracking
from nerveseg.console import console
from nerveseg.errors import NervesegError, TransientError
from nerveseg.trials import conclusion, space, study
from nerveseg.trials.space import Search
from nerveseg.workspace import clones, commands

STORAGE = Path("search.db")  # if none is given
_KEPT = "The search is kept: once the server is back, the same command logs it."


def search(file: Path, jobs: int, storage: str | None) -> None:
    """Runs what is left of a search and writes `searches/NAME/`.

    Args:
        file: its stem is the name of the study.
        jobs: number of processes.
        storage: address of a database; None: a file in the workspace.

    Raises:
        NervesegError: the file or a value in it is invalid, or a process failed; what is finished is kept.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that runs and processes end
    here = Path.cwd()
    given = space.read(file)
    base = params.load()
    space.check(given, base, file)
    clones.require_repository(here)
    clones.keep_outside(here)
    url = storage or study.sqlite(STORAGE)
    with study.available(url):
        with study.turn(here, file.stem):
            found = study.opened(url, file.stem, given, base)
            with tracking.reachable("Nothing was started."):
                parent = _open_run(found, given)
        console.print(given.plan.described, soft_wrap=True)
        status, target = "KILLED", paths.SEARCHES / file.stem
        try:
            failures = _work(file, url, jobs)
            record = conclusion.conclude(found, given, base, target)
            with tracking.reachable(_KEPT):
                tracking.log_values(parent, record)
                tracking.log_files(parent, sorted(target.iterdir()) if record else [])
            status = "FAILED" if failures else "FINISHED"
        finally:
            with tracking.reachable(_KEPT):
                tracking.close_run(parent, status)
    if failures:
        kind = TransientError if all(each.transient for each in failures) else NervesegError
        raise kind("\n".join(dict.fromkeys(map(str, failures))))


def _open_run(found: optuna.Study, given: Search) -> str:
    run_id = tracking.open_run(
        found.user_attrs.get(study.RUN),
        f"search {found.study_name}",
        parent=None,
        params=params.flatten(given.model_dump(mode="json")),
        tags={"search": found.study_name},
    )
    found.set_user_attr(study.RUN, run_id)
    return run_id


def _work(file: Path, url: str, jobs: int) -> list[commands.StageError]:
    """Runs the processes until all have ended; returns the failures."""
    failures: list[commands.StageError] = []

    def follow(process: Any, name: str, prefix: str) -> None:
        try:
            commands.follow(process, name, lambda line: console.print(f"{prefix}{line}", soft_wrap=True))
        except commands.StageError as error:
            failures.append(error)

    command = (sys.executable, "-m", "nerveseg.trials.worker", str(file), url)
    here = Path.cwd()
    with ExitStack() as stack:  # an interruption closes it, and with it the processes end
        threads = []
        for job in range(1, jobs + 1):
            process = stack.enter_context(commands.supervised(command, here, dict(os.environ)))
            prefix = f"[{job}] " if jobs > 1 else ""
            thread = Thread(target=follow, args=(process, f"process {job}", prefix), daemon=True)
            thread.start()
            threads.append(thread)
        for thread in threads:
            thread.join()
    return failures
