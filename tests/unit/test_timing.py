"""The seconds of a training that takes several processes."""

import time
from pathlib import Path

import pytest

from nerveseg.training.timing import Timings


def test_a_later_process_counts_on(tmp_path: Path) -> None:
    state = tmp_path / "timings.json"
    first = Timings(state, begun=time.time() - 10)
    first["imports"] += 3
    first.keep()
    second = Timings(state, begun=time.time() - 5)
    second["imports"] += 1
    second.keep()
    assert second["imports"] == 4
    assert second["total"] == pytest.approx(15, abs=1)
    assert Timings(state) == second
