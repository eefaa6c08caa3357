"""The configuration: one YAML file and overrides, resolved into values. Each value keeps the layer that set it."""
