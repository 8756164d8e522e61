"""Runs a command whose whole process group ends with the process that started it, the caller.

Usage: python supervise.py COMMAND [ARGUMENT ...], in its own session and with a pipe as standard input.

DVC forwards no signals to its stages, and a process killed by SIGKILL cannot end its children. So the caller holds the
other end of the pipe: once it is closed, on purpose or by the caller's death, everything in the group gets SIGTERM, and
SIGKILL after a while. The same happens when the command ends and leaves processes behind.
"""

import os
import signal
import subprocess
import sys
import time
from threading import Lock, Thread

import psutil

GRACE = 20.0  # seconds from SIGTERM to SIGKILL; Prefect gives a cancelled flow run 30
_ending = Lock()


def main(command: list[str]) -> int:
    """Runs the command, copies its output to ours, and returns its exit status (128 + N after signal N)."""
    signal.signal(signal.SIGTERM, lambda *_: None)  # not SIG_IGN, which the command would inherit
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    Thread(target=_end_with_caller, daemon=True).start()
    ended = Thread(target=_end_with_command, args=(child,))
    ended.start()
    assert child.stdout is not None
    for line in child.stdout:
        try:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
        except BrokenPipeError:  # nobody reads any more, but the command must still be able to finish writing
            continue
    ended.join()
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _end_with_caller() -> None:
    while os.read(0, 4096):  # raw: a buffered reader would be locked when the interpreter exits
        pass
    _end_group()


def _end_with_command(child: subprocess.Popen[bytes]) -> None:
    child.wait()
    _end_group()


def _end_group() -> None:
    with _ending:
        if not _others():
            return
        os.killpg(0, signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        while others := _others():
            if time.monotonic() > deadline:
                for process in others:
                    process.kill()
            time.sleep(0.1)


def _others() -> list[psutil.Process]:
    """The living processes in our group, except this one."""
    group = os.getpgid(0)
    found = []
    for process in psutil.process_iter(["status"]):
        try:
            if process.pid != os.getpid() and os.getpgid(process.pid) == group:
                found.append(process)
        except ProcessLookupError:
            continue
    return [process for process in found if process.info["status"] != psutil.STATUS_ZOMBIE]


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout = None  # do not flush into a pipe that nobody reads
    sys.exit(status)
