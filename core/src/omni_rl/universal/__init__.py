"""The universal adapter: model hooks that ask the diffusers pipeline itself."""
