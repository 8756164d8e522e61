"""Masks for frames nobody has labelled: the exported network, its scorer, and batches of frames."""
