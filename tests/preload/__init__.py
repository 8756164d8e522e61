"""A `python` for tests that starts within hundredths of a second, with all libraries loaded: see `server.py`."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
VARIABLE = "PRELOADED_PYTHON"  # tells all test processes where `bin` of a session is
QUIET = {"DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true", "NO_ALBUMENTATIONS_UPDATE": "1"}


@contextmanager
def preloaded() -> Iterator[Path]:
    """Starts the servers; yields a folder for PATH. Its `python` is that of this virtual environment."""
    with tempfile.TemporaryDirectory(prefix="nerveseg-") as name:
        root = Path(name)
        packages = root / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
        packages.mkdir(parents=True)
        here = next(path for path in sys.path if path.endswith("site-packages"))
        (packages / "parent.pth").write_text(f"import site; site.addsitedir({here!r})\n")
        base = Path(sys._base_executable)  # type: ignore[attr-defined]
        (root / "pyvenv.cfg").write_text(f"home = {base.parent}\ninclude-system-site-packages = false\n")
        folder = root / "bin"
        (folder / "real").mkdir(parents=True)
        (folder / "real" / "python").symlink_to(base)
        for command in ("python", "dvc", "nerveseg"):
            (folder / command).write_text(f"#!{base} -IS\n{(HERE / 'launcher.py').read_text()}")
            (folder / command).chmod(0o755)
        servers = [start(folder, name) for name in ("python", "dvc")]
        try:
            yield folder
        finally:
            for server in servers:
                assert server.stdin is not None
                server.stdin.close()
                server.wait()


def start(folder: Path, name: str) -> subprocess.Popen[bytes]:
    """Starts the server that listens at `name`.socket in `folder`."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with (folder / f"{name}.log").open("w") as log, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / f"{name}.socket"))
        listener.listen(64)
        return subprocess.Popen(
            (sys.executable, "-m", "preload.server", name, str(listener.fileno())),
            cwd=HERE.parent,
            pass_fds=(listener.fileno(),),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment | QUIET | {"OMP_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"},
            start_new_session=True,
        )
