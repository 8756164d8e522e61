"""Needed by versions that nerveseg 0.1 registered: the code that MLflow logged with them imports from this module."""

from typing import Any

from nerveseg import legacy
from nerveseg.model import plausibility


def __getattr__(name: str) -> Any:
    return getattr(plausibility, legacy.current(name))
