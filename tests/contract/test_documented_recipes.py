"""docs/explanation.md documents the recipes: its table is what the code has."""

from pathlib import Path

from nerveseg.params import TrainParams
from nerveseg.training.recipes import CARD, NERVESEG, Recipe

EXPLANATION = (Path(__file__).parents[2] / "docs" / "explanation.md").read_text()


def test_the_documented_table_is_what_the_recipes_set() -> None:
    rows = ["| setting | what it does | `card` | `nerveseg` |", "|---|---|---|---|"]
    for name in Recipe.model_fields:
        card, ours = getattr(CARD, name), getattr(NERVESEG, name)
        meaning = TrainParams.model_fields[name].description
        rows.append(f"| `{name}` | {meaning} | {card} | {ours if ours == card else f'**{ours}**'} |")
    table = "\n".join(rows)
    assert f"\n{table}\n\n" in EXPLANATION, f"docs/explanation.md should hold this table:\n\n{table}\n"
