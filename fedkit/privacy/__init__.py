"""What is promised (plan), what it costs (accounting), how it is kept (randomness, lattice, dp_sgd)."""
