"""Readers of the legacy layout: the files of the tool before this one, read as they are."""
