"""Sampling: noise schedules, samplers and guidance, which know a denoiser and no model."""
