"""Judges: what is in an image, by one protocol."""
