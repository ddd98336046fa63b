"""A site, deployed."""
