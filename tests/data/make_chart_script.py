"""Makes `src/nerveseg/report/vega.js`, the script of the report's charts, by the vl-convert-python that is installed.

python tests/data/make_chart_script.py
"""

import vl_convert

from nerveseg.report.charts import SCRIPT, VEGA_LITE

NOTICE = (
    "/* Vega, Vega-Lite, vega-embed: (c) University of Washington Interactive Data Lab and others, BSD-3-Clause. "
    "Made by tests/data/make_chart_script.py */\n"
)


def script() -> str:
    """Vega, Vega-Lite and vega-embed as one script, which a page can hold."""
    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGA_LITE)
    return NOTICE + bundle.replace("</script", "<\\/script")


if __name__ == "__main__":
    SCRIPT.write_text(script(), encoding="utf-8")
