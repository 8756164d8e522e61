"""Tables of texts as Markdown, as LaTeX and on the terminal."""

from typing import Any

import pandas as pd
from rich.table import Table


def with_interval(row: "pd.Series[Any]", column: str, *, sign: bool = False) -> str:
    """A figure of a row and its interval in columns `X_low` and `X_high`, `0.7700 (0.7100 to 0.8300)`.

    Args:
        sign: write a plus before positive values. Empty if the figure is undefined.
    """
    value, low, high = (float(row[f"{column}{bound}"]) for bound in ("", "_low", "_high"))
    if pd.isna(value):
        return ""
    plus = "+" if sign else ""
    if pd.isna(low):
        return format(value, f"{plus}.4f")
    return f"{value:{plus}.4f} ({low:{plus}.4f} to {high:{plus}.4f})"


def markdown(table: pd.DataFrame) -> str:
    """A table of texts as Markdown."""
    lines = [list(table.columns), ["---", *["---:"] * (table.shape[1] - 1)], *table.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def latex(table: pd.DataFrame, caption: str) -> str:
    """A table of texts as LaTeX with booktabs; special characters are escaped."""
    columns = [_escaped(str(name)) for name in table.columns]
    text: str = (
        table.set_axis(columns, axis=1)
        .map(_escaped)
        .to_latex(index=False, escape=False, column_format="l" + "r" * (table.shape[1] - 1), caption=_escaped(caption))
    )
    return text


def terminal(table: pd.DataFrame) -> Table:
    """A table of texts to print."""
    shown = Table()
    for number, name in enumerate(table.columns):
        shown.add_column(name, justify="right" if number else "left")
    for row in table.to_numpy().tolist():
        shown.add_row(*row)
    return shown


def _escaped(text: str) -> str:
    for character, written in (("\\", r"\textbackslash "), *((each, f"\\{each}") for each in "&%$#_{}")):
        text = text.replace(character, written)
    return text.replace("~", r"\textasciitilde ").replace("^", r"\textasciicircum ")
