"""A hospital's own package."""
