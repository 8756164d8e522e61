"""How the stack without containers reads what docker-compose.yml says to containers."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from dotenv import dotenv_values

from stack.native import compose
from stack.native.__main__ import with_local_addresses


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://mlflow:5000/health", "http://127.0.0.1:5000/health"),
        ("predictor:8000", "127.0.0.1:8000"),
        ("predictor:5h2iN1XX9NByqd4B", "predictor:5h2iN1XX9NByqd4B"),  # a password that begins with a digit
        ("predictor:secret", "predictor:secret"),
        ("other-mlflow:5000", "other-mlflow:5000"),
    ],
)
def test_only_addresses_of_services_become_local(text: str, expected: str) -> None:
    assert with_local_addresses(text, ["mlflow", "predictor"]) == expected


@pytest.mark.parametrize("has_run", [True, False])
def test_a_worker_that_does_not_end_is_ended_once_its_runs_have(tmp_path: Path, has_run: bool) -> None:
    """Processes stand in for Prefect's worker, which stays after SIGTERM, and its flow run: it is about signals."""
    run = "(sleep 2; touch run-ended) & wait" if has_run else ":"
    worker = f"#!/bin/sh\ntrap 'touch signalled' TERM\ntouch started\n{run}\nwhile :; do wait; read _ < fifo; done\n"
    commands = {"dvc": "#!/bin/sh\n", "python": "#!/bin/sh\n", "prefect": worker}
    for name, content in commands.items():
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o755)
    os.mkfifo(tmp_path / "fifo")
    folder = str(tmp_path / "tmp")
    env = {"PATH": f"{tmp_path}:{os.defpath}", "TMPDIR": folder, "NERVESEG_CHECKPOINTS": folder, "S3_BUCKET": "bucket"}
    script = Path(__file__).parents[2] / "stack" / "worker.sh"
    with subprocess.Popen(["/bin/sh", script], cwd=tmp_path, env=env, start_new_session=True) as process:
        try:
            while not (tmp_path / "started").exists():
                time.sleep(0.02)
            begun = time.monotonic()
            process.terminate()
            assert process.wait(20) == 0
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert (tmp_path / "signalled").exists()
    assert (tmp_path / "run-ended").exists() == has_run, "runs in progress are not cut off"
    assert time.monotonic() - begun < 10


def test_the_worker_has_more_time_to_end_than_its_script_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    variables = {name: value or "x" for name, value in dotenv_values(".env.example").items()}
    assert compose.load(variables)["worker"].grace > 45
