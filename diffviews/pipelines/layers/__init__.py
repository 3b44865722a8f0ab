"""Layers: their hook points, their measured maps, their runs, and opening one from the nearest place."""
