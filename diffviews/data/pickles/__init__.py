"""Pickled checkpoints, read as data and never run."""
