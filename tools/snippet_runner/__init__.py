"""Running the snippets of a page."""
