"""The configuration: one YAML file and overrides, resolved into values that each know where they come from."""
