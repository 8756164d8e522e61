"""Datasets: where they come from and how they are read, checked, split and stored."""
