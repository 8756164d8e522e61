"""Imports third-party libraries once and runs each command in a fork of itself.

Importing torch, Lightning, MLflow and the like takes ten seconds of a core, and the tests start a hundred processes.
A fork costs the more the more its parent holds in memory, so DVC has a process of its own, without torch and the like.
The project's own code is not imported here: each fork imports that of its workspace, as a fresh interpreter does.
The process ends when its standard input does, which the test session holds open, and all forks with it.
"""

import atexit
import gc
import importlib
import importlib.util
import logging
import marshal
import os
import random
import resource
import runpy
import selectors
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from preload import measured

LIBRARIES = {
    "dvc": (
        *("configobj", "dulwich.porcelain", "dulwich.worktree", "dvc._debug", "dvc.cachemgr", "dvc.cli"),
        *("dvc.cli.parser", "dvc.commands.checkout", "dvc.commands.config", "dvc.commands.repro"),
        *("dvc.commands.status", "dvc.compare", "dvc.data_cloud", "dvc.dirs", "dvc.lock", "dvc.output", "dvc.repo"),
        *("dvc.repo.artifacts", "dvc.repo.datasets", "dvc.repo.graph", "dvc.repo.index", "dvc.repo.metrics"),
        *("dvc.repo.open_repo", "dvc.repo.params", "dvc.repo.plots", "dvc.repo.stage", "dvc.repo.trie", "dvc.rwlock"),
        *("dvc.scm", "dvc.stage", "dvc.types", "dvc.utils.strictyaml", "dvc_data.hashfile.db.local"),
        *("dvc_data.hashfile.status", "dvc_data.index.checkout", "dvc_data.index.fetch", "dvc_s3", "filelock"),
        *("fsspec.implementations.memory", "git", "networkx.algorithms", "omegaconf", "psutil", "rich._emoji_codes"),
        *("rich.progress", "rich.table", "ruamel.yaml", "ruamel.yaml.mergevalue", "s3fs"),
    ),
    "python": (
        *("albumentations", "alembic.config", "anyio._backends._asyncio", "apprise", "boto3", "boto3.s3.inject"),
        *("configobj", "cryptography.hazmat.primitives.serialization", "cv2", "filelock", "git", "graphviz"),
        *("IPython", "jinja2"),
        *("lightning.pytorch", "matplotlib.backends.backend_agg", "matplotlib.pyplot", "mlflow", "mlflow.cli"),
        *("mlflow.pyfunc", "mlflow.store.model_registry.sqlalchemy_workspace_store"),
        *("mlflow.store.tracking.sqlalchemy_store", "mlflow.store.tracking.sqlalchemy_workspace_store"),
        *("mlflow.system_metrics.system_metrics_monitor", "mlflow.tracing.processor.base_mlflow"),
        *("mlflow.tracing.processor.otel", "mlflow.tracking.request_header.registry", "moto.s3.responses"),
        *("moto.server", "onnx", "openvino", "optuna.storages", "pandas", "pandas.core.arrays.arrow.extension_types"),
        *("pandas.core.methods.to_dict", "pandas.io.formats.csvs", "PIL.Image", "PIL.JpegImagePlugin"),
        *("PIL.TiffImagePlugin", "PIL.WebPImagePlugin", "prefect", "prefect.artifacts", "prefect.cli.server"),
        *("prefect.cli.worker", "prefect.flow_engine", "prefect.runner", "prefect.task_runners"),
        *("prefect.utilities.visualization", "prefect.workers.process", "prefect_dask", "psutil", "pyarrow.dataset"),
        *("pyarrow.parquet", "pydantic.v1", "pydantic_settings", "requests", "rich._emoji_codes", "rich.progress"),
        *("rich.table", "rich.traceback", "ruamel.yaml", "ruamel.yaml.mergevalue", "safetensors.torch"),
        *("scipy.ndimage", "scipy.optimize", "scipy.spatial", "scipy.stats", "segmentation_models_pytorch"),
        *("sklearn.isotonic", "sklearn.metrics", "sklearn.model_selection", "sqlalchemy.dialects.sqlite", "torch"),
        *("torch.utils.data", "torchvision", "typer", "vl_convert"),
    ),
}


class Fork:
    """A command that runs: its process, and the connection to the launcher that waits for it."""

    def __init__(self, pid: int, launcher: socket.socket) -> None:
        self.pid, self.launcher = pid, launcher
        self.ended = os.pidfd_open(pid)

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)  # as a plain process shares the group of what it starts with its own starter


def serve(listener: socket.socket, name: str) -> tuple | None:
    """Answers requests until standard input ends; returns a request in the fork that is to run it."""
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    selector.register(0, selectors.EVENT_READ)
    forks: dict[int, Fork] = {}
    loaded = False
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                if not loaded:  # not before a test needs it
                    load(name)
                    loaded = True
                launcher, _ = listener.accept()
                request, streams = receive(launcher)
                if not (pid := os.fork()):
                    for fork in forks.values():
                        fork.launcher.close()
                        os.close(fork.ended)
                    launcher.close()
                    listener.close()
                    selector.close()
                    become(streams)
                    return request
                for stream in streams:
                    os.close(stream)
                with suppress(OSError):
                    os.setpgid(pid, pid)  # as `become` does, which may come later than a signal
                forks[pid] = fork = Fork(pid, launcher)
                selector.register(fork.ended, selectors.EVENT_READ, fork)
                selector.register(launcher, selectors.EVENT_READ, fork)
            elif key.fileobj == 0:
                for fork in forks.values():
                    fork.signal(signal.SIGKILL)
                return None
            elif isinstance(key.data, Fork) and key.data.pid in forks:
                fork = key.data
                if key.fileobj is fork.launcher:
                    numbers = b""
                    with suppress(ConnectionError):
                        numbers = fork.launcher.recv(64)
                    for number in numbers or (signal.SIGKILL,):  # a launcher that was killed takes its command along
                        fork.signal(number)
                    if not numbers:
                        selector.unregister(fork.launcher)
                else:
                    _, status = os.waitpid(fork.pid, 0)
                    with suppress(OSError):
                        fork.launcher.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))
                    selector.unregister(fork.ended)
                    with suppress(KeyError):
                        selector.unregister(fork.launcher)
                    os.close(fork.ended)
                    fork.launcher.close()
                    del forks[fork.pid]


def load(name: str) -> None:
    gc.disable()  # nothing here is garbage
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # as nerveseg/__init__.py
    for library in LIBRARIES[name]:
        importlib.import_module(library)
    if name == "python":
        requirements = sys.modules["mlflow.utils.requirements_utils"]
        requirements._init_packages_to_modules_map()  # it reads all installed packages
        if measured.VARIABLE in os.environ:
            measured.prepare()
    own = [module for module in sys.modules if module.partition(".")[0] in ("nerveseg", "flows", "stack")]
    assert not own, f"the code under test is loaded: {own}"
    threads = len(list(Path("/proc/self/task").iterdir()))
    assert threads == 1, f"{threads} threads: a fork has only one of them"
    gc.collect()
    gc.freeze()
    gc.enable()
    gc.set_threshold(50_000)  # collecting at each 700 objects takes time, and the commands are short


def receive(launcher: socket.socket) -> tuple[tuple, list[int]]:
    head, streams, *_ = socket.recv_fds(launcher, 4, 3)
    size, parts = int.from_bytes(head, "big"), b""
    while len(parts) < size:
        parts += launcher.recv(size - len(parts))
    return marshal.loads(parts), streams


def become(streams: list[int]) -> None:
    """Gives this fork the streams of its launcher, and a process group of its own: signals come by the launcher."""
    os.setpgid(0, 0)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()


def run(
    executable: str, arguments: list[str], folder: str, environment: dict[str, str], mask: int, limits: dict
) -> None:
    """Does what `python ARGUMENTS` does, which are `-m MODULE` and more, or `-u -c CODE` for a test process."""
    os.umask(mask)
    for limit, values in limits.items():
        resource.setrlimit(limit, values)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [folder, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    importlib.invalidate_caches()
    if "prefect" in sys.modules:  # it read the environment when it was imported
        sys.modules["prefect.context"].refresh_global_settings_context()
    if measured.VARIABLE in environment:
        atexit.register(measured.save)
    else:
        measured.codes.clear()
    if arguments[0] == "-u":
        Path("/proc/self/comm").write_text("pytest")
        exec(arguments[-1], {"__name__": "__main__"})
        return
    sys.executable = executable
    module = arguments[1]
    Path("/proc/self/comm").write_text(module.removeprefix("nerveseg."))  # what `ps` and `top` show
    if not module.startswith(("flows", "prefect")):
        logging.root.handlers.clear()  # Prefect's, which would show DVC's and others' tracebacks
    if module == "nerveseg":  # the console script
        sys.argv = [str(Path(executable).with_name("nerveseg")), *arguments[2:]]
        importlib.import_module("nerveseg.cli").app()
    else:
        sys.argv = [module, *arguments[2:]]
        runpy.run_module(module, run_name="__main__", alter_sys=True)


def end(command: Callable[[], None]) -> None:
    """Runs a command and ends as an interpreter does, but without taking all modules apart, which takes a second."""
    status: object = 0
    try:
        command()
    except SystemExit as ended:
        status = ended.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    if status is not None and not isinstance(status, int):
        print(status, file=sys.stderr)
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit((status or 0) & 0xFF)


if __name__ == "__main__":
    del sys.path[0]
    request = serve(socket.socket(fileno=int(sys.argv[2])), sys.argv[1])
    if request:
        end(lambda: run(*request))
