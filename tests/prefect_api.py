"""A Prefect server as a person sees it in its pages, by the same API."""

import time
from collections.abc import Callable
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry


class Prefect:
    """What a person sees in the Prefect UI, by the same API."""

    def __init__(self, api: str, account: tuple[str, str] | None = None) -> None:
        self.api = api
        self.session = requests.Session()  # the server answers 503 while its SQLite file is locked
        self.session.auth = account
        patient = Retry(10, backoff_factor=0.2, status_forcelist=[503], allowed_methods=None)
        self.session.mount("http://", HTTPAdapter(max_retries=patient))

    def call(self, method: str, path: str, **body: Any) -> Any:
        reply = self.session.request(method, f"{self.api}{path}", json=body or None, timeout=30)
        reply.raise_for_status()
        return reply.json() if reply.content else None

    def deployment(self, name: str, flow: str = "pipeline") -> Any:
        return self.call("GET", f"/deployments/name/{flow}/{name}")

    def start(self, name: str, flow: str = "pipeline", **parameters: Any) -> str:
        path = f"/deployments/{self.deployment(name, flow)['id']}/create_flow_run"
        run: str = self.call("POST", path, parameters=parameters, state={"type": "SCHEDULED"})["id"]
        return run

    def run(self, run: str) -> Any:
        return self.call("GET", f"/flow_runs/{run}")

    def finish(self, run: str, seconds: float = 240) -> tuple[str, str]:
        """Waits for the end of a flow run; returns the name and the message of its state."""
        final = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        await_(f"the end of {run}", lambda: self.run(run)["state"]["type"] in final, seconds)
        state = self.run(run)["state"]
        return state["name"], state["message"]

    def tasks(self, run: str) -> dict[str, Any]:
        """The task runs of a flow run by name, in the order of their start."""
        found = self.call("POST", "/task_runs/filter", flow_runs={"id": {"any_": [run]}})
        return {task["name"]: task for task in sorted(found, key=lambda task: task["start_time"] or "")}

    def expect(self, run: str, states: dict[str, str]) -> None:
        """Waits until the task runs of a flow run that has ended are in these states; the server records them late."""
        deadline = time.monotonic() + 30
        while (found := {name: (task["state"] or {}).get("name") for name, task in self.tasks(run).items()}) != states:
            assert time.monotonic() < deadline, f"{found}, not {states}"
            time.sleep(0.3)

    def log(self, run: str, task: str) -> str:
        """The log of a task run."""
        task_id = self.tasks(run)[task]["id"]
        lines = self.call("POST", "/logs/filter", logs={"task_run_id": {"any_": [task_id]}}, sort="TIMESTAMP_ASC")
        return "\n".join(line["message"] for line in lines)

    def page(self, run: str) -> str:
        """The Markdown artifact of a flow run."""
        (artifact,) = self.call("POST", "/artifacts/filter", artifacts={"flow_run_id": {"any_": [run]}})
        text: str = artifact["data"]
        return text


def await_(what: str, condition: Callable[[], Any], seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"{what} did not happen in {seconds} s"
        time.sleep(0.5)
    return found
