"""The script in the report's page."""

from data.make_chart_script import script
from nerveseg.report.charts import SCRIPT


def test_the_script_is_of_the_version_that_draws_the_charts() -> None:
    assert SCRIPT.read_text(encoding="utf-8") == script(), "run `python tests/data/make_chart_script.py`"
