"""Masks for unlabelled frames: the exported network, its scorer, batches of frames and their drift."""
