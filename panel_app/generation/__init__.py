"""Generating: the form, the results, and what was generated before."""
