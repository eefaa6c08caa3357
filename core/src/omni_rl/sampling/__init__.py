"""Sampling: request planning, the one denoising loop, and the embedded engine."""
