"""The model card, and what shows where a model comes from."""
