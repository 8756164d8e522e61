"""`nerveseg dataset inspect`: how a dataset is read, before the pipeline uses it."""
