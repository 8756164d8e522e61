"""The native stack's S3 server instead of SeaweedFS: moto, with signature checks and a journal on disk.

`python -m stack.native.s3_server HOST PORT FOLDER` serves one account, with the keys in AWS_ACCESS_KEY_ID and
AWS_SECRET_ACCESS_KEY. moto keeps objects in memory, so every request that changes something is first written to a
journal, which the server replays when it starts. For trials and tests only: the journal grows with every change, and a
start reads all of it.
"""

import base64
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from threading import Lock
from types import SimpleNamespace
from typing import Any

os.environ["INITIAL_NO_AUTH_ACTION_COUNT"] = "0"  # read when moto is imported: all requests are checked
import moto.s3.models
from moto.core import DEFAULT_ACCOUNT_ID
from moto.iam.models import iam_backends
from moto.moto_api._internal import mock_random
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple
from werkzeug.wsgi import get_input_stream

JOURNAL = "journal.jsonl"
HEALTH = "/healthz"

# When replayed, a change must create the same version and upload ids: both come from moto's random numbers.
moto.s3.models.os = SimpleNamespace(**vars(os) | {"urandom": mock_random.randbytes})  # type: ignore[assignment]

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


class Journaled:
    """A WSGI application that executes changes one at a time, after writing each to disk."""

    def __init__(self, application: Application, path: Path) -> None:
        self._application = application
        self._lock = Lock()
        self._changes = 0
        for environ in _read(path):
            list(self._change(environ, lambda *_: None))
        self._file = path.open("a")

    def __call__(self, environ: Environ, respond: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == HEALTH:
            respond("200 OK", [])
            return []
        if "HTTP_AUTHORIZATION" not in environ:
            respond("403 Forbidden", [])
            return []
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return self._application(environ, respond)
        body = get_input_stream(environ).read()
        environ["wsgi.input"] = io.BytesIO(body)
        variables = {name: value for name, value in environ.items() if isinstance(value, str)}
        with self._lock:
            self._file.write(json.dumps([variables, base64.b64encode(body).decode()]) + "\n")
            self._file.flush()
            return list(self._change(environ, respond))

    def _change(self, environ: Environ, respond: Callable[..., Any]) -> Iterable[bytes]:
        self._changes += 1
        mock_random.seed(self._changes)
        return self._application(environ, respond)


def _read(path: Path) -> Iterator[Environ]:
    """The changes in the journal; an incomplete last one, from a server killed while writing, is removed."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        whole = 0
        for line in iter(file.readline, b""):
            if not line.endswith(b"\n"):
                file.truncate(whole)
                return
            whole = file.tell()
            variables, body = json.loads(line)
            yield variables | {
                "wsgi.input": io.BytesIO(base64.b64decode(body)),
                "wsgi.errors": sys.stderr,
                "wsgi.input_terminated": True,
            }


def _create_account() -> None:
    """Creates one user with all permissions and the keys from the environment."""
    iam = iam_backends[DEFAULT_ACCOUNT_ID]["aws"]
    iam.create_user("aws", "stack")
    everything = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    iam.put_user_policy("stack", "all", json.dumps({"Version": "2012-10-17", "Statement": [everything]}))
    key = iam.create_access_key("stack")
    key.access_key_id, key.secret_access_key = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]


def main(host: str, port: str, folder: str) -> None:
    """Serves until it is stopped."""
    _create_account()
    Path(folder).mkdir(parents=True, exist_ok=True)
    application = Journaled(DomainDispatcherApplication(create_backend_app), Path(folder) / JOURNAL)
    run_simple(host, int(port), application, threaded=True, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    main(*sys.argv[1:])
