"""Capturing activations: arrays of all samples, a few rows anew, sketches, and what a finished array gives."""
