"""The pages of the reference, each written from code."""
