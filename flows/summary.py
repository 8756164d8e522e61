"""The result of a flow run of the pipeline: one line, and a page with metrics, verdict and links."""

import time
from pathlib import Path
from typing import Any

from flows import pictures, runs
from nerveseg import mlflow_pages, paths
from nerveseg.evaluation import figures
from nerveseg.evaluation.results import Metrics
from nerveseg.files import read_json
from nerveseg.settings import settings

_RAN = {"Cached": "unchanged", runs.REFUSED: "**refused**"}  # by the state of a stage
WARNING = "Warning"  # state of a flow run that completed but needs attention


def verdict(receipt: dict[str, Any], former: dict[str, Any] | None, ran: list[str]) -> str:
    """The state message: nothing to do, registered version N, or refused: why.

    Args:
        receipt: the content of `reports/registration.json`.
        former: its content before the run, if any.
        ran: the stages that ran. If only the dataset's address is new, download, register and report do, to the
            same end.
    """
    if not ran or (receipt == former and set(ran) <= {"download", "register", "report"}):
        return "nothing to do"
    if receipt["registered"]:
        return f"registered version {receipt['version']}"
    return refusal(receipt)


def refusal(receipt: dict[str, Any]) -> str:
    """That the gate refuses a model, and why."""
    return f"refused: {'; '.join(receipt['reasons'])}"


def markdown(root: Path, states: dict[str, str], message: str, begun: float) -> str:
    """The page: verdict and reasons, metrics, pictures, stages, and links to MLflow if it is a server."""
    metrics, receipt = Metrics.read(root / paths.METRICS_JSON), read_json(root / paths.REGISTRATION_JSON)
    test, reasons = metrics.test, receipt["reasons"] if message == refusal(receipt) else []
    lines = [
        "# refused" if reasons else f"# {message}",
        "",
        *(f"- {reason}" for reason in reasons),
        "",
        *_gate(receipt["gate"]),
        "",
        f"{test.frames} {test.split} frames {test.of_subjects}, {time.time() - begun:.0f} s.",
        "",
        "| metric | value | 95 % interval |",
        "|---|---:|---:|",
        *(
            f"| {metrics.title(figure)} | {figures.number(found.value)} | {figures.interval(found.interval)} |"
            for figure in metrics.shown("flow")
            for found in (metrics.measured(figure.key),)
        ),
        "",
        *pictures.markdown(root),
        "| stage | |",
        "|---|---|",
        *(f"| {stage} | {_RAN.get(state, 'ran')} |" for stage, state in states.items()),
        "",
        *_links(receipt),
    ]
    return "\n".join(lines) + "\n"


def _gate(verdict: dict[str, Any]) -> list[str]:
    """The gate's verdict and its criteria as a table."""
    if verdict["mode"] == "off":
        return ["**Gate:** off", *_note(verdict)]
    return [
        f"**Gate** (`register.gate: {verdict['mode']}`): {_outcome(verdict['passed'])}",
        *_note(verdict),
        "",
        "| criterion | | found |",
        "|---|---|---|",
        *(
            f"| {one['name']} | {_outcome(one['passed'])} | {one['detail'].replace('|', '/')} |"
            for one in verdict["criteria"]
        ),
    ]


def _note(verdict: dict[str, Any]) -> list[str]:
    return ["", verdict["note"]] if verdict["note"] else []


def _outcome(passed: bool) -> str:
    return "passed" if passed else "**failed**"


def _links(receipt: dict[str, Any]) -> list[str]:
    server, run, version = settings().tracking_uri, receipt["run_id"], receipt["version"]
    model = f"{receipt['name']} version {version}"
    if not server.startswith("http"):
        return [f"- MLflow run `{run}` in the local store; `make ui` shows it", *[f"- {model}"] * bool(version)]
    return [
        f"- [MLflow run]({mlflow_pages.run(server, receipt.get('experiment_id'), run)})",
        *[f"- [{model}]({mlflow_pages.version(server, receipt['name'], version)})"] * bool(version),
    ]
