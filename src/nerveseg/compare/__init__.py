"""Two models on the same frames: `nerveseg compare`."""
