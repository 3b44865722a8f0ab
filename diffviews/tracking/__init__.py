"""Tracking: every job, layer, map and generation is an MLflow run, and is found again by its tags."""
