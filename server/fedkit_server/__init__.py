"""The coordinator, deployed."""
