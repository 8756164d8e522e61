"""Needed by versions that nerveseg 0.1 registered: the code that MLflow logged with them imports this module."""

from nerveseg.model.plausibility import atypicality as mistrust

__all__ = ["mistrust"]
