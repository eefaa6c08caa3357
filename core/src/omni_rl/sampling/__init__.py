"""Sampling: planning of requests, the denoising loop, and the engine ``diffusers`` in this process."""
