"""A loaded diffusers pipeline: loading, adapters, weights, prompt encoding."""
