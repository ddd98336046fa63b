"""Simulations: the in-process Grid and the commands that run on it."""
