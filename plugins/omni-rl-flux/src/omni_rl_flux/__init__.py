"""FLUX for omni-rl: one module for each pipeline of diffusers."""
