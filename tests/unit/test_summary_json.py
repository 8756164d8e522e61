"""What DVC's tables show: few metrics, with short names."""

from pathlib import Path

from test_scores import FRAMES, of_scores, scored

from nerveseg.evaluation.results import Metrics

ROOT = Path(__file__).parents[2]


def test_it_holds_a_few_of_the_metrics() -> None:
    metrics = Metrics.model_validate(of_scores(scored(FRAMES)))
    test = metrics.record["test"]
    assert metrics.summary == {name: round(test[name], 4) for name in ("dice", "iou", "nsd", "hd95", "worst_subject")}
    assert len(metrics.summary) == len(metrics.shown("dvc")), "no two have the same name"


def test_the_documents_show_experiments_by_the_same_command() -> None:
    command = "dvc exp show --only-changed --drop '.*/|weights|Created'"
    for name in ("README.md", "docs/tutorial.md", "tests/e2e/test_s3_to_registry.py"):
        assert command in (ROOT / name).read_text()
