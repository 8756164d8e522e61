"""The native stack's PostgreSQL, from Debian's packages, set up like the image in docker-compose.yml.

`python -m stack.native.postgres_server FOLDER SCRIPT` serves FOLDER on 127.0.0.1:$PGPORT. If it is empty, a database is
created first, with $POSTGRES_PASSWORD for the user postgres, and SCRIPT is run. As root, it switches to that user.
"""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nerveseg.console import readable_errors
from nerveseg.errors import NervesegError
from stack.native.ports import free_port


def _program(name: str) -> str:
    """The path of a program of the server: Debian does not put them on PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    program = str(found[-1]) if found else shutil.which(name)
    if program is None:
        raise NervesegError(f"{name} is not installed: `apt-get install postgresql` (PostgreSQL 15 or later).")
    return program


def _become_postgres(folder: Path) -> None:
    """Switches to the user postgres if root: PostgreSQL refuses to run as root."""
    if os.getuid() == 0:
        user = pwd.getpwnam("postgres")
        shutil.chown(folder, user.pw_uid, user.pw_gid)
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise NervesegError(
                f"The user postgres cannot reach {folder}: make the folders above it accessible to all."
            )


def _arguments(data: Path, port: str) -> list[str]:
    settings = ("listen_addresses=127.0.0.1", "unix_socket_directories=", f"port={port}")
    return [_program("postgres"), "-D", str(data), *(f"--{setting}" for setting in settings)]


def _create(data: Path, script: str) -> None:
    """Creates the database in a temporary folder, on another port, where nobody else connects."""
    beside = data.with_name(f"{data.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    with tempfile.NamedTemporaryFile("w") as password:
        password.write(os.environ["POSTGRES_PASSWORD"])
        password.flush()
        options = ("--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8", f"--pwfile={password.name}")
        subprocess.run([_program("initdb"), "-D", str(beside), *options], check=True)
    port = str(free_port())
    server = subprocess.Popen(_arguments(beside, port))
    environment = os.environ | {
        "PGHOST": "127.0.0.1",
        "PGPORT": port,
        "PGUSER": "postgres",
        "PGPASSWORD": os.environ["POSTGRES_PASSWORD"],
    }
    try:
        while subprocess.run([_program("pg_isready"), "--quiet"], env=environment).returncode:
            if server.poll() is not None:
                raise NervesegError("The new database does not start; see its message above.")
            time.sleep(0.1)
        subprocess.run(["sh", script], env=environment, check=True)
    finally:
        server.terminate()
        server.wait()
    beside.rename(data)


def main(folder: Path, script: str) -> None:
    """Serves until it is stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    _become_postgres(folder)
    data = folder / "data"
    if not data.exists():
        _create(data, script)
    command = _arguments(data, os.environ["PGPORT"])
    os.execv(command[0], command)  # noqa: S606  so that signals reach the server itself


if __name__ == "__main__":
    with readable_errors():
        main(Path(sys.argv[1]), sys.argv[2])
