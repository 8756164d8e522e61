"""Compares a flow run of the pipeline with `dvc repro` when nothing is stale.

Usage, in a workspace where `dvc repro` has nothing to do: python benchmarks/flow.py

Prints two ratios of their seconds: for the flow run, from its start to its final state, and for the whole process of
`python -m flows.pipeline`, most of which is importing Prefect. The server is already running, as in a deployment.
"""

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from urllib.error import URLError
from urllib.request import urlopen

ROUNDS = 7
STAMP = re.compile(
    r"^(\d\d):(\d\d):(\d\d\.\d+) .*(Beginning flow run|Finished in state Completed\('nothing to do'\))", re.M
)


def timed(*command: str) -> tuple[float, str]:
    """Seconds of a command, and its output."""
    start = time.perf_counter()
    done = subprocess.run((sys.executable, "-m", *command), check=True, capture_output=True, text=True)
    return time.perf_counter() - start, done.stdout + done.stderr


def flow_run_seconds(output: str) -> float:
    """From "Beginning flow run" to its final state, by the timestamps in the log."""
    begun, ended = (int(h) * 3600 + int(m) * 60 + float(s) for h, m, s, _ in STAMP.findall(output))
    return (ended - begun) % 86400


def measure() -> None:
    _, said = timed("dvc", "repro")
    if "Running stage" in said:
        raise SystemExit("something was stale and has run now: run this again")
    repros, runs, processes = [], [], []
    for _ in range(ROUNDS):  # alternating, so that a busy machine slows both
        repros.append(timed("dvc", "repro")[0])
        seconds, output = timed("flows.pipeline")
        processes.append(seconds)
        runs.append(flow_run_seconds(output))
    repro, run, process = median(repros), median(runs), median(processes)
    print(f"median of {ROUNDS}: dvc repro {repro:.2f} s")
    print(f"flow run {run:.2f} s, ratio {run / repro:.2f}")
    print(f"whole process, including the import of Prefect {process:.2f} s, ratio {process / repro:.2f}")


def main() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"PREFECT_HOME": home, "PREFECT_API_URL": f"http://127.0.0.1:{port}/api", "DO_NOT_TRACK": "true"}
        command = (sys.executable, "-m", "prefect", "server", "start", "--port", str(port))
        with (Path(home) / "server.log").open("w") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log)
            try:
                wait_for(f"http://127.0.0.1:{port}/api/health")
                measure()
            finally:
                server.terminate()
                server.wait()


def wait_for(address: str) -> None:
    for _ in range(240):
        try:
            urlopen(address, timeout=2)  # noqa: S310  # our own server
            return
        except (URLError, OSError):
            time.sleep(0.25)
    raise SystemExit("the Prefect server did not start")


if __name__ == "__main__":
    main()
