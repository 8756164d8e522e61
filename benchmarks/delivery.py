"""Seconds of a run of `deliver` that has nothing to do, compared with a limit of five seconds after the flow starts.

Usage, in a workspace whose champion is delivered: python benchmarks/delivery.py
"""

import re
import subprocess
import sys
from statistics import median

LIMIT = 5.0  # seconds
ROUNDS = 5
STAMP = re.compile(
    r"^(\d\d):(\d\d):(\d\d\.\d+) .*(Beginning flow run|Finished in state Completed\('nothing to do)", re.M
)


def seconds() -> float:
    """From "Beginning flow run" to its final state, by the timestamps in the log."""
    done = subprocess.run(
        (sys.executable, "-m", "flows.deliver"), check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    begun, ended = (int(h) * 3600 + int(m) * 60 + float(s) for h, m, s, _ in STAMP.findall(done.stdout + done.stderr))
    return (ended - begun) % 86400


if __name__ == "__main__":
    found = median(seconds() for _ in range(ROUNDS))
    print(f"deliver with nothing to do: {found:.2f} s, limit {LIMIT:g} s: {found / LIMIT:.2f} x")
