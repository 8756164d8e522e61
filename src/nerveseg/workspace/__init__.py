"""Clones of the repository, and running git and DVC in them."""
