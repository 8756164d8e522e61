"""What a flow run of the pipeline says at its end: one line, and a page with figures, verdict and links."""

import time
from pathlib import Path
from typing import Any

from nerveseg import paths
from nerveseg.evaluation import figures
from nerveseg.evaluation.results import Metrics
from nerveseg.files import read_json
from nerveseg.settings import settings

WARNING = "Warning"  # name of the state of a flow run that is complete and yet needs a look


def verdict(receipt: dict[str, Any], former: dict[str, Any] | None, ran: list[str]) -> str:
    """The state message: nothing to do, registered version N, or refused: why.

    Args:
        receipt: the content of `reports/registration.json`.
        former: its content before the run, where there was any.
        ran: the stages that ran. If only the dataset's address is new, download and register do, to the same end.
    """
    if not ran or (receipt == former and set(ran) <= {"download", "register"}):
        return "nothing to do"
    if receipt["registered"]:
        return f"registered version {receipt['version']}"
    return f"refused: {'; '.join(receipt['reasons'])}"


def markdown(root: Path, states: dict[str, str], message: str, begun: float) -> str:
    """The page: verdict, figures, stages, and links into MLflow where its address is a web address."""
    metrics, receipt = Metrics.read(root / paths.METRICS_JSON), read_json(root / paths.REGISTRATION_JSON)
    test = metrics.test
    lines = [
        f"# {message}",
        "",
        f"{test.frames} {test.split} frames of {test.subjects} subjects, {time.time() - begun:.0f} s.",
        "",
        "| metric | value | 95 % interval |",
        "|---|---:|---:|",
        *(
            f"| {metrics.title(figure)} | {figures.number(found.value)} | {figures.interval(found.interval)} |"
            for figure in figures.shown("flow")
            for found in (metrics.measured(figure.key),)
        ),
        "",
        "| stage | |",
        "|---|---|",
        *(f"| {stage} | {'unchanged' if state == 'Cached' else 'ran'} |" for stage, state in states.items()),
        "",
        *_gate(receipt["gate"]),
        "",
        *_links(receipt),
    ]
    return "\n".join(lines) + "\n"


def _gate(verdict: dict[str, Any]) -> list[str]:
    """The gate's verdict and its criteria as a table."""
    if verdict["mode"] == "off":
        return ["**Gate:** off"]
    return [
        f"**Gate** (`register.gate: {verdict['mode']}`): {_outcome(verdict['passed'])}",
        "",
        "| criterion | | found |",
        "|---|---|---|",
        *(
            f"| {one['name']} | {_outcome(one['passed'])} | {one['detail'].replace('|', '/')} |"
            for one in verdict["criteria"]
        ),
    ]


def _outcome(passed: bool) -> str:
    return "passed" if passed else "**failed**"


def _links(receipt: dict[str, Any]) -> list[str]:
    server, run, version = settings().tracking_uri.rstrip("/"), receipt["run_id"], receipt["version"]
    model = f"{receipt['name']} version {version}"
    if not server.startswith("http"):
        return [f"- MLflow run `{run}` in the embedded store, which `make ui` shows", *[f"- {model}"] * bool(version)]
    return [
        f"- [MLflow run]({server}/#/runs/{run})",
        *[f"- [{model}]({server}/#/models/{receipt['name']}/versions/{version})"] * bool(version),
    ]
