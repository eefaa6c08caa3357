"""FLUX for omni-rl: one module per diffusers pipeline."""
