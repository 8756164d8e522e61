"""The page of `dvc plots`; it takes a browser, because Vega draws in one."""

from pathlib import Path

from playwright.sync_api import Browser, expect

PAGE = Path(__file__).parents[2] / ".dvc" / "plots.html"
PLOT = """
<div id="plot"></div>
<script>vegaEmbed("#plot", {
    $schema: "https://vega.github.io/schema/vega-lite/v5.json",
    data: {values: [{epoch: 1, loss: 2}, {epoch: 2, loss: 1}]},
    mark: "line", encoding: {x: {field: "epoch", type: "quantitative"}, y: {field: "loss", type: "quantitative"}}
});</script>
"""


def test_a_plot_is_drawn_offline(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "index.html"
    path.write_text(PAGE.read_text().replace("{refresh_tag}", "").replace("{plot_divs}", PLOT))
    page = browser.new_context(offline=True).new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    expect(page.locator("#plot canvas, #plot svg.marks").first).to_be_visible()
    assert asked == [path.as_uri()]
