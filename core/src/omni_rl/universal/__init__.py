"""The universal adapter: model hooks that run the diffusers pipeline itself."""
