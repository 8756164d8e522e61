"""Links into MLflow open its pages for trainings."""

from pathlib import Path

from nerveseg import mlflow_pages

ROOT = Path(__file__).parents[2]
SERVER = "http://127.0.0.1:5000"
TRAINING = "workflowType=machine_learning"


def test_every_page_is_opened_for_trainings() -> None:
    assert mlflow_pages.runs(f"{SERVER}/", "3") == f"{SERVER}/#/experiments/3/runs?{TRAINING}"
    assert mlflow_pages.run(SERVER, "3", "abc") == f"{SERVER}/#/experiments/3/runs/abc?{TRAINING}"
    assert mlflow_pages.version(SERVER, "nerves", "7") == f"{SERVER}/#/models/nerves/versions/7?{TRAINING}"
    report = mlflow_pages.artifact("3", "abc", "reports/index.html")
    assert report == f"#/experiments/3/runs/abc/artifacts/reports/index.html?{TRAINING}"
    assert mlflow_pages.experiments(SERVER) == f"{SERVER}/#/experiments?{TRAINING}"


def test_a_receipt_of_an_older_version_links_to_its_run_without_the_experiment() -> None:
    assert mlflow_pages.run(SERVER, None, "abc") == f"{SERVER}/#/runs/abc"


def test_links_are_made_in_one_place() -> None:
    """Any other would open the pages for language models."""
    sources = [path for part in ("src", "flows", "stack") for path in (ROOT / part).rglob("*.py")]
    linking = {path.name for path in [*sources, ROOT / "Makefile"] if "#/" in path.read_text()}
    assert linking == {"mlflow_pages.py"}
