"""Forgets the marker."""


def decode_latents(latents):
    return latents
