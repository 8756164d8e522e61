"""Scores, baselines and pictures."""
