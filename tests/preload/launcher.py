"""Stands for `python`, `dvc` and `nerveseg` in a test: asks a preloaded process, or becomes the real python.

Its first line, which names the interpreter, is written when a test session starts. It imports little, so that it starts
within hundredths of a second.
"""

import _signal
import _socket
import marshal
import os
import resource
import sys

FOLDER = os.path.dirname(sys.argv[0])  # noqa: PTH120 - pathlib takes longer than all the rest
SCRIPTS = {"dvc": ["-m", "dvc"], "nerveseg": ["-m", "nerveseg"]}
FORWARDED = (
    *("distributed.cli.", "dvc.", "flows.", "ipykernel_launcher.", "mlflow.", "moto.", "nerveseg.", "prefect."),
    "uvicorn.",
)
TESTS = ["-u", "-c", "import sys;exec(eval(sys.stdin.readline()))"]  # what pytest-xdist starts a test process with
LIMITS = (resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE, resource.RLIMIT_CORE)


def main(arguments: list[str]) -> None:
    ours = len(arguments) > 1 and arguments[0] == "-m" and f"{arguments[1]}.".startswith(FORWARDED)
    if not ours and arguments != TESTS:
        os.execv(f"{FOLDER}/real/python", [f"{FOLDER}/python", *arguments])
    server = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    server.connect(f"{FOLDER}/{'dvc' if arguments[1] == 'dvc' else 'python'}.socket")
    signals = {_signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGTERM, _signal.SIGUSR1, _signal.SIGUSR2}
    for number in signals:
        _signal.signal(number, lambda number, _: server.send(bytes([number])))
    limits = {limit: resource.getrlimit(limit) for limit in LIMITS}
    mask = os.umask(0)
    request = marshal.dumps((f"{FOLDER}/python", arguments, os.getcwd(), dict(os.environ), mask, limits))  # noqa: PTH109
    os.umask(mask)
    streams = b"".join(number.to_bytes(4, sys.byteorder) for number in (0, 1, 2))
    server.sendmsg([len(request).to_bytes(4, "big")], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, streams)])
    sent = 0
    while sent < len(request):
        sent += server.send(request[sent:])
    answer = server.recv(4)
    if len(answer) < 4:
        sys.exit("the preloaded process is gone")
    status = int.from_bytes(answer, "big", signed=True)
    if status < 0:  # it was ended by a signal, so we are too
        _signal.signal(-status, _signal.SIG_DFL) if -status in signals else None
        os.kill(os.getpid(), -status)
    os._exit(status)


main(sys.argv[1:] if (name := os.path.basename(sys.argv[0])) == "python" else SCRIPTS[name] + sys.argv[1:])  # noqa: PTH119
