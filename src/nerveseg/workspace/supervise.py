"""Runs a command whose whole process group ends with whoever started it.

Usage: python supervise.py COMMAND [ARGUMENT ...], in a session of its own and with a pipe as standard input.

DVC forwards no signals to its stages, and a process that is killed by SIGKILL ends nothing it started. So the starter
holds the other end of the pipe: once it closes, on purpose or by the starter's death, everything in the group gets
SIGTERM, and SIGKILL after a while. The same happens when the command ends and leaves processes behind.
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
    Thread(target=_end_with_starter, daemon=True).start()
    ended = Thread(target=_end_with_command, args=(child,))
    ended.start()
    assert child.stdout is not None
    for line in child.stdout:
        try:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
        except BrokenPipeError:  # nobody listens any more; the command must still be able to say its last words
            continue
    ended.join()
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _end_with_starter() -> None:
    while os.read(0, 4096):  # raw: a buffered reader would be locked when the interpreter ends
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
    """The living processes of our group but this one."""
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
    sys.stdout = None  # no flush into a pipe that nobody reads
    sys.exit(status)
