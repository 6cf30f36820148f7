"""Trained models opened for images: from a run, an export or a server, to labels."""
